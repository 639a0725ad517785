#!/bin/sh
# Bring the kept manifests back that are different now.
#
#   ASIDE      a path for what is being written
#   AWAY       the folder of those that are away: none is after this
#   KEPT       the folder in which they were kept
#   MANIFESTS  the folder of the manifests
#
# Prints the parts whose manifests were different.

set -e
for path in $KEPT/*.yaml; do
  name=${path##*/}
  if ! cmp -s "$path" $MANIFESTS/"$name"; then
    cp -p "$path" $ASIDE; mv -f $ASIDE $MANIFESTS/"$name"; echo "${name%.yaml}"
  fi
done
rm -rf $AWAY
