"""Names and paths that come from outside."""

from __future__ import annotations

import pytest

from harness import untrusted
from harness.errors import StoreError


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "-a", "a..b", "a\n", "/", "a" * 300, 5, None, "é"])
def test_name_odd_text_is_refused(text: object) -> None:
    with pytest.raises(StoreError):
        untrusted.name(text, what="machine 10.0.0.1")


@pytest.mark.parametrize("text", ["", ".", "/", "//x", "a/../b", "..", "a\0", "x" * 300, None])
def test_relative_path_odd_text_is_refused(text: object) -> None:
    with pytest.raises(StoreError):
        untrusted.relative_path(text, what="machine 10.0.0.1")
