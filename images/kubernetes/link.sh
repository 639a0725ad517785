#!/bin/sh
# link.sh VERSION OUT: link every Kubernetes program into OUT, stamped with VERSION (v1.20.2), and note which source package they are from
# in OUT/status.d, as `record` does for packages.
set -eu
version=$1 out=$2
minimum=1.20.2
# What the suite has today; our changes to it fit this minor version only.
found=$(dpkg-parsechangelog --show-field Version)
echo "compiled from the source package kubernetes $found"
if dpkg --compare-versions "$found" lt "$minimum" || dpkg --compare-versions "$found" ge 1.21~; then
  echo "link.sh: the archive has kubernetes $found; $minimum or newer, of the same minor version, is needed" >&2
  exit 1
fi
minor=${version#v1.}
stamps=
# Both import paths: with the first alone kubeadm calls itself v0.0.0.
for prefix in '' k8s.io/kubernetes/vendor/; do
  for package in component-base client-go/pkg; do
    path="${prefix}k8s.io/$package/version"
    [ "$package" = client-go/pkg ] && path="${prefix}k8s.io/client-go/pkg/version"
    stamps="$stamps -X $path.gitVersion=$version -X $path.gitMajor=1 -X $path.gitMinor=${minor%%.*} -X $path.gitTreeState=clean"
    stamps="$stamps -X $path.gitCommit=debian -X $path.buildDate=1970-01-01T00:00:00Z"
  done
done
mkdir -p "$out/status.d"
cat > "$out/status.d/kubernetes" <<RECORD
Package: kubernetes
Version: $found
Architecture: source
Maintainer: $(sed -n 's/^Maintainer: //p' debian/control)
Status: install ok installed
RECORD
for name in kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
  go build -ldflags "-s -w $stamps" -o "$out/$name" "./cmd/$name"
done
