#!/bin/sh
# A function that writes to the disks all file systems on which steps write, each once. Without coreutils' option it writes everything.
#
#   STATE  the folder of slipway

devices=" "
synced() {
  for place in / /etc /usr /opt /root /var /var/lib "$STATE" /var/lib/kubelet /var/lib/containerd /var/lib/etcd; do
    device=$(stat -c %d "$place" 2> /dev/null) || continue
    case $devices in *" $device "*) continue ;; esac
    devices="$devices$device "
    sync -f "$place" 2> /dev/null || { sync; return; }
  done
}
