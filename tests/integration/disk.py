"""A small file system, as a full disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.process import run


@contextmanager
def small(place: Path, mebibytes: int) -> Iterator[Path]:
    """An empty file system of this size at a new folder."""
    place.mkdir()
    if not run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", place], check=False).ok:
        pytest.skip("only root can mount a small file system")
    try:
        yield place
    finally:
        run(["umount", place])
