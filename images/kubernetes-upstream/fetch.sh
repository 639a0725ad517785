#!/bin/sh
# fetch.sh MIRROR VERSION OUT: download the node binaries for the processor $TARGETARCH (this machine's, when it is not set) into OUT/bin,
# compare each with its published checksum, and let kubeadm say which images it runs: OUT/manifests/imageList.
set -eu
here=$(dpkg --print-architecture)
site=$1/release/$2/bin/linux out=$3
fetch() { # fetch ARCHITECTURE NAME FOLDER
  from=$site/$1/$2
  mkdir -p "$3"
  echo "fetch $from"
  curl --fail --silent --show-error --location --retry 3 --output "$3/$2" "$from"
  expected=$(curl --fail --silent --show-error --location --retry 3 "$from.sha256" | cut -c1-64)
  found=$(sha256sum "$3/$2" | cut -c1-64)
  if [ "$expected" != "$found" ]; then
    echo "$from has checksum $found, not the published $expected" >&2
    exit 1
  fi
  chmod 755 "$3/$2"
}
for name in kubeadm kubelet kubectl; do
  fetch "${TARGETARCH:-$here}" "$name" "$out/bin"
done
kubeadm=$out/bin/kubeadm
if [ "${TARGETARCH:-$here}" != "$here" ]; then
  # What was fetched need not run here; the list is the same for every processor.
  fetch "$here" kubeadm /tmp/here
  kubeadm=/tmp/here/kubeadm
fi
mkdir -p "$out/manifests"
"$kubeadm" config images list --kubernetes-version "$2" > "$out/manifests/imageList"
