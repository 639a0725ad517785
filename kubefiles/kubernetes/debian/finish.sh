#!/bin/sh
# What depends on the version, once the binaries are in place.
set -eu
printf 'kubernetes: %s\n' "$VERSION" >> etc/slipway.yaml
mkdir -p manifests
for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
  echo "slipway.dev/$name:$VERSION"
done > manifests/imageList
sed -n -e 's/^pauseImage: //p' -e 's#^etcdImageTag: #slipway.dev/etcd:#p' etc/slipway.yaml >> manifests/imageList
