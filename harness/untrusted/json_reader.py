"""JSON that comes from outside."""

from __future__ import annotations

import collections
import json
import math
import re
from typing import Any

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message, shown
from harness.untrusted.numerals import LARGEST_INT

JSON_LIMIT = 32 << 20
"""Bytes. OCI manifests end at 4 MiB; an image set of some thousand images stays below this."""
JSON_DEPTH = 64

_STRUCTURAL = {
    *("annotations", "artifacttype", "config", "data", "diff_ids", "digest", "layers", "manifests", "mediatype"),
    *("os", "architecture", "platform", "rootfs", "schemaversion", "size", "subject", "urls", "variant"),
}
"""Keys that decide what an OCI document means. Go's reader takes ``Layers`` for ``layers``, Python's does not."""

_LONG_NUMBER = re.compile(r"[-:,\[ \t\r\n][0-9]{19}")
"""A number of JSON that may not fit into 64 bits, by what stands before it; digests of hexadecimal digits are passed over quickly."""


class _JsonReader:
    """Callbacks of the standard library's parser that refuse what it would let pass."""

    def __init__(self, what: str, error: type[SlipwayError], structural: bool = True) -> None:
        self._what, self._error, self._structural = what, error, structural
        self._shapes: set[tuple[str, ...]] = set()
        """Keys that were looked at: a thousand descriptors have the same."""

    def fail(self, problem: str) -> SlipwayError:
        return self._error(message(self._what, f"is not usable JSON: {problem}"))

    def pairs(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            twice = next(key for key, count in collections.Counter(key for key, _ in items).items() if count > 1)
            raise self.fail(f"the key {shown(twice)[:80]!r} stands twice")
        shape = tuple(value)
        if self._structural and shape not in self._shapes:
            folded = collections.Counter(key.lower() for key in shape)
            for key, count in folded.items():
                if count > 1 and key in _STRUCTURAL:
                    raise self.fail(f"keys differ in case only: {key!r}")
            self._shapes.add(shape)
        return value

    def constant(self, text: str) -> Any:
        raise self.fail(f"{text} is not a number")

    def number(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise self.fail(f"{text[:40]} is too large")
        return value

    def whole(self, text: str) -> int:
        if len(text) > 20 or not -LARGEST_INT - 1 <= (value := int(text)) <= LARGEST_INT:
            raise self.fail(f"{text[:40]} is too large")
        return value


def json_document(
    data: bytes | str,
    *,
    what: str,
    limit: int = JSON_LIMIT,
    depth: int = JSON_DEPTH,
    error: type[SlipwayError] = StoreError,
    structural: bool = True,
) -> Any:
    """Parse JSON: at most ``limit`` bytes and ``depth`` levels, no key twice, no NaN or infinity, whole numbers within 64 bits.

    ``structural``: of an OCI document, whose keys may not differ in case only; those of a ConfigMap may.
    """
    reader = _JsonReader(what, error, structural)
    if len(data) > limit:
        raise reader.fail(f"it is larger than {limit} bytes")
    try:
        text = data.decode() if isinstance(data, bytes) else data
        # A hook for each number costs more than one look for a long one.
        long = text[:1].isdigit() or _LONG_NUMBER.search(text)
        value = json.loads(
            text,
            object_pairs_hook=reader.pairs,
            parse_constant=reader.constant,
            parse_float=reader.number,
            parse_int=reader.whole if long else None,
        )
    except RecursionError as wrong:
        raise reader.fail(f"it is nested more than {depth} levels deep") from wrong
    except ValueError as wrong:
        raise reader.fail(shown(str(wrong))) from wrong
    if text.count("[") + text.count("{") > depth and _deeper_than(value, depth):
        raise reader.fail(f"it is nested more than {depth} levels deep")
    return value


def json_object(data: bytes | str, *, what: str, limit: int = JSON_LIMIT, error: type[SlipwayError] = StoreError) -> dict[str, Any]:
    """As json_document, of a document that is an object."""
    value = json_document(data, what=what, limit=limit, error=error)
    if not isinstance(value, dict):
        raise error(message(what, "is not a JSON object"))
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [child for each in level if isinstance(each, dict | list) for child in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)
