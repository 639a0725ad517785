#!/bin/sh
# What depends on the version, once the programs and the list of images that kubeadm names are in place.
set -eu
list=manifests/imageList
pause=$(grep '/pause:' "$list") || { echo "kubeadm names no pause image in $list" >&2; exit 1; }
printf 'kubernetes: %s\npauseImage: %s\n' "$VERSION" "$pause" >> etc/slipway.yaml
sed -n 's/^ *\(- \)*image: *//p' etc/addons/*.yaml | sort -u | while read -r image; do
  grep -qxF -e "$image" "$list" || echo "$image" >> "$list"
done
