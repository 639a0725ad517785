#!/bin/sh
# Save the certificates of a control-plane node before they are renewed.
#
#   BEFORE      the folder of the copy; it has a file `unfinished` until the renewal ends
#   KUBERNETES  the folder of pki/ and of the kubeconfigs

set -eu
umask 077
to=$BEFORE
# After a renewal that failed, its copy is the one of the old certificates: what is there now is half renewed.
if [ -e $BEFORE/unfinished ]; then to=$BEFORE-again; else rm -rf $BEFORE-again; fi
rm -rf $to.part
mkdir -p $to.part
cp -a $KUBERNETES/pki $KUBERNETES/*.conf $to.part/
: > $to.part/unfinished
rm -rf $to
mv $to.part $to
