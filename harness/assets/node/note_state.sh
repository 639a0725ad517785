#!/bin/sh
# Note what a machine had before the cluster: services, folders, interfaces, settings of the kernel. Only the first time, before the
# first change.
#
#   FOLDERS   words: folders that a cluster uses
#   SETTINGS  the settings that every cluster makes, lines `NAME = VALUE`
#   STATE     the folder of slipway
#   SYSCTLS   words: names of further settings

set -e
umask 077
mode=$(stat -c %a $STATE 2>/dev/null || true)
mkdir -p $STATE
if [ ! -e $STATE/before/services ]; then
  mkdir -p $STATE/before
  cd $STATE/before
  echo "$mode" > mode
  for folder in $FOLDERS; do if [ -d "$folder" ]; then stat -c '%a %n' "$folder"; fi; done > modes
  cut -d' ' -f2- modes > folders
  ls -A /etc/cni/net.d > networks 2>/dev/null || true
  ls /sys/class/net > links
  { ip -4 route show table main; ip -6 route show table main; } 2>/dev/null | sed 's/ *$//' > routes || true
  [ -e /proc/net/ip_vs ] || echo absent > ipvs
  for name in $(printf '%s' "$SETTINGS" | sed 's/ .*//') $SYSCTLS; do
    value=$(sysctl -n "$name" 2>/dev/null) && echo "$name = $value" || true
  done > sysctl
  for unit in containerd kubelet; do
    echo "$unit $(systemctl is-enabled $unit 2>/dev/null || echo absent) $(systemctl is-active $unit 2>/dev/null || true)"
  done > services.new
  mv services.new services
fi
chmod 700 $STATE
