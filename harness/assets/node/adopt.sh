#!/bin/sh
# Mark a machine as a member of a cluster that slipway did not make, and link its programs, wherever the maker of the cluster has put them.
#
#   MARK    the file that says whose the machine is
#   OWNER   its content
#   ROOTFS  the rootfs of the cluster
#   STATE   the folder of slipway

set -e
mkdir -p "$ROOTFS/bin"
for name in kubectl kubeadm; do
  place=$(PATH=$PATH:/usr/local/bin command -v $name || true)
  if [ -n "$place" ] && [ ! -e "$ROOTFS/bin/$name" ]; then ln -sfn "$place" "$ROOTFS/bin/$name"; fi
done
printf '%s\n' "$OWNER" > "$MARK"
chmod 700 "$STATE"
