"""Blobs of a CloudImage in the store."""

from __future__ import annotations

from collections.abc import Iterable

from harness import errors
from harness.cloudimage.model import BLOB, ImageSet
from harness.errors import StoreError
from harness.oci.model import Descriptor
from harness.oci.store import Store


def plain(layer: Descriptor) -> Descriptor:
    return Descriptor(layer.media_type, layer.digest, layer.size)


def as_layers(images: ImageSet) -> list[Descriptor]:
    return [Descriptor(BLOB, blob.digest, blob.size) for blob in images.blobs]


def check_blobs(store: Store, blobs: Iterable[Descriptor]) -> None:
    wrong = store.lacks(blobs)
    if wrong:
        named, details = errors.summary(wrong)
        raise StoreError(f"blob {named}: missing or cut short in {store.root}", hint="build, pull or load the image again", details=details)
