#!/bin/sh
# Remove every file that `place.sh` ever placed, and the folders made for them; bring back what had stood there.
#
#   STATE  the folder of slipway

set -u
state=$STATE
[ -e "$state/placed" ] || exit 0
while IFS= read -r path; do
  rm -f "$path"
  if [ -e "$state/saved$path" ] || [ -L "$state/saved$path" ]; then
    mkdir -p "$(dirname "$path")"
    cp -a "$state/saved$path" "$path"
  fi
done < "$state/placed"
sort -r "$state/folders" 2>/dev/null | while IFS= read -r path; do rmdir "$path" 2>/dev/null; done
rm -rf "$state/placed" "$state/folders" "$state/saved"
