"""Merged rootfs trees in the cache: each unpacked once for all processes, and removed only when no process uses it.

rootfs/<identity>/    a tree; a process that uses it holds a shared flock on the folder until it ends
rootfs/.unpacking-*   a tree that is not whole yet
rootfs/.removing-*    a tree that is on its way out
rootfs.stores         a line for each store whose images have trees here
rootfs.lease          flock: shared while a tree is looked for or unpacked, exclusive while it is decided which ones go
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from harness.host import liveness, paths
from harness.oci.layer import unpack
from harness.oci.model import Descriptor
from harness.oci.store import Store

_locks: dict[Path, int] = {}
"""Open folders of the trees that this process uses."""
_holding = threading.Lock()


def folder() -> Path:
    return paths.cache() / "rootfs"


def identity(layers: Sequence[Descriptor]) -> str:
    """Key of a merged tree: a digest over its layers, lowest first."""
    return hashlib.sha256("\n".join(layer.digest for layer in layers).encode()).hexdigest()[:32]


def unpacked_rootfs(store: Store, layers: Sequence[Descriptor]) -> Path:
    """The merged tree of these layers, unpacked when it does not exist. It stays as long as this process lives. Do not change it.

    Raises StoreError when a layer is missing, damaged, or may not be unpacked.
    """
    place = folder() / identity(layers)
    _private(place.parent)
    with _lease(fcntl.LOCK_SH):
        _remember(store)
        if not place.is_dir():
            _unpack(store, layers, place)
        _hold(place)
    return place


def _remember(store: Store) -> None:
    root = store.root.resolve()
    if root not in stores():
        with _stores().open("a") as file:
            file.write(f"{root}\n")


def stores() -> tuple[Path, ...]:
    """Every store whose images have had trees here: several homes may share one cache."""
    with contextlib.suppress(FileNotFoundError):
        return tuple(dict.fromkeys(map(Path, _stores().read_text().splitlines())))
    return ()


def _stores() -> Path:
    return folder().with_name("rootfs.stores")


def _private(place: Path) -> None:
    """Make the folder of all trees, for this user only: files in a tree have the modes that a node is to give them, setuid included."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(place.stat().st_mode) != 0o700:
        place.chmod(0o700)


def _unpack(store: Store, layers: Sequence[Descriptor], place: Path) -> None:
    scratch = Path(tempfile.mkdtemp(dir=place.parent, prefix=".unpacking-"))
    try:
        with store.shared_lease():
            unpack(store, layers, scratch / "tree")
        try:
            (scratch / "tree").rename(place)
        except OSError:
            if not place.is_dir():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _hold(place: Path) -> None:
    with _holding:
        lock = _locks.get(place)
        if lock is not None:
            if os.fstat(lock).st_ino == place.stat().st_ino:
                return
            os.close(lock)
        opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(opened, fcntl.LOCK_SH)
        _locks[place] = opened


def _lease(how: int) -> contextlib.AbstractContextManager[None]:
    return liveness.locked(folder().with_suffix(".lease"), how)


# Removing


@dataclasses.dataclass(frozen=True)
class Removal:
    """Trees that went, or would go. ``in_use`` counts those that stay because a process uses them; ``busy``: one is being unpacked."""

    count: int = 0
    bytes: int = 0
    in_use: int = 0
    busy: bool = False


def remove(needed: Collection[str], *, dry_run: bool = False) -> Removal:
    """Remove every tree whose identity is not in ``needed`` and that no process uses, and what killed processes left half done."""
    root = folder()
    if not root.is_dir():
        return Removal()
    in_use, going, total = 0, [], 0
    try:
        with _lease(fcntl.LOCK_EX | fcntl.LOCK_NB):
            for place in sorted(path for path in root.iterdir() if path.is_dir() and path.name not in needed):
                with _claimed(place) as free:
                    if not free:
                        in_use += 1
                        continue
                    total += size(place)
                    going.append(place if dry_run else _aside(place))
    except BlockingIOError:
        return Removal(busy=True)
    if not dry_run:
        _delete(going)
    return Removal(len(going), total, in_use)


@contextlib.contextmanager
def _claimed(place: Path) -> Iterator[bool]:
    """Yield True when no process uses the tree; none can start to while the block runs."""
    opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(opened)


def _aside(place: Path) -> Path:
    """Take a tree away at once: a kill while it is deleted must not leave half of one under a good name."""
    if place.name.startswith("."):
        return place
    return place.rename(place.with_name(f".removing-{place.name}-{secrets.token_hex(4)}"))


def _delete(trees: Iterable[Path]) -> None:
    for tree in trees:
        open_folders(tree)
        shutil.rmtree(tree, ignore_errors=True)


def open_folders(tree: Path) -> None:
    """Let this user read and remove folders of a rootfs: they may be read-only or closed to all but root, and this may be another."""
    for parent, folders, _ in os.walk(tree):
        for name in folders:
            inside = Path(parent, name)
            if not inside.is_symlink():
                inside.chmod(0o700)


def size(tree: Path) -> int:
    """Bytes of the files below a folder, each file with several names once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, files in os.walk(tree):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                state = Path(parent, name).lstat()
                sizes[state.st_dev, state.st_ino] = state.st_size
    return sum(sizes.values())
