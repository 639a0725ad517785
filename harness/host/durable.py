"""Files that survive a full disk and a power cut: at any moment a path has all of its old content or all of the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from harness.errors import StoreError


def write(path: Path, data: str | bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one move and wait for the disk. Raises StoreError; then the old file stands and nothing else is left."""
    try:
        with replacing(path, mode=mode) as file:
            file.write(data.encode() if isinstance(data, str) else data)
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"{path} cannot be written: {problem.strerror or problem}",
            hint=f"{f'see df -h {path.parent}, free some' if full else f'see ls -ld {path.parent}'}, and run the same command again",
        ) from problem


@contextlib.contextmanager
def replacing(
    path: Path, *, mode: int | None = 0o600, folder: Path | None = None, overwrite: bool = True, sync: bool = True
) -> Iterator[BinaryIO]:
    """A new file, open to write and read, that takes the name ``path`` in one move when the block ends; if it fails, nothing is left.

    With no ``mode`` the umask decides. The file is made in ``folder``, by default beside ``path``. Without ``sync`` a power cut may leave
    an empty file. Raises OSError, and with ``overwrite=False`` FileExistsError for a path that exists.
    """
    part = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if mode is not None:
                os.fchmod(descriptor, mode)
            if sync:
                os.fsync(descriptor)
        if overwrite:
            part.replace(path)
        else:
            os.link(part, path)  # unlike a rename, refuses when another process was quicker
        if sync:
            sync_folder(path.parent)
    finally:
        # The content may be a secret.
        with contextlib.suppress(OSError):
            part.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder: a rename alone may be undone by a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as problem:
        # Some file systems cannot, and keep names in order by themselves.
        if problem.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EROFS):
            raise
    finally:
        os.close(descriptor)
