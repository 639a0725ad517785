"""Processes of this machine that compile Go programs at once: a lock for each result, few compiles at a time, caches that no compile loses.

go/.compile.lock, go/.compile-2.lock    flock: a compile holds one of them while ``go`` runs
go/.build.lock, go/.modules.lock        flock: shared while ``go`` uses Go's cache beside it, exclusive while that is emptied
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import log
from harness.errors import CommandError
from harness.host import liveness, paths

LARGEST = 4 << 30
"""Bytes of one of Go's caches that are kept after a compile. Kubernetes alone takes three to four GB of each."""

_ROOM = 8 << 30
"""Bytes of memory below which one compile runs at a time: Go links a program on each processor, and Kubernetes' take over 1 GB each."""


def caches() -> dict[str, Path]:
    """Return the folders of Go's caches by the variables that name them."""
    folder = paths.cache() / "go"
    return {"GOCACHE": folder / "build", "GOMODCACHE": folder / "modules"}


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Make ``target`` in one process at a time; the next one finds it. The lock ends with its process. Raises CommandError."""
    with _refusing(target.parent), contextlib.ExitStack() as stack:
        target.parent.mkdir(parents=True, exist_ok=True)
        _take(stack, [_beside(target)])
        yield


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Run ``go`` with its caches beside at most one other compile of this machine. Raises CommandError.

    Go uses every processor itself: more compiles at once would finish no sooner, and take their memory all the same. Two of them, so that a
    small program does not wait for all of Kubernetes. A process of low priority (nice) may take hours: it takes the first place only, so
    that processes of ordinary priority wait for each other at most. Take the lock of a result inside: a process that waits for its place
    with that lock would hold up those that could compile the result at once.
    """
    folder = paths.cache() / "go"
    places = [folder / ".compile.lock", folder / ".compile-2.lock"]
    if os.getpriority(os.PRIO_PROCESS, 0) > 0 or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < _ROOM:
        places.pop()
    with _refusing(folder), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        _take(stack, places)
        for cache in caches().values():
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(liveness.locked(_beside(cache.resolve()), fcntl.LOCK_SH))
        yield


@contextlib.contextmanager
def unused(name: str) -> Iterator[bool]:
    """Keep compiles away from the cache that the variable ``name`` gives them; False when one uses it.

    Go itself locks neither cache. Of a ``go`` that another program started, its environment shows that it uses one.
    """
    cache = caches()[name]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(liveness.locked(_beside(cache.resolve()), fcntl.LOCK_EX | fcntl.LOCK_NB))
        except OSError:
            yield False
            return
        yield not any(environment.get(name) == str(cache) for environment in _environments())


def large(folder: Path) -> bool:
    """Return True for a cache that takes more than ``LARGEST``. A link leads to the cache of another: that one empties it."""
    total = 0
    for root, _, names in os.walk(folder) if not folder.is_symlink() else ():
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(root, name).lstat().st_size
    return total > LARGEST


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _take(stack: contextlib.ExitStack, files: list[Path]) -> None:
    """Hold the first of some locks that is free, or wait for the last."""
    for file in files:
        with contextlib.suppress(BlockingIOError):
            stack.enter_context(liveness.locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
            return
    log.info("another slipway of this machine is compiling: this one waits for it")
    stack.enter_context(liveness.locked(files[-1], fcntl.LOCK_EX))


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(
            f"{error.filename or folder}: {error.strerror}", hint="free space there, or set SLIPWAY_CACHE to a folder that can be written"
        ) from error


def _environments() -> Iterator[Mapping[str, str]]:
    """Variables of every process that this one may look at."""
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            lines = file.read_bytes().decode(errors="replace").split("\0")
            yield {name: value for name, _, value in (line.partition("=") for line in lines)}
