#!/bin/sh
# pause.sh SOURCE OUT: compile the static pause for the processor $TARGETARCH, with a cross compiler when that is not this machine's.
set -eu
compiler=gcc
if [ "${TARGETARCH:-$(dpkg --print-architecture)}" != "$(dpkg --print-architecture)" ]; then
  case $TARGETARCH in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) machine=$TARGETARCH ;;
  esac
  apt-get -qq update
  apt-get -qq install -y --no-install-recommends "gcc-$(echo $machine | tr _ -)-linux-gnu" "libc6-dev-$TARGETARCH-cross"
  rm -rf /var/lib/apt/lists/*
  compiler=$machine-linux-gnu-gcc
fi
mkdir -p "$(dirname "$2")"
"$compiler" -Os -static -s -o "$2" "$1"
