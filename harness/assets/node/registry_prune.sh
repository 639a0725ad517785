#!/bin/sh
# Remove from the storage of a registry all files that are not listed. Standard input is the list, and `end`: a connection that is lost must
# not make it shorter. Names are removed before the blobs that they lead to.
#
#   STATE    the folder of slipway
#   STORAGE  the storage
#
# Prints the files.

cat > $STATE/wanted.list
[ "$(tail -n 1 $STATE/wanted.list)" = end ] || { echo 'the list of files did not arrive whole' >&2; exit 1; }
cd $STORAGE || exit 0
for kind in repositories blobs; do
  find docker/registry/v2/$kind -type f \( -name link -o -name data \) | grep -vxFf $STATE/wanted.list | while IFS= read -r path; do
    rm -f "$path"; echo "$path"
  done
done
find docker/registry/v2 -mindepth 2 -type d -empty -delete
rm -f $STATE/wanted.list
