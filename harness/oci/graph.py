"""The graph of an image: its index, manifests, configs and layers, followed from blob to blob."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.errors import BuildError, StoreError
from harness.oci.model import INDEXES, LARGEST_MANIFEST, MANIFESTS, Descriptor, Platform, texts
from harness.oci.store import Store
from harness.untrusted import json_object, shown

DEEPEST_INDEX = 4
"""Indexes within indexes that are followed: something deeper is a loop or an attack."""


class NestingError(StoreError):
    """Indexes within each other, deeper than ``DEEPEST_INDEX``."""


_ATTACHMENT = re.compile(r"sha256-([0-9a-f]{64})(?:\.[A-Za-z0-9._-]+)?")


def is_manifest(blob: Descriptor) -> bool:
    """Return True when it leads to other blobs."""
    return blob.media_type in (*INDEXES, *MANIFESTS)


def children(manifest: Mapping[str, Any], of: Descriptor, platforms: Sequence[Platform] = ()) -> list[Descriptor]:
    """Children of an index or manifest; of its entries for a platform only those for ``platforms``, when any are given.

    Raises StoreError when it cannot be understood, or calls itself something else than its descriptor does.
    """
    media_type = manifest.get("mediaType")
    if media_type is not None and media_type != of.media_type:
        raise StoreError(
            f"manifest {of.digest} should be {shown(of.media_type)}, but says that it is {shown(str(media_type))[:80]}",
            hint="do not use this image",
        )
    entries, below = entries_of(manifest, of.digest), below_of(manifest, of.digest)
    return [entry for entry in entries if wanted(entry.platform, platforms)] + below


def entries_of(index: Mapping[str, Any], digest: str) -> list[Descriptor]:
    """The manifests that an index lists; none for what is not an index. Raises StoreError for one that cannot be understood."""
    return _understood(digest, index, lambda: _descriptors(index.get("manifests")))


def below_of(manifest: Mapping[str, Any], digest: str) -> list[Descriptor]:
    """The config, if there is one, and the layers of an image manifest. Raises StoreError when they cannot be understood."""
    config = [manifest["config"]] if "config" in manifest else []
    return _understood(digest, manifest, lambda: [*_descriptors(config), *_descriptors(manifest.get("layers"))])


def _descriptors(value: object) -> list[Descriptor]:
    if value is not None and not isinstance(value, list):
        raise ValueError("not a list of descriptors")
    return [Descriptor.from_json(child) for child in value or ()]


def _understood(digest: str, manifest: Mapping[str, Any], parse: Callable[[], list[Descriptor]]) -> list[Descriptor]:
    try:
        # Clients in Go refuse a whole manifest for annotations that are not text by name, so no image in use has them.
        texts(manifest.get("annotations"))
        return parse()
    except ValueError as wrong:
        raise StoreError(f"manifest {digest} cannot be understood: {wrong}") from wrong


def descriptors(data: bytes) -> list[Descriptor]:
    """Descriptors in a manifest or index: its manifests, or its config and then its layers."""
    value = json_object(data, what="manifest")
    try:
        listed = value["manifests"] if "manifests" in value else [value["config"], *(value.get("layers") or ())]
        return [Descriptor.from_json({"mediaType": "", **entry}) for entry in listed]
    except (ValueError, KeyError, TypeError) as wrong:
        raise StoreError(f"a manifest cannot be understood: {wrong}") from wrong


def child_for(index: bytes, platform: Platform) -> Descriptor:
    """The entry of an index for ``platform``. Raises BuildError that says which platforms it has."""
    # Attestations (of BuildKit) stand in the index too, for the platform unknown/unknown.
    children = [child for child in descriptors(index) if child.platform is None or child.platform.os != "unknown"]
    for child in children:
        if child.platform and child.platform.matches(platform):
            return child
    if len(children) == 1 and children[0].platform is None:
        return children[0]
    platforms = sorted({str(child.platform.normal()) for child in children if child.platform})
    raise BuildError(f"does not exist for {platform}, only for {', '.join(platforms) or 'no platform at all'}")


def wanted(platform: Platform | None, platforms: Sequence[Platform]) -> bool:
    return not platforms or platform is None or any(platform.matches(one) for one in platforms)


def walk(store: Store, image: Descriptor, platforms: Sequence[Platform] = ()) -> Iterator[Descriptor]:
    """An image and all its blobs, each once, parents before children.

    Raises StoreError when a manifest is missing or damaged, or indexes nest too deep.
    """
    waiting = [(image, 1)]
    # One blob may be a manifest here and plain content of an image set there; with two sizes, one of them is wrong.
    seen: set[tuple[str, int, bool]] = set()
    for blob, depth in waiting:
        key = (blob.digest, blob.size, is_manifest(blob))
        if key not in seen:
            seen.add(key)
            yield blob
            if is_manifest(blob):
                if store.size(blob.digest) > LARGEST_MANIFEST:
                    raise StoreError(f"manifest {blob.digest} is larger than manifests may be")
                if blob.media_type in INDEXES and depth > DEEPEST_INDEX:
                    raise NestingError(f"{image.digest}: more than {DEEPEST_INDEX} indexes within each other", hint="this is not an image")
                waiting += [(child, depth + 1) for child in children(store.json(blob.digest), blob, platforms)]


def closure(store: Store, image: Descriptor, platforms: Sequence[Platform] = ()) -> list[Descriptor]:
    """An image and all its blobs. Raises StoreError when one is not in the store in full length, or a manifest is damaged."""
    blobs = list(walk(store, image, platforms))
    for blob in blobs:
        if store.size(blob.digest) != blob.size:
            raise StoreError(f"blob {blob.digest} has {store.size(blob.digest)} bytes instead of {blob.size}")
    return blobs


def attached_to(name: str) -> str | None:
    """The digest that a name like ``web:sha256-<hex>.sig`` is about (signature, SBOM, provenance), None for other names."""
    matched = _ATTACHMENT.fullmatch(name.rpartition(":")[2])
    return f"sha256:{matched[1]}" if matched else None


def attachments(names: Mapping[str, Descriptor], digests: Iterable[str]) -> dict[str, Descriptor]:
    """Return the ``names`` that belong to one of ``digests``."""
    about = set(digests)
    return {name: descriptor for name, descriptor in names.items() if attached_to(name) in about}
