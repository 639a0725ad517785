"""The words of the OCI image specification (v1): media types, descriptors, platforms, and JSON that always has the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform as machine
from collections.abc import Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.reference import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEXES = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
GZIP_LAYERS = (OCI_LAYER_GZIP, DOCKER_LAYER_GZIP)

LARGEST_MANIFEST = 32 << 20
"""Bytes of an index or manifest: they are read as one."""

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation under which an OCI image layout keeps the name of an entry of its index.json."""

EPOCH = "1970-01-01T00:00:00Z"
"""Every time that is written into an artifact, so that the same inputs give the same digest."""

_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm", "i386": "386"}


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no blanks and only ASCII: equal values have equal bytes, and so equal digests."""
    # ASCII, because file names need not be UTF-8: what Python keeps of such bytes cannot be encoded otherwise.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(data: bytes) -> str:
    """``sha256:...`` of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclasses.dataclass(frozen=True, order=True)
class Platform:
    """Platform of an image, in Go's terms: ``linux/amd64``, ``linux/arm/v7``."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``linux/arm64``, or only ``arm64``; ``x86_64`` and ``aarch64`` are understood. Raises ValueError."""
        parts = text.strip().lower().split("/")
        if len(parts) == 1:
            parts.insert(0, "linux")
        if len(parts) > 3 or not all(parts):
            raise ValueError(f"{text!r} is not a platform: write os/architecture, as in linux/amd64")
        return cls(*parts).normal()

    @classmethod
    def host(cls) -> Platform:
        """Linux on the processor of this machine."""
        return cls("linux", machine.machine().lower()).normal()

    def normal(self) -> Platform:
        """The one spelling of a platform that has several: ``arm64/v8`` is ``arm64``, ``arm`` is ``arm/v7``."""
        architecture = _ARCHITECTURES.get(self.architecture, self.architecture)
        variant = self.variant
        if (architecture, variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
            variant = ""
        if architecture == "arm" and not variant:
            variant = "v7"
        return Platform(self.os, architecture, variant)

    def matches(self, other: Platform) -> bool:
        return self.normal() == other.normal()

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def to_json(self) -> dict[str, str]:
        plain = {"architecture": self.architecture, "os": self.os}
        return {**plain, "variant": self.variant} if self.variant else plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        """Raises ValueError when it is not the JSON of a platform."""
        if not isinstance(value, Mapping):
            raise ValueError(f"not a platform: {_excerpt(value)}")
        fields = tuple(value.get(name) or "" for name in ("os", "architecture", "variant"))
        if not all(isinstance(field, str) and field.isascii() and field.isprintable() for field in fields):
            raise ValueError(f"not a platform: {_excerpt(value)}")
        return cls(*fields)


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """Points to a blob: what it is, its digest, its size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str = ""
    """Artifact type of a referrer (a signature, an SBOM); empty for anything else."""

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.platform:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Descriptor:
        """Raises ValueError when it is not the JSON of a descriptor: text, a digest, a whole number, text by name."""
        try:
            media_type, digest, platform = value["mediaType"], value["digest"], value.get("platform")
            artifact_type = value.get("artifactType") or ""
            size = untrusted.integer(value["size"], what="size")
            if (
                not isinstance(media_type, str)
                or not isinstance(artifact_type, str)
                or not isinstance(digest, str)
                or not is_digest(digest)
            ):
                raise ValueError("a field is not of its type")
            return cls(
                media_type, digest, size, texts(value.get("annotations")), Platform.from_json(platform) if platform else None, artifact_type
            )
        except (KeyError, TypeError, AttributeError, ValueError, StoreError) as wrong:
            raise ValueError(f"not a descriptor: {_excerpt(value)}") from wrong


def texts(value: object) -> dict[str, str]:
    """Text by name, as annotations and labels are; empty for None. Raises ValueError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and isinstance(text, str) for key, text in value.items()):
        raise ValueError(f"is not text by name: {_excerpt(value)}")
    return dict(value)


def _excerpt(value: object) -> str:
    return untrusted.shown(repr(value)[:200])
