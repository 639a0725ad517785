#!/bin/sh
# Answer one request of another machine, on standard input and output, in a root folder that holds the programs, the keys and the parcels.
# Each line of a request ends it unless it is right. The reader of the paths is given their length: it must not wait for more.
#
#   LIMIT  seconds for a request to arrive

export LC_ALL=C
# Where the options of the unit did not take effect nothing may leave.
[ "$(id -u)" != 0 ] && [ ! -e /etc/passwd ] || exit 1
{ sleep $LIMIT; kill -9 $$; } > /dev/null 2>&1 < /dev/null &
limit=$!
nonce=$(od -An -v -tx1 -N 32 /dev/urandom | tr -d ' \n')
[ ${#nonce} = 64 ] || exit 1
echo "$nonce"
IFS= read -r code && IFS= read -r name && IFS= read -r length || exit 1
case $name in '' | *[!a-z0-9-]*) exit 1 ;; esac
case $length in '' | *[!0-9]* | ????????*) exit 1 ;; esac
offer=/offers/$name
[ -s "$offer/key" ] && [ -s "$offer/list" ] && [ -d "/parcels/$name" ] || exit 1
paths=$(head -c "$length")
wanted=$({ cat "$offer/key"; printf '%s\n' "$nonce" "$name" "$paths"; } | b2sum) && [ ${#wanted} -ge 128 ] || exit 1
[ "$code" = "${wanted%% *}" ] || exit 1
unknown=$(printf '%s\n' "$paths" | sort | comm -23 - "$offer/list" | sed 's/^/x/') && [ -z "$unknown" ] || exit 1
kill $limit
cd "/parcels/$name" || exit 1
printf '%s\n' "$paths" | exec tar -b 512 --no-recursion -cf - -T -
