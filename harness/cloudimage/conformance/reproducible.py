"""Clauses about documents that equal inputs give with equal bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.cloudimage.conformance import rootfs
from harness.cloudimage.conformance.clauses import Checked, Clause
from harness.cloudimage.conformance.documents import ImageDocument
from harness.cloudimage.conformance.examined import ExaminedImage
from harness.oci.model import EPOCH, canonical_json


def _own_documents(image: ExaminedImage) -> Iterator[ImageDocument]:
    """Documents that the writer of a CloudImage writes: not those of embedded images."""
    yield image.index
    for manifest in image.manifests:
        yield manifest.document
        yield manifest.config_document
    for root in image.roots:
        yield image.info_document(root)


def _canonical(image: ExaminedImage) -> Checked:
    for document in _own_documents(image):
        if document.value is not None:
            same = canonical_json(document.value) == document.data
            yield None if same else f"{document.where}: is not JSON with sorted keys, without blanks, in ASCII"


def _ordered(image: ExaminedImage) -> Checked:
    """Platforms in the index; images, blobs and layers of image sets."""
    platforms = [str(entry.pointer.descriptor.platform) for entry in image.entries if entry.platform and entry.pointer.descriptor]
    if platforms:
        yield None if platforms == sorted(platforms) else f"index: the platforms are not sorted: {', '.join(platforms)}"
    for images in image.sets:
        for key, name in (("images", "name"), ("blobs", "digest")):
            listed = _texts(images.config_document.get(key), name)
            if listed is not None:
                yield None if listed == sorted(listed) else f"{images.config_document.where}: {key} are not sorted by {name}"
        digests = [layer.descriptor.digest for layer in images.layers if layer.descriptor]
        yield None if digests == sorted(digests) else f"{images.where}: layers are not sorted by digest"


def _texts(values: object, key: str) -> list[str] | None:
    """Texts of all objects of a list; None when one of them has none, which is the matter of another clause."""
    entries = [value.get(key) if isinstance(value, Mapping) else None for value in values] if isinstance(values, list) else [None]
    texts = [text for text in entries if isinstance(text, str)]
    return texts if len(texts) == len(entries) else None


def _times(image: ExaminedImage) -> Checked:
    for root in image.roots:
        config = root.config_document
        if config.value is None:
            continue
        history = config.get("history")
        parts: list[tuple[str, Mapping[str, Any]]] = [(config.where, config.value)]
        for number, step in enumerate(history if isinstance(history, list) else ()):
            if isinstance(step, Mapping):
                parts.append((f"{config.where} .history[{number}]", step))
        for where, part in parts:
            if "created" in part:
                yield None if part["created"] == EPOCH else f"{where}: created is {str(part['created'])[:80]!r}, not {EPOCH}"


CLAUSES = (
    Clause("CI-REPRO-1", "documents are canonical JSON", "documents", _canonical),
    Clause("CI-REPRO-2", "platforms, images and blobs are sorted", "lists", _ordered),
    Clause("CI-REPRO-3", f"times in configs are {EPOCH}", "times", _times),
    *rootfs.REPRODUCIBILITY,
)
