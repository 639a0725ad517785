#!/bin/sh
# Stop the kubelet and all parts of the control plane.
#
#   PARTS  words: the parts

. ./running.sh
systemctl stop kubelet
end=$(($(date +%s) + 60))
while ids=$(for part in $PARTS; do running "$part"; done); [ -n "$ids" ]; do
  for id in $ids; do ctr -n k8s.io tasks kill -s TERM "$id"; done > /dev/null 2>&1
  [ "$(date +%s)" -lt "$end" ] || { echo "still running: $ids" >&2; exit 1; }
  sleep 0.5
done
true
