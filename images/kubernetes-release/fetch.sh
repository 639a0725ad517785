#!/bin/sh
# fetch.sh MIRROR VERSION OUT [CHECKSUMS]: download the node binaries for the processor $TARGETARCH (this machine's, when it is not set)
# into OUT/bin, verify each, and let kubeadm say which images it runs: OUT/manifests/imageList.
# CHECKSUMS are those that the user knows from elsewhere: ARCHITECTURE/NAME=SHA256,... A file that is not among them is held against what
# the mirror publishes beside it, which is worth something over https only.
set -eu
here=$(dpkg --print-architecture)
mirror=$1 site=$1/release/$2/bin/linux out=$3 stated=${4:-}
get() { # get URL FILE: not over plain http once it began with https, and no endless answers
  case $1 in https:*) set -- "$1" "$2" --proto-redir =https ;; esac
  url=$1 file=$2
  shift 2
  curl --fail --silent --show-error --location --retry 3 --max-filesize 1073741824 "$@" --output "$file" "$url"
}
fetch() { # fetch ARCHITECTURE NAME FOLDER
  from=$site/$1/$2
  expected=$(echo "$stated" | tr , '\n' | sed -n "s#^$1/$2=##p")
  said='stated'
  case ${expected:-none}/$mirror in
    none/https://*) ;;
    none/*)
      echo "$from: no checksum of $1/$2 is stated, and those of $mirror are worth nothing: it is not https" >&2
      echo "state them: --build-arg CHECKSUMS=$1/$2=SHA256,..." >&2
      exit 1 ;;
  esac
  mkdir -p "$3"
  echo "fetch $from"
  get "$from" "$3/$2"
  if [ -z "$expected" ]; then
    get "$from.sha256" "$3/$2.sha256"
    expected=$(cut -c1-64 "$3/$2.sha256")
    rm "$3/$2.sha256"
    said='published'
  fi
  found=$(sha256sum "$3/$2" | cut -c1-64)
  if [ "$expected" != "$found" ]; then
    echo "$from has checksum $found, not the $said $expected" >&2
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
