#!/bin/sh
# Remove every file that `place.sh` ever placed, and the folders made for them; bring back what had stood there. What is kept of it goes once
# all of it is back.
#
#   STATE  the folder of slipway

set -u
state=$STATE
[ -e "$state/placed" ] || exit 0
missing=
while IFS= read -r path; do
  rm -f "$path"
  if [ -e "$state/saved$path" ] || [ -L "$state/saved$path" ]; then
    mkdir -p "$(dirname "$path")"
    cp -a "$state/saved$path" "$path" || missing=1
  fi
done < "$state/placed"
[ -z "$missing" ] || { echo "files that stood here before could not be brought back; they are in $state/saved" >&2; exit 1; }
sort -r "$state/folders" 2>/dev/null | while IFS= read -r path; do rmdir "$path" 2>/dev/null; done
rm -rf "$state/placed" "$state/folders" "$state/saved"
