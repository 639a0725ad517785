"""Bases of a delta: images and blobs that its receiver has, in a store or in archives that were sent before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import StoreError
from harness.oci.archive import selection
from harness.oci.archive.index import ArchiveBase, Index
from harness.oci.archive.source import blob_of, opened, read_index, safe_name
from harness.oci.archive.volumes import DamagedError
from harness.oci.graph import attached_to, walk
from harness.oci.model import Descriptor
from harness.oci.store import Store


def base_of(store: Store, old: str | Path) -> ArchiveBase:
    """Images and blobs that the receiver of OLD has: an image of the store, or all images of an archive and of its bases."""
    if isinstance(old, Path):
        return _base_in_file(old)
    image = store.resolve(old)
    name = next((name for name, descriptor in store.names().items() if descriptor.digest == image.digest), image.digest)
    with contextlib.suppress(ValueError, StoreError):
        name = selection.named(store, store.names(), old)[0]
    return ArchiveBase(((name, image.digest),), frozenset(blob.digest for blob in walk(store, image)))


def _base_in_file(path: Path) -> ArchiveBase:
    blobs: set[str] = set()
    index: Index | None = None
    with opened(path) as source:
        for entry in source.tar:
            name = safe_name(entry)
            if digest := blob_of(name):
                blobs.add(digest)
            elif name == "index.json":
                index = read_index(source, entry)
            source.skip()
        if index is None:
            raise DamagedError(f"{path} is not an OCI archive: it has no index.json")
    return ArchiveBase(
        tuple((image.name, image.root.digest) for image in index.images if attached_to(image.name) is None),
        frozenset(blobs.union(*(base.blobs for base in index.bases))),
    )


def left_out(blobs: Sequence[Descriptor], bases: Sequence[ArchiveBase]) -> Iterator[ArchiveBase]:
    """The bases, with the blobs that are left out: each at the first that has it."""
    remaining = {blob.digest for blob in blobs}
    for base in bases:
        yield ArchiveBase(base.images, base.blobs & remaining)
        remaining -= base.blobs
