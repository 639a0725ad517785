"""Large temporary files and trees: on the disk of the cache (/tmp may be memory), in a folder a process, gone when it is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness import paths


def folder() -> Path:
    """This process's folder, made when it is not there."""
    found = paths.cache() / "tmp" / str(os.getpid())
    found.mkdir(parents=True, exist_ok=True)
    return found


def abandoned() -> tuple[Path, ...]:
    """The folders of processes that were killed."""
    return tuple(left for left in (paths.cache() / "tmp").glob("*") if not (left.name.isdigit() and Path("/proc", left.name).exists()))


@contextlib.contextmanager
def cleaned() -> Iterator[None]:
    """Removes our folder when the block ends, and before it those of processes that were killed."""
    for left in abandoned():
        shutil.rmtree(left, ignore_errors=True)
    try:
        yield
    finally:
        shutil.rmtree(folder(), ignore_errors=True)
