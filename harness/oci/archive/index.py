"""index.json of an archive: which images are in it, and what it leaves out because the receiver has it.

A **delta** says so in the annotation ``dev.slipway.since``, a JSON list: ``{"images": [{"name", "digest"}], "blobs": [digest, ...]}``
for each base, with the blobs that are left out because of it. An image of which only some platforms are in the archive has them in
``dev.slipway.platforms`` of its entry: ``linux/amd64,linux/arm64``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.archive.volumes import DamagedError
from harness.oci.graph import is_manifest
from harness.oci.model import REF_NAME, Descriptor, Platform, canonical_json, texts
from harness.oci.reference import Reference, is_digest

LARGEST = 16 << 20
"""Bytes of an index.json."""
SINCE = "dev.slipway.since"
PLATFORMS = "dev.slipway.platforms"

CONTAINERD_NAME = "io.containerd.image.name"


@dataclasses.dataclass(frozen=True)
class ArchiveBase:
    """Images that the receiver has, and the digests of their blobs."""

    images: tuple[tuple[str, str], ...]
    """Name and digest of each."""
    blobs: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        return {"images": [{"name": name, "digest": digest} for name, digest in self.images], "blobs": sorted(self.blobs)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ArchiveBase:
        """Raises KeyError, TypeError or ValueError."""
        images = tuple((untrusted.shown(str(image["name"])), _digest(image["digest"])) for image in value["images"])
        return cls(images, frozenset(_digest(digest) for digest in value["blobs"]))


@dataclasses.dataclass(frozen=True)
class Image:
    """One entry of index.json. ``platforms``: those that are in the archive, none for all."""

    name: str
    root: Descriptor
    platforms: tuple[Platform, ...] = ()

    def to_json(self) -> dict[str, Any]:
        annotations = {REF_NAME: self.name}
        if self.platforms:
            annotations[PLATFORMS] = ",".join(str(platform) for platform in self.platforms)
        return Descriptor(self.root.media_type, self.root.digest, self.root.size, annotations).to_json()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Image:
        """Raises ValueError, or DamagedError that says more."""
        entry = Descriptor.from_json(value)
        name = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME)
        if not name:
            raise DamagedError(f"the archive does not say the name of {entry.digest}", hint="save it with a name, as `slipway save` does")
        if not is_manifest(entry):
            raise DamagedError(f"{untrusted.shown(name)} in the archive is {untrusted.shown(entry.media_type)}, which is not an image")
        platforms = tuple(Platform.parse(text) for text in entry.annotations.get(PLATFORMS, "").split(",") if text)
        return cls(Reference.parse(name).familiar, Descriptor(entry.media_type, entry.digest, entry.size), platforms)


def _digest(value: object) -> str:
    if not isinstance(value, str) or not is_digest(value):
        raise ValueError(f"{untrusted.shown(str(value))[:80]!r} is not a digest")
    return value


@dataclasses.dataclass(frozen=True)
class Index:
    """Content of index.json. ``bases`` have the blobs that are left out; it is empty when none are."""

    images: tuple[Image, ...]
    bases: tuple[ArchiveBase, ...] = ()

    def data(self) -> bytes:
        value: dict[str, Any] = {"schemaVersion": 2, "manifests": [image.to_json() for image in self.images]}
        if self.bases:
            value["annotations"] = {SINCE: canonical_json([base.to_json() for base in self.bases]).decode()}
        return canonical_json(value)

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Raises DamagedError when it is not an index, or has an entry that is not an image or has no name."""
        try:
            value = untrusted.json_object(data, what="its index.json", limit=LARGEST)
            if not isinstance(value["manifests"], list):
                raise TypeError("manifests is not a list")
            images = tuple(Image.from_json(entry) for entry in value["manifests"])
            since = texts(value.get("annotations")).get(SINCE) or "[]"
            bases = tuple(ArchiveBase.from_json(base) for base in untrusted.json_document(since, what=SINCE, limit=LARGEST))
        except DamagedError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, StoreError) as wrong:
            raise DamagedError(f"not an OCI archive: its index.json cannot be understood: {untrusted.shown(str(wrong))}") from wrong
        if not images:
            raise DamagedError("the archive has no image")
        return cls(images, bases)
