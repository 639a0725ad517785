#!/bin/sh
# Bring manifests back that were away and that nothing has replaced.
#
#   ASIDE      a path for what is being written: not in the folder of the manifests, of which the kubelet takes every file for a pod
#   AWAY       the folder in which they are
#   MANIFESTS  the folder of the manifests

for path in $AWAY/*.yaml; do
  name=${path##*/}
  if [ -e "$path" ] && [ ! -e $MANIFESTS/"$name" ]; then
    cp -p "$path" $ASIDE && mv -f $ASIDE $MANIFESTS/"$name" || exit 1
  fi
done
rm -rf $AWAY
