#!/bin/sh
# fetch.sh MIRROR VERSION OUT: download the node binaries and compare each with its published checksum.
set -eu
base=$1/release/$2/bin/linux/$(dpkg --print-architecture) out=$3
mkdir -p "$out"
for name in kubeadm kubelet kubectl; do
  echo "fetch $base/$name"
  curl --fail --silent --show-error --location --retry 3 --output "$out/$name" "$base/$name"
  expected=$(curl --fail --silent --show-error --location --retry 3 "$base/$name.sha256" | cut -c1-64)
  found=$(sha256sum "$out/$name" | cut -c1-64)
  if [ "$expected" != "$found" ]; then
    echo "$base/$name has checksum $found, not the published $expected" >&2
    exit 1
  fi
  chmod 755 "$out/$name"
done
