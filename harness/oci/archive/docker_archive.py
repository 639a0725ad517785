"""Container images in archives: what ``docker save``, ``podman save`` and skopeo write, in the formats docker-archive and oci-archive.

A docker-archive has no manifests: one is made of its config and layers. Its layers are checked against the digests in the config.
"""

from __future__ import annotations

import dataclasses
import posixpath
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import log, untrusted
from harness.errors import StoreError
from harness.oci.archive import load
from harness.oci.archive.index import Index
from harness.oci.archive.source import ArchiveSource, opened, read_index
from harness.oci.archive.volumes import DamagedError
from harness.oci.layer import compression
from harness.oci.layer.tar_reader import TarEntry
from harness.oci.model import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.oci.store import CHUNK, Store

_LARGEST_JSON = 16 << 20
_MOST_LAYERS = 1000
"""Of all images of an archive; Docker refuses more than 127 of one."""
_LAYER_TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclasses.dataclass(frozen=True)
class _Saved:
    """One image of a docker-archive: its names, the paths of its config and its layers."""

    names: tuple[str, ...]
    config: str
    layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ImageListing:
    """The images of an archive: canonical name -> text that changes when the image does."""

    images: Mapping[str, str]
    index: Index | None
    """Of an OCI archive."""
    saved: tuple[_Saved, ...] = ()
    """Of a docker-archive."""


def listing(path: Path) -> ImageListing | None:
    """Names of the images in an archive; None for a file that is not an archive of images. Its blobs are not read.

    Raises StoreError for one that is damaged or hostile.
    """
    index: Index | None = None
    saved: tuple[_Saved, ...] = ()
    refused: StoreError | None = None
    with opened(path) as archive:
        for entry in archive.tar:
            name = _name(entry)
            if name == "index.json" and entry.kind == "file":
                try:
                    index = read_index(archive, entry)
                except StoreError as wrong:
                    refused = wrong
            elif name == "manifest.json" and entry.kind == "file":
                saved = _parsed(_json(archive, entry), str(path))
            else:
                archive.skip()
    if index is None and not saved:
        if refused is not None:
            raise refused
        return None
    if index is not None:
        return ImageListing({str(Reference.parse(image.name)): image.root.digest for image in index.images}, index, saved)
    names = {name: " ".join((image.config, *image.layers)) for image in saved for name in image.names}
    return ImageListing(names, None, saved)


def take_images(store: Store, path: Path, listed: ImageListing) -> dict[str, Descriptor]:
    """Take the images of an archive into the store; their manifests by canonical name. Hold ``store.shared_lease()`` while they are used.

    Raises StoreError when it is damaged, not whole, or hostile.
    """
    if listed.index is not None:
        try:
            return {str(Reference.parse(image.name)): image.root for image in load.take_blobs(store, path)}
        except DamagedError:
            # Docker writes the whole index, also of an image of which it has one platform; its other list names what is there.
            if not listed.saved:
                raise
    return _take_saved(store, path, listed.saved)


def _name(entry: TarEntry) -> str:
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise DamagedError(f"the archive is refused: its entry {untrusted.shown(entry.name)!r} leaves its folder")
    return posixpath.normpath(entry.name)


def _json(archive: ArchiveSource, entry: TarEntry) -> bytes:
    if entry.size > _LARGEST_JSON:
        raise DamagedError(f"the archive is refused: its {untrusted.shown(entry.name)} has {log.size(entry.size)}")
    return b"".join(iter(archive.tar.read, b""))


def _parsed(data: bytes, where: str) -> tuple[_Saved, ...]:
    """manifest.json of a docker-archive. Raises DamagedError."""
    value = untrusted.json_document(data, what=f"{where}: manifest.json", limit=_LARGEST_JSON)
    try:
        saved = tuple(_saved(entry) for entry in value)
    except (TypeError, KeyError, AttributeError, ValueError) as wrong:
        raise DamagedError(f"{where}: its manifest.json cannot be understood: {untrusted.shown(str(wrong))}") from wrong
    if sum(len(image.layers) for image in saved) > _MOST_LAYERS:
        raise DamagedError(f"{where} is refused: it has more than {_MOST_LAYERS} layers")
    return saved


