#!/bin/sh
# Start what listens for a while, with Perl or Python, whichever is there.
#
#   "$@"    a word that tells it from other programs, an address, a UDP port or 0, TCP ports
#   PERL    the program
#   PYTHON  the same program
#
# Prints `listening PID`, and the ports.

if perl -MIO::Socket::IP -MIO::Select -MPOSIX -e 1 2>/dev/null; then
perl - "$@" <<END
$PERL
END
else
for python in python3 /usr/libexec/platform-python; do
if command -v $python > /dev/null 2>&1; then
$python - "$@" <<END
$PYTHON
END
break
fi
done
fi
