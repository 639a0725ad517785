#!/bin/sh
# Measure how fast a disk is as etcd writes its log: one small block at a time, each on the disk before the next. The first one may have to
# find its place.
#
# Prints lines `sync SECONDS`.

LC_ALL=C; export LC_ALL
folder=/var/lib/etcd; while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
file=$folder/.slipway-speed-of-disk
now() { read -r up _ < /proc/uptime; echo "${up%.*}${up#*.}"; }
began=$(now); count=0
while [ $count -lt 60 ] && [ $(($(now) - began)) -lt 40 ]; do
  dd if=/dev/zero of="$file" bs=2300 count=1 conv=notrunc oflag=dsync 2>&1
  count=$((count + 1))
done | sed -n 's/.* copied, \([0-9.e-]*\) s.*/sync \1/p' | sed 1d
rm -f "$file"
