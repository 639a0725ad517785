"""A Kubefile for several platforms, whose source and version are open."""

from __future__ import annotations

from harness.oci.model import Platform

SEVERAL = """FROM scratch
ARG SOURCE=auto
ARG MIRROR=https://site.invalid
ARG VERSION=stable
COPY --from=example.test/kubernetes-${SOURCE}:${VERSION} /rootfs/ .
"""
BOTH = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
