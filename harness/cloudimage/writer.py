"""CloudImage -> configs, manifests and index in the store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cloudimage.blobs import as_layers, check_blobs, plain
from harness.cloudimage.model import CLOUDIMAGE, IMAGESET, IMAGESET_CONFIG, INFO, KIND, PlatformImage
from harness.errors import StoreError
from harness.oci.model import EPOCH, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.store import Store


def write(store: Store, platforms: Sequence[PlatformImage]) -> Descriptor:
    """Write configs, manifests and index of a CloudImage; the descriptor of the index, which tag() can name.

    The same values give the same digest. Hold ``store.shared_lease()`` around this and the tag. Raises StoreError when a layer or
    a blob of an embedded image is not in the store, listing what is missing.
    """
    if not platforms:
        raise StoreError("a CloudImage needs at least one platform")
    in_order = sorted(platforms, key=lambda image: str(image.platform))
    if len({str(image.platform.normal()) for image in in_order}) < len(in_order):
        raise StoreError(f"two images for one platform: {', '.join(str(image.platform) for image in in_order)}")
    entries: list[dict[str, Any]] = []
    for image in in_order:
        check_blobs(store, [*image.layers, *as_layers(image.images)])
        entries += [_write_rootfs(store, image).to_json(), _write_images(store, image).to_json()]
    return write_index(store, entries)


def write_index(store: Store, entries: Sequence[Mapping[str, Any]]) -> Descriptor:
    """Write the index of a CloudImage that has these entries (descriptors as JSON), in this order."""
    return _put(
        store, OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), "annotations": {KIND: CLOUDIMAGE}}
    )


def _write_rootfs(store: Store, image: PlatformImage) -> Descriptor:
    made_by_history = sum(not step.empty for step in image.history)
    if len(image.layers) != len(image.diff_ids) or (image.history and len(image.layers) != made_by_history):
        raise StoreError(
            f"the rootfs for {image.platform} has {len(image.layers)} layers, {len(image.diff_ids)} diff ids "
            f"and {made_by_history} history entries with a layer"
        )
    config = {
        **image.platform.to_json(),
        "created": EPOCH,
        "config": {"Labels": dict(image.info.labels)} if image.info.labels else {},
        "rootfs": {"type": "layers", "diff_ids": list(image.diff_ids)},
        "history": [step.to_json() for step in image.history],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(store, OCI_CONFIG, config).to_json(),
        "layers": [plain(layer).to_json() for layer in image.layers],
        "annotations": {INFO: canonical_json(image.info.to_json()).decode()},
    }
    return dataclasses.replace(_put(store, OCI_MANIFEST, manifest), platform=image.platform)


def _write_images(store: Store, image: PlatformImage) -> Descriptor:
    images = image.images.sorted()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(store, IMAGESET_CONFIG, images.to_json()).to_json(),
        "layers": [layer.to_json() for layer in as_layers(images)],
        "annotations": {KIND: IMAGESET},
    }
    return dataclasses.replace(_put(store, OCI_MANIFEST, manifest), platform=image.platform, annotations={KIND: IMAGESET})


def _put(store: Store, media_type: str, value: Mapping[str, Any]) -> Descriptor:
    return Descriptor(media_type, *store.put(canonical_json(value)))
