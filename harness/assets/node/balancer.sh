#!/bin/sh
# Run haproxy; SIGHUP: its configuration has changed. haproxy cannot start itself again from where it lies, so this script does: the new
# process takes over the listeners of the old one, and the old one serves the connections that it has to their end. No connection is
# refused or cut.
#
#   ROOTFS  the rootfs of the cluster
#   STATE   the folder of slipway

set -u
config=$STATE/balancer.cfg
start() { $ROOTFS/bin/haproxy -db -f $config "$@" & current=$!; }
again() { if $ROOTFS/bin/haproxy -c -q -f $config; then start -x $STATE/balancer.sock -sf "$current"; fi; }
trap again HUP
start
# A signal ends the wait, though not what is waited for.
while kill -0 "$current" 2>/dev/null; do wait "$current"; done
exit 1
