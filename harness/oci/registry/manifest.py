"""Manifests and indexes as registries serve them: which types are accepted, and whether the bytes are one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.model import DOCKER_INDEX, DOCKER_MANIFEST, INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, Descriptor, digest_of
from harness.oci.reference import is_digest
from harness.oci.registry.errors import excerpt

ACCEPT = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
"""Media types requested by default."""

MANIFEST_LIMIT = 4 << 20
"""Bytes. The size that the distribution specification lets a registry refuse; nothing honest is larger."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest or index, byte for byte as it was served, and the host that served it."""

    data: bytes
    media_type: str
    digest: str
    source: str = ""

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES


def check_manifest(data: bytes, content_type: str) -> str:
    """The media type of a manifest or index. Raises ValueError when ``data`` is neither."""
    try:
        value = untrusted.json_object(data, what="manifest")
    except StoreError as wrong:
        raise ValueError(f"answers something else as manifest: {wrong.message.removeprefix('manifest: ')}: {excerpt(data)}") from wrong
    if value.get("schemaVersion") == 1:
        raise ValueError("has it only as schema 1, the image format of before 2017, which no runtime of today reads")
    shaped = _media_type_by_shape(value)
    named = content_type.partition(";")[0].strip().lower()
    written = value.get("mediaType")
    supported = (*INDEXES, *MANIFESTS)
    media_type = next((candidate for candidate in (named, written, shaped) if candidate in supported), None)
    if shaped is None or media_type is None or (media_type in INDEXES) != (shaped in INDEXES):
        raise ValueError("answers JSON that is neither manifest nor index")
    return media_type


def _media_type_by_shape(value: Mapping[str, Any]) -> str | None:
    if value.get("schemaVersion") != 2:
        return None
    if _descriptors(value.get("manifests")):
        return OCI_INDEX
    return OCI_MANIFEST if _descriptors(value.get("layers")) and _descriptors([value.get("config")]) else None


def _descriptors(value: object) -> bool:
    """Return True for a list of valid descriptors."""
    if not isinstance(value, list):
        return False
    try:
        return all(is_digest(Descriptor.from_json({"mediaType": "", **item}).digest) for item in value)
    except (TypeError, ValueError):
        return False


def check_digest(data: bytes, asked: str | None, said: str | None) -> None:
    """Raises ValueError when ``data`` has another digest than ``asked`` for, or than the registry ``said``."""
    digest = digest_of(data)
    if asked is not None and asked != digest:
        raise ValueError(f"answers a manifest with digest {digest} instead of {asked}")
    if said is not None and said.startswith("sha256:") and said != digest:
        raise ValueError(f"answers a manifest with digest {digest} and calls it {said}")
