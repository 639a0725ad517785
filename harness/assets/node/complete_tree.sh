#!/bin/sh
# Make a whole tree of the files that a node has gathered, in the current folder, and put a copy where other nodes may fetch it.
# Folders and links come from the skeleton, files from anywhere; paths of earlier layers are removed.
# $work is the folder of the parcel, $place the folder that is served.
#
#   FOLDER  parcels that the node can serve
#   SMALL   blocks of 512 bytes from which on a file is shared with the copy

# shellcheck disable=SC2154
find . -mindepth 1 | sort | comm -23 - "$work/paths" | sort -r | tr '\n' '\0' | xargs -0 rm -rf --
tar -xopf "$work/skeleton.tar"
cut -d' ' -f1 "$work/modes" | sort -u | while read -r mode; do
  sed -n "s/^$mode //p" "$work/modes" | tr '\n' '\0' | xargs -0 chmod "$mode"
done
mkdir -p "$FOLDER"
# shellcheck disable=SC2154
rm -rf "$place.new"
cp -al . "$place.new"
find . -type f '(' -size "-$SMALL" -o ! -perm -004 ')' > "$work/small"
if [ -s "$work/small" ]; then tar -cf - -T "$work/small" 2> /dev/null | tar -C "$place.new" -xpf -; fi
# Read by a user without any rights. Files that are shared with the tree are world-readable; the others are copies.
find "$place.new" '(' -type d ! -perm -005 -o -type f ! -perm -004 ')' -exec chmod a+rX {} +
rm -rf "$place"
mv "$place.new" "$place"
for old in "$FOLDER"/rootfs-*; do [ "$old" = "$place" ] || rm -rf "$old"; done
