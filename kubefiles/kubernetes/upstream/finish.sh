#!/bin/sh
# What depends on the version, once the binaries are in place.
set -eu
printf 'kubernetes: %s\n' "$VERSION" >> etc/slipway.yaml
