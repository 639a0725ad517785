#!/bin/sh
# Let a timer bring manifests back, and start the kubelet, should the command be killed meanwhile.
#
#   AFTER   seconds
#   RETURN  the text of the script that does it
#   STATE   the folder of slipway

. ./disarm_return.sh
mkdir -p $STATE
printf '%s' "$RETURN" > $STATE/return.sh
systemd-run --quiet --unit=slipway-return --on-active="${AFTER}s" /bin/sh $STATE/return.sh || exit 1
