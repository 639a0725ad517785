"""Clauses about index, manifests, media types, digests and platforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.cloudimage.conformance.clauses import Checked, Clause
from harness.cloudimage.conformance.documents import ImageDocument
from harness.cloudimage.conformance.examined import LAYER_TYPES, ExaminedImage, ExaminedManifest, listed_manifests
from harness.cloudimage.conformance.sources import LAYOUT, NAMES
from harness.cloudimage.model import BLOB, CLOUDIMAGE, IMAGESET, IMAGESET_CONFIG, KIND
from harness.oci.model import LARGEST_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Platform

# Layouts and archives


def _transport(image: ExaminedImage, clause: str) -> Checked:
    if image.transport_faults is not None:
        faults = image.transport_faults[clause]
        yield from faults
        if not faults:
            yield None


def _layout(image: ExaminedImage) -> Checked:
    yield from _transport(image, LAYOUT)


def _entry_names(image: ExaminedImage) -> Checked:
    yield from _transport(image, NAMES)


# The index


def _index(image: ExaminedImage) -> Checked:
    if image.root is None:
        return
    if image.root.media_type != OCI_INDEX:
        yield f"the name leads to {image.root.media_type!r}, not to {OCI_INDEX}"
    value = image.index.value
    if value is None:
        return
    if value.get("schemaVersion") != 2 or isinstance(value.get("schemaVersion"), bool):
        yield f"index: schemaVersion is {value.get('schemaVersion')!r}, not 2"
    elif value.get("mediaType") != OCI_INDEX:
        yield f"index: mediaType is {value.get('mediaType')!r}, not {OCI_INDEX}"
    elif image.index_pointers is None:
        yield "index: manifests is not a list"
    else:
        yield None


def _index_kind(image: ExaminedImage) -> Checked:
    if image.index.value is not None:
        kind = _annotations(image.index).get(KIND)
        yield None if kind == CLOUDIMAGE else f"index: annotation {KIND} is {kind!r}, not {CLOUDIMAGE}"


def _annotations(document: ImageDocument) -> Mapping[str, Any]:
    value = document.get("annotations")
    return value if isinstance(value, Mapping) else {}


def _pairs(image: ExaminedImage) -> Checked:
    """Each rootfs has an image set behind it, for the same platform, and each image set a rootfs before it."""
    if image.index_pointers is None:
        return
    if all(pointer.descriptor for pointer in image.index_pointers) and not any(entry.kind is None for entry in image.entries):
        yield "index: it lists no rootfs"
    for number, entry in enumerate(image.entries):
        if entry.platform is None:
            continue
        others = image.entries[number + 1 :] if entry.kind is None else image.entries[:number]
        partners = [other for other in others if other.kind != entry.kind and other.platform in (entry.platform, None)]
        if any(other.platform for other in partners):
            yield None
        elif partners:
            continue  # CI-PLATFORM-1: one without a platform may be it
        elif entry.kind is None:
            yield f"{entry.pointer.where}: no image set for {entry.platform} behind this rootfs"
        else:
            yield f"{entry.pointer.where}: no rootfs for {entry.platform} before this image set"


# Manifests


def _manifests(image: ExaminedImage) -> Checked:
    for manifest in image.manifests:
        if manifest.read:
            yield _manifest_fault(manifest)


def _manifest_fault(manifest: ExaminedManifest) -> str | None:
    value = manifest.document.value or {}
    entry = manifest.entry.descriptor
    if entry is not None and entry.media_type != OCI_MANIFEST:
        return f"{manifest.where}: its entry has the media type {entry.media_type!r}, not {OCI_MANIFEST}"
    if value.get("schemaVersion") != 2 or isinstance(value.get("schemaVersion"), bool):
        return f"{manifest.where}: schemaVersion is {value.get('schemaVersion')!r}, not 2"
    if "config" not in value:
        return f"{manifest.where}: it has no config"
    return None if isinstance(value.get("layers"), list) else f"{manifest.where}: layers is not a list"


def _manifest_kinds(image: ExaminedImage) -> Checked:
    for manifest in (each for each in image.manifests if each.read):
        kind, wanted = manifest.annotations.get(KIND), IMAGESET if manifest in image.sets else None
        yield None if kind == wanted else f"{manifest.where}: annotation {KIND} is {kind!r}" + (f", not {wanted}" if wanted else "")


def _descriptors(image: ExaminedImage) -> Checked:
    for pointer in image.pointers():
        yield pointer.shape_fault
    for document in (image.index, *(manifest.document for manifest in image.manifests)):
        if document.value is not None:
            yield _annotation_fault(document)


def _annotation_fault(document: ImageDocument) -> str | None:
    value = document.get("annotations")
    good = value is None or (isinstance(value, Mapping) and all(isinstance(text, str) for text in value.values()))
    return None if good else f"{document.where}: annotations is not text by name"


def _json(image: ExaminedImage) -> Checked:
    for document in image.documents:
        if document.data is not None or document.problem is not None:
            yield document.problem


# Media types


def _artifact_types(image: ExaminedImage) -> Checked:
    for document in (image.index, *(manifest.document for manifest in image.manifests)):
        if document.value is not None:
            yield f"{document.where}: has an artifactType" if "artifactType" in document.value else None


def _own_types(image: ExaminedImage) -> Checked:
    """Documents that say of themselves what they are agree with their descriptors. The index is the matter of another clause."""
    pairs = [(manifest.document, manifest.entry.descriptor) for manifest in image.manifests]
    blobs = {blob.digest: blob for images in image.sets for blob in listed_manifests(images)}
    pairs += [(image.document(blob, blob.digest), blob) for blob in blobs.values()]
    for document, descriptor in pairs:
        if document.value is not None and descriptor is not None and "mediaType" in document.value:
            same = document.get("mediaType") == descriptor.media_type
            yield (
                None
                if same
                else f"{document.where}: mediaType is {document.get('mediaType')!r}, its descriptor has {descriptor.media_type!r}"
            )


def _typed(config: str, manifests: tuple[ExaminedManifest, ...]) -> Checked:
    for manifest in manifests:
        if manifest.config and manifest.config.descriptor:
            media_type = manifest.config.descriptor.media_type
            yield None if media_type == config else f"{manifest.config.where}: its media type is {media_type!r}, not {config}"


def _rootfs_config(image: ExaminedImage) -> Checked:
    yield from _typed(OCI_CONFIG, image.roots)


def _set_config(image: ExaminedImage) -> Checked:
    yield from _typed(IMAGESET_CONFIG, image.sets)


def _layer_types(manifests: tuple[ExaminedManifest, ...], allowed: tuple[str, ...]) -> Checked:
    for manifest in manifests:
        for layer in manifest.layers:
            if layer.descriptor:
                media_type = layer.descriptor.media_type
                yield None if media_type in allowed else f"{layer.where}: its media type is {media_type!r}, not {' or '.join(allowed)}"


def _rootfs_layers(image: ExaminedImage) -> Checked:
    yield from _layer_types(image.roots, LAYER_TYPES)


def _set_layers(image: ExaminedImage) -> Checked:
    yield from _layer_types(image.sets, (BLOB,))


# Digests


def _digests(image: ExaminedImage) -> Checked:
    for pointer in image.pointers():
        yield pointer.digest_fault


def _blobs(image: ExaminedImage) -> Iterator[tuple[str, Descriptor]]:
    """Every blob that the copy must have, each once for each size that is said of it."""
    seen: set[tuple[str, int]] = set()
    for pointer in image.pointers():
        blob = pointer.descriptor
        if blob is not None and (blob.digest, blob.size) not in seen:
            seen.add((blob.digest, blob.size))
            yield pointer.where, blob


def _present(image: ExaminedImage) -> Checked:
    for where, blob in _blobs(image):
        yield f"{where}: blob {blob.digest} is missing" if image.size(blob.digest) is None else None


def _sizes(image: ExaminedImage) -> Checked:
    for where, blob in _blobs(image):
        size = image.size(blob.digest)
        if size is not None:
            yield None if size == blob.size else f"{where}: blob {blob.digest} has {size} bytes instead of {blob.size}"


def _bytes(image: ExaminedImage) -> Checked:
    for where, blob in {blob.digest: (where, blob) for where, blob in _blobs(image)}.values():
        if image.size(blob.digest) == blob.size:
            damage = image.damage(blob.digest)
            yield f"{where}: blob {blob.digest}: {damage}" if damage else None


# Platforms


def _platforms(image: ExaminedImage) -> Checked:
    for entry in image.entries:
        yield f"{entry.pointer.where}: has no platform with os and architecture" if entry.platform is None else None


def _single_platforms(image: ExaminedImage) -> Checked:
    seen: set[tuple[str | None, Platform]] = set()
    for entry in image.entries:
        if entry.platform is not None:
            key = (entry.kind, entry.platform)
            kind = "rootfs" if entry.kind is None else "image set"
            yield f"{entry.pointer.where}: a second {kind} for {entry.platform}" if key in seen else None
            seen.add(key)


def _config_platforms(image: ExaminedImage) -> Checked:
    for root in image.roots:
        if root.config_document.value is not None and root.platform is not None:
            own = Platform.from_json(root.config_document.value).normal()
            yield None if own == root.platform else f"{root.config_document.where}: is for {str(own) or 'no platform'}"


CLAUSES = (
    Clause("CI-ARCHIVE-1", "a layout has oci-layout, index.json and plain files only", "layouts", _layout),
    Clause("CI-ARCHIVE-2", "each image of a layout has a name", "layouts", _entry_names),
    Clause("CI-LAYOUT-1", "the name leads to an OCI image index", "indexes", _index),
    Clause("CI-LAYOUT-2", f"the index has {KIND}: {CLOUDIMAGE}", "indexes", _index_kind),
    Clause("CI-LAYOUT-3", "each platform has a rootfs and behind it an image set", "entries", _pairs),
    Clause("CI-LAYOUT-4", "rootfs and image set are OCI image manifests", "manifests", _manifests),
    Clause("CI-LAYOUT-5", f"the image set's manifest, and no rootfs, has {KIND}", "manifests", _manifest_kinds),
    Clause("CI-LAYOUT-6", "descriptors and annotations have their form", "descriptors", _descriptors),
    Clause("CI-JSON-1", f"documents are JSON objects of at most {LARGEST_MANIFEST >> 20} MiB", "documents", _json),
    Clause("CI-MEDIA-1", "index and manifests have no artifactType", "documents", _artifact_types),
    Clause("CI-MEDIA-2", "a document is of the type that its descriptor says", "documents", _own_types),
    Clause("CI-MEDIA-3", "the config of a rootfs is an OCI image config", "configs", _rootfs_config),
    Clause("CI-MEDIA-4", "layers of a rootfs are gzip or zstd", "layers", _rootfs_layers),
    Clause("CI-MEDIA-5", "the config of an image set has its media type", "configs", _set_config),
    Clause("CI-MEDIA-6", "blobs of an image set have the one media type", "blobs", _set_layers),
    Clause("CI-DIGEST-1", "digests are sha256", "descriptors", _digests),
    Clause("CI-DIGEST-2", "every blob is present", "blobs", _present),
    Clause("CI-DIGEST-3", "every blob has the size of its descriptor", "blobs", _sizes),
    Clause("CI-DIGEST-4", "the bytes of every blob have its digest", "blobs", _bytes),
    Clause("CI-PLATFORM-1", "each entry has its platform", "entries", _platforms),
    Clause("CI-PLATFORM-2", "a platform appears once", "entries", _single_platforms),
    Clause("CI-PLATFORM-3", "the config of a rootfs is for the platform of its entry", "configs", _config_platforms),
)
