#!/bin/sh
# link.sh VERSION OUT: link every Kubernetes program into OUT, stamped with VERSION (v1.20.2).
set -eu
version=$1 out=$2
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
mkdir -p "$out"
for name in kubeadm kubelet kubectl kube-apiserver kube-controller-manager kube-scheduler kube-proxy; do
  go build -ldflags "-s -w $stamps" -o "$out/$name" "./cmd/$name"
done
