#!/bin/sh
# Remove tables of nf_tables that are there. The machine need not have a program for that.
#
#   "$@"    the tables: family and name
#   ROOTFS  the rootfs of the cluster

nft=$ROOTFS/bin/nft; [ -x $nft ] || nft=nft
for table in "$@"; do $nft delete table $table 2>/dev/null; done
true
