"""Every blob an image consists of, hashed: index, manifests, configs, layers, the blobs of embedded images. In the store or a registry.

The digest of the index names the digests of all others, so an image is what was signed when each blob has the digest it is
named by. Nothing is believed here that was not hashed in this run.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness import cloudimage, errors, log, untrusted
from harness.errors import StoreError
from harness.oci.graph import DEEPEST_INDEX
from harness.oci.model import INDEXES, MANIFESTS, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.referrers import sha256_of, stream
from harness.oci.store import CHUNK, Store
from harness.trust.signature import RefusedError

_STREAMS = 4
"""Blobs of a registry that are read at once."""


@dataclasses.dataclass(frozen=True)
class Whole:
    """An image of which every blob is what its digest says; ``bytes`` counts each blob once."""

    digest: str
    blobs: int
    bytes: int
    absent: tuple[Platform, ...] = ()
    """Platforms that were not looked at, as they were never fetched."""


@dataclasses.dataclass(frozen=True)
class _Part:
    blob: Descriptor
    role: str

    def __str__(self) -> str:
        return f"{self.role} {self.blob.digest}"


@dataclasses.dataclass(frozen=True)
class _Place:
    """Access to bytes: ``small`` reads a verified manifest; ``check`` hashes a blob and returns its fault, or None."""

    small: Callable[[Descriptor], bytes]
    check: Callable[[Descriptor], str | None]
    workers: int


def check_stored(store: Store, name: str, image: Descriptor) -> Whole:
    """Hash every blob of an image of the store. Raises RefusedError that lists each one which is damaged, cut short or missing.

    A platform whose rootfs is not here at all was not fetched; it is reported as absent, and at least one must be in the store.
    """

    def check(blob: Descriptor) -> str | None:
        if not store.has(blob.digest):
            return "is missing"
        if store.size(blob.digest) != blob.size:
            return f"is damaged: it has {store.size(blob.digest)} bytes instead of {blob.size}"
        with store.open(blob.digest) as file:
            digest = sha256_of(iter(lambda: file.read(CHUNK), b""))
        return None if digest == blob.digest else "is damaged: its bytes have another digest"

    place = _Place(lambda blob: store.read(blob.digest), check, os.cpu_count() or 1)
    return _check(name, image, place, _absent(store, image))


def _absent(store: Store, image: Descriptor) -> tuple[Platform, ...]:
    try:
        entries = [Descriptor.from_json(entry) for entry in store.json(image.digest)["manifests"]]
    except (StoreError, ValueError, KeyError, TypeError):
        return ()  # what is wrong with it is said where it is looked at
    roots = {entry.platform: entry for entry in entries if entry.platform and cloudimage.KIND not in entry.annotations}
    absent = tuple(platform for platform, entry in roots.items() if not store.has(entry.digest))
    return absent if len(absent) < len(roots) else ()


def check_remote(client: Client, reference: Reference, image: Descriptor) -> Whole:
    """Hash every blob of an image in a registry, streamed: nothing is kept. Raises RefusedError, or RemoteError."""

    def small(blob: Descriptor) -> bytes:
        return client.manifest(Reference(reference.domain, reference.path, None, blob.digest)).data

    def check(blob: Descriptor) -> str | None:
        digest = sha256_of(stream(client, reference, blob))
        return None if digest == blob.digest else "is damaged: its bytes have another digest"

    return _check(str(reference), image, _Place(small, check, _STREAMS))


def _check(name: str, image: Descriptor, place: _Place, absent: tuple[Platform, ...] = ()) -> Whole:
    if image.media_type not in (*INDEXES, *MANIFESTS):
        # Else it would count as one blob, and nothing below it would be looked at: what the name says is not part of what was signed.
        raise RefusedError(f"{name}: {image.digest} is refused: it is called {image.media_type}, which is not an image")
    damaged: list[str] = []
    parts: dict[str, _Part] = {}
    manifests = {*INDEXES, *MANIFESTS}
    for part in _parts(_Part(image, "index"), place, damaged, set(), absent):
        parts.setdefault(part.blob.digest, part)
    plain = [part for part in parts.values() if part.blob.media_type not in manifests]
    with log.step(f"hash every blob of {name}") as shown, concurrent.futures.ThreadPoolExecutor(place.workers) as pool:
        for part, problem in zip(plain, pool.map(lambda part: _problem(place, part.blob), plain), strict=True):
            if problem:
                damaged.append(f"{part} {problem}")
        total = sum(part.blob.size for part in parts.values())
        shown.note = f"{len(parts)} blobs, {log.size(total)}"
    if damaged:
        named, details = errors.summary(damaged)
        hint = "pull, load or build the image again; the good blob replaces the damaged one"
        raise RefusedError(f"{name}: {image.digest} is refused: {named}", hint=hint, details=details)
    return Whole(image.digest, len(parts), total, absent)


def _problem(place: _Place, blob: Descriptor) -> str | None:
    try:
        return place.check(blob)
    except StoreError as problem:
        return f"cannot be read: {problem.message}"


def _parts(
    part: _Part, place: _Place, damaged: list[str], seen: set[str], absent: tuple[Platform, ...] = (), depth: int = 0
) -> Iterator[_Part]:
    """A part and all below it. Manifests are read here, and are whole when they can be; what is below a damaged one is not known."""
    yield part
    if part.blob.media_type not in (*INDEXES, *MANIFESTS) or part.blob.digest in seen:
        return
    seen.add(part.blob.digest)
    try:
        data = place.small(part.blob)
        if len(data) != part.blob.size:
            raise StoreError(f"it has {len(data)} bytes instead of {part.blob.size}")
    except StoreError as problem:
        damaged.append(f"{part} is damaged or missing: {problem.message}")
        return
    try:
        if depth > DEEPEST_INDEX:
            raise ValueError(f"more than {DEEPEST_INDEX} indexes within each other")
        children = list(_children(untrusted.json_object(data, what=""), part))
    except (StoreError, ValueError, KeyError, TypeError, AttributeError) as wrong:
        damaged.append(f"{part} cannot be understood: {wrong}")
        return
    for child in children:
        if child.blob.platform is None or child.blob.platform not in absent:
            yield from _parts(child, place, damaged, seen, depth=depth + 1)


def _children(manifest: Mapping[str, Any], parent: _Part) -> Iterator[_Part]:
    for value in manifest.get("manifests") or ():
        entry = Descriptor.from_json(value)
        kind = "image set manifest" if entry.annotations.get(cloudimage.KIND) == cloudimage.IMAGESET else "manifest"
        yield _Part(entry, f"{kind} of {entry.platform}" if entry.platform else kind)
    of = parent.role.removeprefix("manifest of ") if parent.role.startswith("manifest of ") else parent.role
    if "config" in manifest:
        yield _Part(Descriptor.from_json(manifest["config"]), f"config of {of}")
    for value in manifest.get("layers") or ():
        layer = Descriptor.from_json(value)
        yield _Part(layer, "blob of an embedded image" if layer.media_type == cloudimage.BLOB else f"layer of {of}")
