"""JSON that comes from outside."""

from __future__ import annotations

import pytest

from harness import untrusted
from harness.errors import StoreError


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "[1e999]",
        "[NaN]",
        "[" * 100 + "]" * 100,
        "[" * 100_000,
        '{"layers": 1, "Layers": 2}',
        "99999999999999999999",
        "{",
        b"\xff",
    ],
)
def test_json_odd_document_is_refused(text: str | bytes) -> None:
    with pytest.raises(StoreError, match="registry: is not usable JSON"):
        untrusted.json_document(text, what="registry")


def test_json_ordinary_document_is_read() -> None:
    assert untrusted.json_object('{"a": [1, 2.5, -3, null, true], "Label": 1, "label": 2}', what="") == {
        "a": [1, 2.5, -3, None, True],
        "Label": 1,
        "label": 2,
    }
