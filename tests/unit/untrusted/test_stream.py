"""Streams that come from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import untrusted
from harness.errors import StoreError


def test_ceiling_excess_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    with file.open("rb") as stream:
        assert untrusted.Ceiling(stream, 5, what="layer").read() == b"12345"
    with file.open("rb") as stream, pytest.raises(StoreError, match="layer: is larger than 4 bytes"):
        untrusted.Ceiling(stream, 4, what="layer").read()
