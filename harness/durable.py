"""Small files that survive a full disk and a power cut: at any moment a path has all of its old content or all of the new one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from harness.errors import StoreError


def write(path: Path, data: str | bytes, *, mode: int = 0o600) -> None:
    """Replace a file in one move and wait for the disk. Raises StoreError; then the old file stands and nothing else is left."""
    part = ""
    try:
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        Path(part).replace(path)
        part = ""
        sync_folder(path.parent)
    except OSError as problem:
        full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreError(
            f"{path} cannot be written: {problem.strerror or problem}",
            hint=f"{f'see df -h {path.parent}, free some' if full else f'see ls -ld {path.parent}'}, and run the same command again",
        ) from problem
    finally:
        # The content may be a secret.
        if part:
            with contextlib.suppress(OSError):
                Path(part).unlink()


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
