#!/bin/sh
# Take off a machine what the keeper of IPVS rules, and kube-proxy, left in its kernel.
#
#   ROOTFS  the rootfs of the cluster
#   STATE   the folder of slipway

if [ -e $STATE/ipvs.sh ]; then sh $STATE/ipvs.sh clean; fi
# kube-proxy may have made rules as well. Where there were none before us, none stay, and the kernel need not hold what nobody uses.
if [ "$(cat "$STATE/before/ipvs" 2>/dev/null)" = absent ] && [ -e /proc/net/ip_vs ]; then
  $ROOTFS/bin/ipvsadm -C 2>/dev/null
  for module in $(sed -n 's/^\(ip_vs_[a-z]*\) .*/\1/p' /proc/modules) ip_vs; do modprobe -r $module 2>/dev/null; done
fi
