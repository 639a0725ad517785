"""Configs, manifests and index -> CloudImage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from harness import untrusted
from harness.cloudimage.blobs import check_blobs, plain
from harness.cloudimage.model import (
    CLOUDIMAGE,
    IMAGESET,
    INFO,
    KIND,
    SCHEMA_VERSION,
    CloudImage,
    History,
    ImageSet,
    Info,
    PlatformImage,
    each_of,
    text_list,
)
from harness.clusterfile import secrets
from harness.errors import StoreError
from harness.oci.model import INDEXES, Descriptor, Platform, texts
from harness.oci.reference import familiar, is_digest
from harness.oci.store import Store


def read(store: Store, name_or_digest: str) -> CloudImage:
    """A CloudImage of the store, by name or digest.

    Manifests and configs are verified; of the other blobs, that they are there in full length. Raises StoreError when it is
    no CloudImage, was made by a newer slipway, or is not whole.
    """
    index = store.resolve(name_or_digest)
    named = [name for name, descriptor in store.names().items() if descriptor.digest == index.digest and name == familiar(name_or_digest)]
    return read_descriptor(store, index, named[0] if named else None)


class Documents(Protocol):
    """Reader of manifests and configs: a Store, or the documents fetched from a registry."""

    def json(self, digest: str) -> dict[str, Any]: ...


def read_descriptor(store: Store, index: Descriptor, name: str | None) -> CloudImage:
    image = understand(store, index, name, store.has)
    check_blobs(store, image.blobs)
    return image


def understand(store: Documents, index: Descriptor, name: str | None, here: Callable[[str], bool] = lambda _: True) -> CloudImage:
    """A CloudImage by its manifests and configs alone; whether its other blobs are anywhere is not looked at. Raises StoreError.

    ``here`` says of a manifest's digest whether it can be read: a platform that was not fetched is ``absent``.
    """
    what = name or index.digest
    content = store.json(index.digest) if index.media_type in INDEXES else {}
    if not is_cloudimage(content):
        hint = "`slipway build` makes CloudImages; `slipway convert` makes one of an image of sealer"
        raise StoreError(f"{what} is an image, but not a CloudImage", hint=hint)
    blobs: dict[str, Descriptor] = {index.digest: index}
    try:
        wanted, absent = _fetched(content, here)
        platforms = _read_platforms(store, wanted, blobs)
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        why = untrusted.shown(repr(wrong))[:400]
        raise StoreError(f"{what} cannot be understood as a CloudImage: {why}", hint="a newer slipway may be needed") from wrong
    return CloudImage(index.digest, platforms, tuple(blobs.values()), name, absent)


def _fetched(index: Mapping[str, Any], here: Callable[[str], bool]) -> tuple[Mapping[str, Any], tuple[Platform, ...]]:
    """The index without platforms whose rootfs is not here, and those platforms. With none here at all it stays as it is."""
    entries = list(index["manifests"])
    each_of(Descriptor.from_json, entries)
    # An image set may be that of another platform too; a rootfs belongs to one.
    roots = [entry for entry in entries if entry.get("platform") and KIND not in (entry.get("annotations") or {})]
    absent = tuple(Platform.from_json(entry["platform"]) for entry in roots if not here(str(entry["digest"])))
    if not absent or len(absent) == len(roots):
        return index, ()
    kept = [entry for entry in entries if not entry.get("platform") or Platform.from_json(entry["platform"]) not in absent]
    return {**index, "manifests": kept}, absent


def _read_platforms(store: Documents, index: Mapping[str, Any], blobs: dict[str, Descriptor]) -> tuple[PlatformImage, ...]:
    entries = each_of(Descriptor.from_json, index["manifests"])
    sets = {entry.platform: entry for entry in entries if entry.annotations.get(KIND) == IMAGESET}
    platforms = []
    # An entry of a kind that is not known here is for a newer slipway.
    for entry in (entry for entry in entries if KIND not in entry.annotations):
        if entry.platform is None or entry.platform not in sets:
            raise ValueError(f"no image set for {entry.platform}")
        images = _read_images(store, sets[entry.platform], blobs)
        platforms.append(_read_rootfs(store, entry, images, blobs))
    if not platforms:
        raise ValueError("no platform in it")
    return tuple(platforms)


def _manifest(
    store: Documents, entry: Descriptor, blobs: dict[str, Descriptor]
) -> tuple[dict[str, Any], dict[str, Any], tuple[Descriptor, ...]]:
    """Manifest, config and layers of an entry of the index, all noted in ``blobs``."""
    manifest = store.json(entry.digest)
    config, layers = Descriptor.from_json(manifest["config"]), each_of(Descriptor.from_json, manifest["layers"])
    for blob in (entry, config, *layers):
        blobs.setdefault(blob.digest, plain(blob))
    return manifest, store.json(config.digest), layers


def _read_rootfs(store: Documents, entry: Descriptor, images: ImageSet, blobs: dict[str, Descriptor]) -> PlatformImage:
    manifest, config, layers = _manifest(store, entry, blobs)
    info = info_of(manifest, entry.digest)
    if untrusted.integer(info.get("schemaVersion", 0), what=f"{entry.digest}: schemaVersion") > SCHEMA_VERSION:
        raise StoreError(f"{entry.digest} has format version {info['schemaVersion']}", hint="a newer slipway can read it")
    diff_ids = text_list(config["rootfs"]["diff_ids"])
    if len(diff_ids) != len(layers) or not all(map(is_digest, diff_ids)):
        raise ValueError(f"{len(layers)} layers and {len(diff_ids)} diff ids, each of which must be a digest")
    described = Info.from_json(info)
    secrets.declare(value.name for value in described.values if value.secret)
    return PlatformImage(
        platform=entry.platform or Platform.from_json(config),
        layers=layers,
        diff_ids=diff_ids,
        history=each_of(History.from_json, config.get("history")),
        info=described,
        images=images,
    )


def info_of(manifest: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """The JSON of the Info in the manifest of a rootfs. Raises KeyError, TypeError, ValueError or StoreError when there is none."""
    return untrusted.json_object(texts(manifest["annotations"])[INFO], what=f"the annotation {INFO} of {digest}")


def is_cloudimage(index: Mapping[str, Any]) -> bool:
    """Return True when the JSON of an index marks it as a CloudImage."""
    annotations = index.get("annotations")
    return isinstance(annotations, dict) and annotations.get(KIND) == CLOUDIMAGE


def _read_images(store: Documents, entry: Descriptor, blobs: dict[str, Descriptor]) -> ImageSet:
    _, config, layers = _manifest(store, entry, blobs)
    images = ImageSet.from_json(config)
    carried = {layer.digest for layer in layers}
    missing = [
        digest for digest in (*(blob.digest for blob in images.blobs), *(image.digest for image in images.images)) if digest not in carried
    ]
    if missing:
        raise ValueError(f"the image set does not carry {missing[0]}")
    return images


def verify(store: Store, image: CloudImage) -> None:
    """Read every blob of the image. Raises StoreError at the first that is missing or damaged."""
    for blob in image.blobs:
        store.verify(blob.digest)
