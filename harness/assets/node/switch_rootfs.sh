#!/bin/sh
# Put the next rootfs into its place; programs that run from the former one go on. Each line may be the last one before a kill: the same
# again finishes it.
#
#   CURRENT   the file with the name of the rootfs that is in place
#   FORMER    the folder of the former rootfs
#   NAME      the name of the next one
#   NEXT      its folder
#   RENDERED  the list of the rendered files
#   ROOTFS    the rootfs of the cluster
#   STAGED    the file with the name of the one that waits

set -e
if [ "$(cat $CURRENT 2>/dev/null)" != "$NAME" ]; then
  [ "$(cat $STAGED 2>/dev/null)" = "$NAME" ] || { echo 'its next rootfs is not there' >&2; exit 1; }
  if [ -d $NEXT ]; then
    if [ -d $ROOTFS ]; then rm -rf $FORMER; mv $ROOTFS $FORMER; fi
    mv $NEXT $ROOTFS
  fi
  echo "$NAME" > $CURRENT
fi
rm -rf $NEXT $STAGED
if [ -e $RENDERED.next ]; then mv $RENDERED.next $RENDERED; fi
