"""CloudImages as people see them: the lines of `slipway images` and `slipway history`, and the data of `slipway inspect`."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.cloudimage import enforcers
from harness.cloudimage.model import CLOUDIMAGE, CloudImage, ImageSet, PlatformImage
from harness.cloudimage.reader import is_cloudimage, read_descriptor
from harness.errors import StoreError
from harness.oci.graph import attached_to, entries_of
from harness.oci.model import INDEXES, Descriptor
from harness.oci.store import Store

_ATTACHMENTS = {"sig": "signature", "att": "attestation"}


def describe(image: CloudImage) -> dict[str, Any]:
    """The image as plain data, for ``slipway inspect --output json``."""
    return {
        "name": image.name,
        "digest": image.digest,
        "platforms": [describe_platform(platform) for platform in image.platforms],
        "size": image.size,
    }


def describe_platform(image: PlatformImage) -> dict[str, Any]:
    return {
        "platform": str(image.platform),
        "rootfs": {
            "layers": [
                {"digest": layer.digest, "mediaType": layer.media_type, "size": layer.size, "diffId": diff_id}
                for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
            ]
        },
        "info": image.info.to_json(),
        "policiesEnforcedBy": _enforcers(image) if image.info.kubernetes else None,
        "images": [embedded.to_json() for embedded in image.images.images],
    }


def _enforcers(image: PlatformImage) -> list[str]:
    return [one.name for one in enforcers.among(embedded.name for embedded in image.images.images)]


def content_sizes(store: Store, images: ImageSet) -> dict[str, int]:
    """Bytes of each embedded image, its layers included: name -> size. What several share counts for each of them."""
    sizes = {blob.digest: blob.size for blob in images.blobs}
    return {image.name: sum(sizes.get(digest, 0) for digest in store.reachable([image.digest])) for image in images.images}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of ``slipway images``."""

    name: str
    digest: str
    platforms: tuple[str, ...] = ()
    size: int = 0
    """Bytes, each blob once; 0 when the image is not whole."""
    images: int = 0
    """Different embedded images, all platforms together."""
    kubernetes: str | None = None
    problem: str | None = None
    """Why it cannot be used, when it cannot."""
    kind: str = CLOUDIMAGE
    """``cloudimage``, what others() says, or the tool that made an image which can be converted to one."""


def images(store: Store) -> tuple[Row, ...]:
    """Every CloudImage that has a name here, by name; a damaged one with its problem. Other images and attachments are left out."""
    rows = []
    for name, descriptor in store.names().items():
        if attached_to(name):
            continue
        try:
            image = read_descriptor(store, descriptor, name)
        except StoreError as problem:
            if _is_cloudimage(store, descriptor):
                rows.append(Row(name, descriptor.digest, problem=problem.message))
            continue
        rows.append(_row(name, image))
    return tuple(rows)


def others(store: Store) -> tuple[Row, ...]:
    """Kinds of other names in the store: container images (``image``), signatures, attestations, and lists of ``referrers``."""
    rows = []
    for name, descriptor in store.names().items():
        attached = attached_to(name) is not None
        if not attached and _is_cloudimage(store, descriptor):
            continue
        blobs = [digest for digest in store.reachable([descriptor.digest]) if store.has(digest)]
        platforms: tuple[str, ...] = ()
        problem = None
        try:
            listed = entries_of(store.json(descriptor.digest), descriptor.digest)
            entry_platforms = (entry.platform for entry in listed if entry.platform)
            platforms = () if attached else tuple(dict.fromkeys(str(platform) for platform in entry_platforms if platform.os))
        except StoreError as damaged:
            problem = damaged.message
        kind = _ATTACHMENTS.get(name.rpartition(".")[2], "referrers") if attached else "image"
        rows.append(Row(name, descriptor.digest, platforms, sum(map(store.size, blobs)), problem=problem, kind=kind))
    return tuple(rows)


def _is_cloudimage(store: Store, descriptor: Descriptor) -> bool:
    try:
        return is_cloudimage(store.json(descriptor.digest))
    except StoreError:
        # Its subject is not known any more; hiding it would be worse.
        return descriptor.media_type in INDEXES


def _row(name: str, image: CloudImage) -> Row:
    return Row(
        name=name,
        digest=image.digest,
        platforms=tuple(str(platform.platform) for platform in image.platforms),
        size=image.size,
        images=len({embedded.name for platform in image.platforms for embedded in platform.images.images}),
        kubernetes=next((platform.info.kubernetes for platform in image.platforms if platform.info.kubernetes), None),
    )


@dataclasses.dataclass(frozen=True)
class HistoryRow:
    """One line of ``slipway history``. ``layer`` and ``size`` (bytes) are of the layer it made, None and 0 for none."""

    platform: str
    created_by: str
    step: str
    layer: str | None
    size: int


def history(image: CloudImage) -> tuple[HistoryRow, ...]:
    """Instructions of the build, first one first, platform by platform."""
    rows = []
    for platform in image.platforms:
        layers = iter(platform.layers)
        for entry in platform.history:
            layer = None if entry.empty else next(layers, None)
            rows.append(
                HistoryRow(
                    str(platform.platform), entry.created_by, entry.step, layer.digest if layer else None, layer.size if layer else 0
                )
            )
    return tuple(rows)
