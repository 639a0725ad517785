#!/bin/sh
# Put the complete tree in the current folder where the next rootfs is expected. Launched programs may write to small files: the next tree
# shares none of these with the one that runs. $work is the folder of the parcel.
#
#   NEXT    the next rootfs
#   SMALL   blocks of 512 bytes from which on a file may be shared
#   STAGED  the file with the name of the next rootfs

# shellcheck disable=SC2154
rm -rf "$NEXT" "$STAGED" "$work/own"
find . -type f -size "-$SMALL" -links +1 > "$work/shared"
if [ -s "$work/shared" ]; then
  mkdir "$work/own"
  tar -cf - -T "$work/shared" | tar -C "$work/own" -xpf -
  tr '\n' '\0' < "$work/shared" | xargs -0 rm -f --
  tar -C "$work/own" -cf - . | tar -xpf -
fi
mv "$work/tree" "$NEXT"