def _saved(entry: Mapping[str, Any]) -> _Saved:
    names = tuple(str(Reference.parse(_text(name))) for name in entry.get("RepoTags") or ())
    return _Saved(names, posixpath.normpath(_text(entry["Config"])), tuple(posixpath.normpath(_text(name)) for name in entry["Layers"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not text")
    return value


def _take_saved(store: Store, path: Path, saved: tuple[_Saved, ...]) -> dict[str, Descriptor]:
    configs = {image.config for image in saved}
    layers = {name for image in saved for name in image.layers}
    data: dict[str, bytes] = {}
    blobs: dict[str, Descriptor] = {}
    links: dict[str, str] = {}
    with opened(path) as archive:
        for entry in archive.tar:
            name = _name(entry)
            if entry.kind in ("symlink", "hardlink") and name in layers:
                # Older engines store a layer that several images share once.
                target = entry.link if entry.kind == "hardlink" else posixpath.join(posixpath.dirname(name), entry.link)
                links[name] = posixpath.normpath(target)
            elif entry.kind == "file" and name in configs:
                data[name] = _json(archive, entry)
            elif entry.kind == "file" and (name in layers or name.endswith("/layer.tar")):
                archive.declared += entry.size
                blobs[name] = _take_layer(store, archive, entry)
            else:
                archive.skip()
    return {
        name: manifest
        for image in saved
        for manifest in [_manifest(store, path, image, data, blobs, links)]
        for name in image.names
    }  # fmt: skip


def _take_layer(store: Store, archive: ArchiveSource, entry: TarEntry) -> Descriptor:
    free = shutil.disk_usage(store.root).free
    if entry.size > free:
        raise StoreError(f"no space left in {store.root}: {log.size(entry.size)} are needed, {log.size(free)} are free")
    begin = archive.tar.head(8)
    with store.writer() as blob:
        blob.write(begin)
        while chunk := archive.tar.read(CHUNK):
            blob.write(chunk)
    return Descriptor(_LAYER_TYPES[compression.compression_of(begin)], blob.digest, blob.size)


def _manifest(
    store: Store, path: Path, image: _Saved, data: Mapping[str, bytes], blobs: Mapping[str, Descriptor], links: Mapping[str, str]
) -> Descriptor:
    """An OCI manifest of the config and the layers of one image. Raises DamagedError when a part is missing or is not what it should be."""
    shown = untrusted.shown(image.names[0] if image.names else image.config)
    if image.config not in data:
        raise DamagedError(f"{path} is not whole: of {shown} it lacks {untrusted.shown(image.config)}")
    layers = []
    for name in image.layers:
        layer = blobs.get(links.get(name, name))
        if layer is None:
            raise DamagedError(f"{path} is not whole: of {shown} it lacks {untrusted.shown(name)}")
        layers.append(layer)
    expected = list(_diff_ids(data[image.config], str(path)))
    if len(expected) != len(layers):
        raise DamagedError(f"{path} is refused: {shown} has {len(layers)} layers, and its config says {len(expected)}")
    for layer, digest in zip(layers, expected, strict=True):
        if layer.media_type == OCI_LAYER and layer.digest != digest:
            raise DamagedError(f"{path} is damaged: a layer of {shown} that should be {digest} is {layer.digest}")
    config, size = store.put(data[image.config])
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config, "size": size},
        "layers": [layer.to_json() for layer in layers],
    })  # fmt: skip
    return Descriptor(OCI_MANIFEST, *store.put(manifest))


def _diff_ids(config: bytes, where: str) -> Iterator[str]:
    value = untrusted.json_object(config, what=f"{where}: the config of an image", limit=_LARGEST_JSON)
    try:
        yield from (_text(digest) for digest in value["rootfs"]["diff_ids"])
    except (KeyError, TypeError) as wrong:
        raise DamagedError(f"{where}: the config of an image has no list of layers") from wrong
