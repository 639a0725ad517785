#!/bin/sh
# What depends on the version and on the parts that were chosen, once the programs and the list of images that kubeadm names are in place.
set -eu
[ "$NETWORK" = flannel ] || rm bin/cni/flannel-bridge
list=manifests/imageList
pause=$(grep '/pause:' "$list") || { echo "kubeadm names no pause image in $list" >&2; exit 1; }
printf 'kubernetes: %s\npauseImage: %s\n' "$VERSION" "$pause" >> etc/slipway.yaml
find etc/addons -name '*.yaml' -exec sed -n 's/^ *\(- \)*image: *//p' {} + | sort -u | while read -r image; do
  grep -qxF -e "$image" "$list" || echo "$image" >> "$list"
done
