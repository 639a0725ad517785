"""Large temporary files and trees: on the disk of the cache (/tmp may be memory), in a folder a process, gone when it is."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from harness.host import liveness, paths

_held: dict[tuple[Path, int], liveness.HeldFolder] = {}
_lock = threading.Lock()


def folder() -> Path:
    """This process's folder, created when it does not exist."""
    root = paths.cache() / "tmp"
    with _lock:
        held = _held.get((root, os.getpid()))
        if held is None or not held.path.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            held = _held[root, os.getpid()] = liveness.HeldFolder(root)
        return held.path


def abandoned() -> tuple[Path, ...]:
    """The folders of processes that were killed, in whatever container they ran."""
    return tuple(path for path in sorted((paths.cache() / "tmp").glob("*")) if liveness.is_abandoned(path))


def sweep() -> None:
    """Remove them."""
    for path in (paths.cache() / "tmp").glob("*"):
        liveness.remove_abandoned(path)


@contextlib.contextmanager
def cleaned() -> Iterator[None]:
    """Remove this process's folder when the block ends, and before it those of killed processes."""
    sweep()
    try:
        yield
    finally:
        with _lock:
            held = _held.pop((paths.cache() / "tmp", os.getpid()), None)
        if held is not None:
            held.remove()
