"""An image taken apart for its check: index, manifests and configs, as far as they can be read."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.cloudimage.conformance.documents import ExaminedBlobs, ImageDocument, Pointer, parsed, pointer, pointers
from harness.cloudimage.conformance.trees import LayerScan, RootfsTree, scan_layer, unpacked
from harness.cloudimage.model import IMAGESET, INFO, KIND
from harness.errors import StoreError
from harness.oci.graph import is_manifest
from harness.oci.layer.extract import UNPACKED
from harness.oci.model import LARGEST_MANIFEST, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor, Platform

LAYER_TYPES = (OCI_LAYER_GZIP, OCI_LAYER_ZSTD)
_PIECE = 1 << 20


@dataclasses.dataclass(frozen=True)
class ExaminedManifest:
    """The manifest of a rootfs or of an image set, with its config."""

    where: str
    entry: Pointer
    platform: Platform | None
    document: ImageDocument
    config: Pointer | None
    config_document: ImageDocument
    layers: tuple[Pointer, ...]

    @property
    def annotations(self) -> Mapping[str, Any]:
        value = self.document.get("annotations")
        return value if isinstance(value, Mapping) else {}

    @property
    def read(self) -> bool:
        return self.document.value is not None


@dataclasses.dataclass(frozen=True)
class ExaminedEntry:
    """An entry of the index of a known kind."""

    pointer: Pointer
    kind: str | None
    """None for a rootfs."""

    @property
    def platform(self) -> Platform | None:
        platform = self.pointer.descriptor.platform if self.pointer.descriptor else None
        return platform.normal() if platform and platform.os and platform.architecture else None


class ExaminedImage:
    """An image to check: ``root`` leads to its index in ``blobs``. Reading it raises no error for what the image says.

    ``transport_faults`` are faults of the layout or archive that holds it, by clause id; None for an image of the store.
    """

    def __init__(self, blobs: ExaminedBlobs, root: Descriptor | None, transport_faults: Mapping[str, list[str]] | None = None) -> None:
        self.blobs = blobs
        self.root = root
        self.transport_faults = transport_faults
        self._documents: dict[str, ImageDocument] = {}
        self._sizes: dict[str, int | None] = {}
        self._faults: dict[str, str | None] = {}

    # Blobs

    def size(self, digest: str) -> int | None:
        """Bytes of a blob; None when it is missing."""
        if digest not in self._sizes:
            try:
                self._sizes[digest] = self.blobs.size(digest)
            except StoreError:
                self._sizes[digest] = None
        return self._sizes[digest]

    def damage(self, digest: str) -> str | None:
        """Return the fault of a blob that exists and whose bytes are not those of its digest; None for a good one."""
        if digest not in self._faults:
            self._faults[digest] = self._hash(digest)
        return self._faults[digest]

    def hash_all(self, digests: Iterable[str]) -> None:
        """Hash blobs, many at once."""
        waiting = [digest for digest in dict.fromkeys(digests) if digest not in self._faults and self.size(digest) is not None]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="hash") as pool:
            self._faults.update(zip(waiting, pool.map(self._hash, waiting), strict=True))

    def _hash(self, digest: str) -> str | None:
        content = hashlib.sha256()
        try:
            with self.blobs.open(digest) as file:
                while piece := file.read(_PIECE):
                    content.update(piece)
        except StoreError as wrong:
            return f"cannot be read: {wrong.message}"
        except OSError as wrong:
            return f"cannot be read: {wrong.strerror or wrong}"
        return None if f"sha256:{content.hexdigest()}" == digest else f"its bytes have the digest sha256:{content.hexdigest()}"

    def document(self, descriptor: Descriptor | None, where: str) -> ImageDocument:
        """The document that a descriptor leads to."""
        if descriptor is None:
            return ImageDocument(where)
        if descriptor.digest not in self._documents:
            self._documents[descriptor.digest] = self._read(descriptor.digest, where)
        return self._documents[descriptor.digest]

    def _read(self, digest: str, where: str) -> ImageDocument:
        size = self.size(digest)
        if size is None:
            return ImageDocument(where)
        if size > LARGEST_MANIFEST:
            return ImageDocument(where, problem=f"{where}: has {size} bytes, more than {LARGEST_MANIFEST}")
        if self.damage(digest) is not None:
            return ImageDocument(where)
        with self.blobs.open(digest) as file:
            return parsed(where, file.read(LARGEST_MANIFEST + 1))

    @functools.cached_property
    def documents(self) -> tuple[ImageDocument, ...]:
        """Index, manifests and configs of the image, then the manifests of embedded images."""
        own = [
            self.index,
            *(document for manifest in self.manifests for document in (manifest.document, manifest.config_document)),
            *self.embedded_documents,
        ]
        return tuple({id(document): document for document in own}.values())

    @functools.cached_property
    def embedded_documents(self) -> tuple[ImageDocument, ...]:
        """Manifests and indexes of embedded images that image sets list."""
        return tuple(self.document(blob, f"embedded manifest {blob.digest}") for images in self.sets for blob in listed_manifests(images))

    # The index

    @functools.cached_property
    def index(self) -> ImageDocument:
        return self.document(self.root, "index")

    @functools.cached_property
    def index_pointers(self) -> tuple[Pointer, ...] | None:
        return pointers("index .manifests", self.index.get("manifests"))

    @functools.cached_property
    def entries(self) -> tuple[ExaminedEntry, ...]:
        """Rootfs and image sets that the index lists; readers ignore entries of other kinds."""
        usable = (each for each in self.index_pointers or () if each.descriptor is not None)
        kinds = [ExaminedEntry(each, each.descriptor.annotations.get(KIND)) for each in usable if each.descriptor]
        return tuple(entry for entry in kinds if entry.kind in (None, IMAGESET))

    @functools.cached_property
    def absent(self) -> frozenset[Platform]:
        """Platforms whose rootfs is not here, while another one is: a local copy may be of some platforms only."""
        roots = [entry for entry in self.entries if entry.kind is None]
        missing = [entry for entry in roots if entry.pointer.descriptor and self.size(entry.pointer.descriptor.digest) is None]
        return frozenset(entry.platform for entry in missing if entry.platform) if len(missing) < len(roots) else frozenset()

    # Manifests

    @functools.cached_property
    def manifests(self) -> tuple[ExaminedManifest, ...]:
        """Of every rootfs and image set that is here, in the order of the index."""
        return tuple(self._manifest(entry) for entry in self.entries if entry.platform is None or entry.platform not in self.absent)

    def _manifest(self, entry: ExaminedEntry) -> ExaminedManifest:
        kind = "rootfs" if entry.kind is None else "image set"
        where = f"{kind} of {entry.platform or entry.pointer.where}"
        document = self.document(entry.pointer.descriptor, where)
        config = pointer(f"{where} .config", document.get("config")) if document.value and "config" in document.value else None
        config_document = self.document(config.descriptor if config else None, f"config of {where}")
        layers = pointers(f"{where} .layers", document.get("layers")) or ()
        return ExaminedManifest(where, entry.pointer, entry.platform, document, config, config_document, layers)

    @property
    def roots(self) -> tuple[ExaminedManifest, ...]:
        return tuple(each for each in self.manifests if not _is_set(each))

    @property
    def sets(self) -> tuple[ExaminedManifest, ...]:
        return tuple(each for each in self.manifests if _is_set(each))

    def pointers(self) -> Iterator[Pointer]:
        """Every descriptor of index, rootfs and image sets that is part of this copy."""
        if self.root is not None:
            yield Pointer("name", self.root)
        yield from self.index_faulty_pointers
        for manifest in self.manifests:
            yield manifest.entry
            yield from [manifest.config] if manifest.config else []
            yield from manifest.layers

    @property
    def index_faulty_pointers(self) -> Iterator[Pointer]:
        return (each for each in self.index_pointers or () if each.descriptor is None)

    # The rootfs

    @functools.cached_property
    def scans(self) -> Mapping[str, LayerScan]:
        """Digest -> content, of the layers of every rootfs that have a type that can be unpacked, and the right bytes."""
        layers = {each.descriptor.digest: each.descriptor for root in self.roots for each in root.layers if each.descriptor}
        good = (layer for layer in layers.values() if self._is_whole(layer) and layer.media_type in UNPACKED)
        return {layer.digest: scan_layer(self.blobs, layer) for layer in good}

    def _is_whole(self, blob: Descriptor) -> bool:
        return self.size(blob.digest) is not None and self.damage(blob.digest) is None

    def unpack(self) -> None:
        """Unpack every rootfs that can be. Raises StoreError when the disk has no room."""
        _ = self._trees

    def tree(self, root: ExaminedManifest) -> RootfsTree | None:
        """The unpacked rootfs; None when one of its layers cannot be read at all."""
        return self._trees.get(root.entry.where)

    @functools.cached_property
    def _trees(self) -> Mapping[str, RootfsTree]:
        trees = {}
        for root in self.roots:
            layers = [each.descriptor for each in root.layers if each.descriptor]
            scans = [self.scans.get(layer.digest) for layer in layers]
            if root.read and len(layers) == len(root.layers) and all(scan is not None and scan.problem is None for scan in scans):
                trees[root.entry.where] = unpacked(self.blobs, layers, sum(scan.size for scan in scans if scan))
        return trees

    # The run information

    def info(self, root: ExaminedManifest) -> Mapping[str, Any] | None:
        """The JSON of the annotation ``dev.slipway.cloudimage``; None when it is missing or not usable."""
        return self.info_document(root).value

    def info_document(self, root: ExaminedManifest) -> ImageDocument:
        text = root.annotations.get(INFO)
        where = f"{root.where}, annotation {INFO}"
        if not isinstance(text, str):
            return ImageDocument(where)
        return parsed(where, text.encode(errors="surrogatepass"))


def _is_set(manifest: ExaminedManifest) -> bool:
    return manifest.entry.descriptor is not None and manifest.entry.descriptor.annotations.get(KIND) == IMAGESET


def listed_manifests(images: ExaminedManifest) -> Iterator[Descriptor]:
    """Indexes and manifests of embedded images, by the blobs that the config of an image set lists."""
    blobs = images.config_document.get("blobs")
    for value in blobs if isinstance(blobs, list) else ():
        with contextlib.suppress(ValueError):
            blob = Descriptor.from_json(value)
            if is_manifest(blob) and blob.digest.startswith("sha256:"):
                yield Descriptor(blob.media_type, blob.digest, blob.size)
