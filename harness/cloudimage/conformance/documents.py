"""Documents of an image as they lie in a store, a layout or an archive: read with limits, never believed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol, cast

from harness import untrusted
from harness.errors import StoreError
from harness.oci.model import Descriptor

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_ANY_DIGEST = f"sha256:{'0' * 64}"


class ExaminedBlobs(Protocol):
    """Blobs by digest: a Store, or a LayoutFolder. Both methods raise StoreError for a blob that cannot be read."""

    def size(self, digest: str) -> int: ...
    def open(self, digest: str, /) -> BinaryIO: ...


@dataclasses.dataclass(frozen=True)
class Pointer:
    """A descriptor as a document holds it. ``descriptor`` is None when the descriptor is not usable; ``where`` is its path."""

    where: str
    descriptor: Descriptor | None
    shape_fault: str | None = None
    digest_fault: str | None = None


@dataclasses.dataclass(frozen=True)
class ImageDocument:
    """An index, a manifest or a config. ``data`` is None when the blob is missing or has other bytes than its digest says."""

    where: str
    data: bytes | None = None
    value: Mapping[str, Any] | None = None
    problem: str | None = None
    """Reason for which the bytes are not a JSON object within the limits."""

    def get(self, key: str) -> Any:
        return (self.value or {}).get(key)


def is_sha256(digest: str) -> bool:
    return _SHA256.fullmatch(digest) is not None


def pointer(where: str, value: object) -> Pointer:
    """The descriptor that ``value`` is, as far as it is one."""
    try:
        descriptor = Descriptor.from_json(cast("Mapping[str, Any]", value))
    except ValueError as wrong:
        return _unusable(where, value, str(wrong))
    if not is_sha256(descriptor.digest):
        return Pointer(where, None, digest_fault=f"{where}: {descriptor.digest[:80]!r} is not a sha256 digest")
    return Pointer(where, descriptor)


def _unusable(where: str, value: object, why: str) -> Pointer:
    if isinstance(value, Mapping) and isinstance(value.get("digest"), str):
        try:
            Descriptor.from_json({**value, "digest": _ANY_DIGEST})
        except ValueError:
            pass
        else:
            return Pointer(where, None, digest_fault=f"{where}: {str(value['digest'])[:80]!r} is not a sha256 digest")
    return Pointer(where, None, shape_fault=f"{where}: {why}")


def pointers(where: str, values: object) -> tuple[Pointer, ...] | None:
    """The descriptors of a list; None for what is not a list."""
    if not isinstance(values, list):
        return None
    return tuple(pointer(f"{where}[{number}]", value) for number, value in enumerate(values))


def parsed(where: str, data: bytes) -> ImageDocument:
    """A document of these bytes."""
    try:
        return ImageDocument(where, data, untrusted.json_object(data, what=where))
    except StoreError as wrong:
        return ImageDocument(where, data, problem=wrong.message)
