#!/bin/sh
# Print what a machine has for IPVS, in lines of `key value`. Nothing on it is changed.
#
#   CONFIG   the file of the keeper's configuration
#   MARK     the file with the virtual address of the cluster
#   MODULES  words: modules of the kernel
#   STATE    slipway's folder

PATH=$PATH:/usr/sbin:/sbin
if [ -e /proc/net/ip_vs ]; then echo 'there ip_vs'; fi
for name in $MODULES; do
  if [ -d "/sys/module/$name" ]; then echo "there $name"; fi
  # `install` in its place: the administrator blocks the module.
  if said=$(modprobe -n -v "$name" 2>/dev/null); then case $said in *install*) ;; *) echo "loadable $name" ;; esac; fi
done
if [ "$(cat /proc/sys/kernel/modules_disabled 2>/dev/null)" = 1 ]; then echo 'sealed yes'; fi
echo "capabilities $(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)"
if [ -e "$CONFIG" ]; then echo 'balancer ipvs'; elif [ -e "$STATE/balancer.cfg" ]; then echo 'balancer haproxy'; fi
if [ -e "$MARK" ]; then echo "virtual $(cat "$MARK")"; fi
ip -o addr show scope global 2>/dev/null | awk '{ print "network", $4 }'
