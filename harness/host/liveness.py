"""Liveness of the owner of a folder or a label, also when containers share a cache, a Docker engine or a host name.

A process id alone says nothing: another container has its own numbers. A folder is held by a flock, which ends with the process
and is seen by every process that sees the folder. Without a folder, a label holds boot, PID namespace, process id and start time; only a
process of the same namespace can see that such an owner has ended.

``filelock`` locks no folder and no file that is being written, and its only lock that readers share is a SQLite database: all locks here
are plain flocks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import log

_LABEL = re.compile(r"([0-9a-f]{32})\.([0-9]+)\.([0-9]+)\.([0-9]+)")


def process_label() -> str:
    """This process: ``BOOT.NAMESPACE.PID.START``, of letters, digits and points."""
    return f"{_boot()}.{_namespace()}.{os.getpid()}.{_start(os.getpid())}"


def has_ended(label: str) -> bool:
    """True only when it is certain that the process of a label has ended: it was one of this boot and of this PID namespace."""
    match = _LABEL.fullmatch(label)
    if match is None or not _boot().strip("0") or match[1] != _boot() or match[2] != _namespace() or match[2] == "0":
        return False
    return _start(int(match[3])) != match[4]


def is_of_earlier_boot(label: str) -> bool:
    """Return True for a label of an earlier boot. Use it only for labels made by processes of this kernel."""
    match = _LABEL.fullmatch(label)
    return match is not None and bool(_boot().strip("0")) and match[1] != _boot()


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    return "0" * 32


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    return "0"


def _start(process: int) -> str:
    """Start time of a process, in ticks since boot; empty when it does not exist, or is a zombie."""
    with contextlib.suppress(OSError, IndexError):
        # The name of the program, in brackets, may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return fields[19] if fields[0] not in "ZX" else ""
    return ""


_SAY_AFTER = 10.0
"""Seconds of waiting for another process before the user is informed."""


def lock(descriptor: int, how: int, path: Path) -> None:
    """Take a flock; report a long wait once. The process that has it may have been stopped."""
    if how & fcntl.LOCK_NB:
        fcntl.flock(descriptor, how)
        return
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    told = threading.Timer(_SAY_AFTER, log.info, (f"waiting for another process that holds {path} (fuser {path} names it)",))
    told.daemon = True
    told.start()
    try:
        fcntl.flock(descriptor, how)
    finally:
        told.cancel()


@contextlib.contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a flock on a file that exists only for this. Raises BlockingIOError when ``how`` says not to wait, and OSError.

    A new open file each time: flock belongs to it, so threads exclude each other as processes do, and the kernel lets go of it when the
    process is killed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor, how, path)
        yield
    finally:
        os.close(descriptor)


class HeldFolder:
    """A new folder ``PARENT/PREFIX...`` that is held until ``remove`` or the end of the process."""

    def __init__(self, parent: Path, prefix: str = "") -> None:
        while True:
            self.path = parent / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
            self.path.mkdir(mode=0o700)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            # Another process may have taken it for left over, between the two lines above.
            if _same(self._descriptor, self.path):
                return
            os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the folder and all that is in it. May be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_abandoned(folder: Path) -> bool:
    """Return True when no process holds a folder."""
    return _unheld(folder, lambda: None)


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Hold a folder that exists while the block runs. Raises FileNotFoundError when another process has just removed it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        lock(descriptor, fcntl.LOCK_SH, folder)
        if not _same(descriptor, folder):
            raise FileNotFoundError(errno.ENOENT, "removed meanwhile", str(folder))
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, before: Callable[[], object] = lambda: None, *, only_if: Callable[[], bool] = lambda: True) -> bool:
    """Remove a folder that no process holds, after calling ``before``; False when one does.

    ``only_if`` is asked while no process can take the folder; without its consent the folder stays.
    """

    def remove() -> None:
        if only_if():
            before()
            shutil.rmtree(folder, ignore_errors=True)

    return _unheld(folder, remove)


def _unheld(folder: Path, action: Callable[[], None]) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        action()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _same(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
