"""Clauses about embedded images: their names, their blobs, and all that a node needs of them without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from harness.cloudimage.conformance.clauses import MALFORMED, Checked, Clause, fault_of
from harness.cloudimage.conformance.examined import ExaminedImage, ExaminedManifest
from harness.cloudimage.model import SCHEMA_VERSION, Blob, EmbeddedImage
from harness.errors import SlipwayError, StoreError
from harness.oci.graph import DEEPEST_INDEX, below_of, child_for, is_manifest
from harness.oci.model import INDEXES, Descriptor, Platform
from harness.oci.reference import Reference

_T = TypeVar("_T")


def _listed(images: ExaminedManifest, key: str) -> list[Any]:
    values = images.config_document.get(key)
    return values if isinstance(values, list) else []


def _readable(make: Callable[[Mapping[str, Any]], _T], values: list[Any]) -> list[_T]:
    """Values of which ``make`` can make something; what is wrong with the others is the matter of CI-SET-1."""
    readable = []
    for value in values:
        try:
            readable.append(make(value))
        except MALFORMED:
            continue
    return readable


def _images(images: ExaminedManifest) -> list[EmbeddedImage]:
    # The name is the matter of clauses of its own.
    return _readable(_image, _listed(images, "images"))


def _image(value: Mapping[str, Any]) -> EmbeddedImage:
    name = value["name"]
    if not isinstance(name, str):
        raise TypeError("name is not text")
    image = EmbeddedImage.from_json({**value, "name": "name"})
    return EmbeddedImage(name, image.digest, image.media_type, image.size)


def _blobs(images: ExaminedManifest) -> list[Blob]:
    return _readable(Blob.from_json, _listed(images, "blobs"))


# The config


def _fields(image: ExaminedImage) -> Checked:
    for images in image.sets:
        config = images.config_document
        if config.value is None:
            continue
        version = config.get("schemaVersion")
        same = version == SCHEMA_VERSION and not isinstance(version, bool)
        yield None if same else f"{config.where}: schemaVersion is {version!r}, not {SCHEMA_VERSION}"
        makers: tuple[tuple[str, Callable[[Mapping[str, Any]], object]], ...] = (("images", _image), ("blobs", Blob.from_json))
        for key, make in makers:
            if config.get(key) is not None and not isinstance(config.get(key), list):
                yield f"{config.where}: {key} is not a list"
            yield from (fault_of(f"{config.where} .{key}[{number}]", make, value) for number, value in enumerate(_listed(images, key)))


def _carried(image: ExaminedImage) -> Checked:
    """Blobs of the config and layers of the manifest are the same, each once."""
    for images in image.sets:
        if images.config_document.value is None or not isinstance(images.document.get("layers"), list):
            continue
        layers = [(layer.descriptor.digest, layer.descriptor.size) for layer in images.layers if layer.descriptor]
        blobs = [(blob.digest, blob.size) for blob in _blobs(images)]
        # Damaged descriptors are the matter of other clauses: without them the lists cannot be compared.
        if len(layers) != len(images.layers) or len(blobs) != len(_listed(images, "blobs")):
            continue
        for what, values in (("layers", layers), ("blobs", blobs)):
            twice = next((digest for (digest, _), count in _counts(values) if count > 1), None)
            yield f"{images.where}: {twice} stands twice in {what}" if twice else None
        for digest, size in sorted({*blobs} - {*layers}):
            yield f"{images.where}: {digest} with {size} bytes is among blobs, not among layers"
        for digest, size in sorted({*layers} - {*blobs}):
            yield f"{images.where}: {digest} with {size} bytes is among layers, not among blobs"


def _counts(values: list[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], int]]:
    counts: dict[tuple[str, int], int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    yield from counts.items()


def _tops(image: ExaminedImage) -> Checked:
    for images in image.sets:
        blobs = {blob.digest: blob for blob in _blobs(images)}
        for embedded in _images(images):
            blob = blobs.get(embedded.digest)
            if not is_manifest(_Closure.top(embedded)):
                yield f"{images.where}: {embedded.name}: {embedded.media_type!r} is not the type of an index or manifest"
            elif blob is None:
                yield f"{images.where}: {embedded.name}: {embedded.digest} is not among blobs"
            elif (blob.media_type, blob.size) != (embedded.media_type, embedded.size):
                yield f"{images.where}: {embedded.name}: media type or size of {embedded.digest} differ from those in blobs"
            else:
                yield None


# Names


def _canonical(image: ExaminedImage) -> Checked:
    for images in image.sets:
        for embedded in _images(images):
            try:
                canonical = str(Reference.parse(embedded.name))
            except ValueError as wrong:
                yield f"{images.where}: {wrong}"
            else:
                same = canonical == embedded.name
                yield None if same else f"{images.where}: {embedded.name!r} is not the canonical {canonical!r}"


def _unique(image: ExaminedImage) -> Checked:
    for images in image.sets:
        seen: set[str] = set()
        for embedded in _images(images):
            yield f"{images.where}: {embedded.name} stands twice" if embedded.name in seen else None
            seen.add(embedded.name)


def _pinned(image: ExaminedImage) -> Checked:
    for images in image.sets:
        for embedded in _images(images):
            named = embedded.name.partition("@")[2]
            if named:
                yield None if named == embedded.digest else f"{images.where}: {embedded.name} has the digest {embedded.digest}"


# Without a network


class _Closure:
    """An embedded image, followed from its index or manifest to what a platform needs of it."""

    def __init__(self, image: ExaminedImage, images: ExaminedManifest) -> None:
        self._image = image
        self._platform = images.platform
        self.blobs = {blob.digest: blob for blob in _blobs(images)}

    @staticmethod
    def top(embedded: EmbeddedImage) -> Descriptor:
        return Descriptor(embedded.media_type, embedded.digest, embedded.size)

    def follow(self, embedded: EmbeddedImage) -> Iterator[Descriptor]:
        """The descriptors of all blobs that a node needs. Raises SlipwayError when something of it cannot be understood."""
        blob = self.top(embedded)
        for _ in range(DEEPEST_INDEX + 1):
            yield blob
            if not is_manifest(blob):
                raise StoreError(f"{blob.digest} is {blob.media_type!r}, which is not a manifest")
            document = self._image.document(blob, f"embedded manifest {blob.digest}")
            if document.value is None or document.data is None:
                return  # clauses about blobs and JSON
            if blob.media_type not in INDEXES:
                if "config" not in document.value:
                    raise StoreError(f"its manifest {blob.digest} has no config")
                yield from below_of(document.value, blob.digest)
                return
            blob = child_for(document.data, self._platform or Platform.host())
        raise StoreError(f"its indexes nest more than {DEEPEST_INDEX} deep")


def _complete(image: ExaminedImage) -> Checked:
    for images in image.sets:
        if images.platform is None or not _whole_list(images):
            continue
        closure = _Closure(image, images)
        for embedded in _images(images):
            # What is wrong with the index or manifest itself is the matter of CI-SET-3.
            if embedded.digest in closure.blobs and is_manifest(closure.top(embedded)):
                yield _incomplete(images, embedded, closure)


def _whole_list(images: ExaminedManifest) -> bool:
    return len(_blobs(images)) == len(_listed(images, "blobs"))


def _incomplete(images: ExaminedManifest, embedded: EmbeddedImage, closure: _Closure) -> str | None:
    where = f"{images.where}: {embedded.name}"
    try:
        missing = [blob.digest for blob in closure.follow(embedded) if blob.digest not in closure.blobs]
    except SlipwayError as wrong:
        return f"{where} {wrong.message}"
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{where}: {missing[0]}{more} of it is not embedded" if missing else None


def _types(image: ExaminedImage) -> Checked:
    """Blobs have the media type and size that they have in one of the embedded images."""
    for images in image.sets:
        closure = _Closure(image, images)
        facts_by_digest: dict[str, set[tuple[str, int]]] = {}
        for embedded in _images(images):
            try:
                for blob in closure.follow(embedded):
                    # The top of an image is the matter of CI-SET-3.
                    if blob.digest != embedded.digest:
                        facts_by_digest.setdefault(blob.digest, set()).add((blob.media_type, blob.size))
            except SlipwayError:
                continue
        for digest, facts in facts_by_digest.items():
            listed = closure.blobs.get(digest)
            if listed is not None:
                same = (listed.media_type, listed.size) in facts
                yield None if same else f"{images.where}: {digest} is {listed.media_type!r} among blobs, {_shown(facts)} in its image"


def _shown(facts: set[tuple[str, int]]) -> str:
    return " or ".join(f"{media_type!r} with {size} bytes" for media_type, size in sorted(facts)[:3])


CLAUSES = (
    Clause("CI-SET-1", "the config of an image set has its fields", "fields", _fields),
    Clause("CI-SET-2", "blobs and layers of an image set are the same, each once", "lists", _carried),
    Clause("CI-SET-3", "the index or manifest of each image is among the blobs", "embedded images", _tops),
    Clause("CI-SET-4", "each blob has the media type that it has in its image", "blobs", _types),
    Clause("CI-NAME-1", "names of embedded images are canonical", "embedded images", _canonical),
    Clause("CI-NAME-2", "a name appears once in an image set", "embedded images", _unique),
    Clause("CI-NAME-3", "the digest in a name is that of its image", "names with a digest", _pinned),
)
OFFLINE = (Clause("CI-OFFLINE-1", "each embedded image is whole for the platform", "embedded images", _complete),)
