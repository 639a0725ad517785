"""Files of blobs that are being written or fetched: hashed as they grow, so that their digest is known at the end."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

from harness.errors import StoreError
from harness.host import liveness


class MismatchError(StoreError):
    """The content has another digest or size. ``resumed``: a part of it came from an earlier attempt."""

    def __init__(self, expected: str, actual: str, size: int, *, resumed: bool = False) -> None:
        super().__init__(
            f"{size} bytes that should be {expected} are {actual}", hint="the transfer was cut short or changed on its way; try again"
        )
        self.resumed = resumed


class BlobWriter:
    """One blob being written: feed it with write(). ``digest`` and ``size`` are of what the disk has taken."""

    def __init__(self, path: Path, disk: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.path = path
        self.size = 0
        self._disk = disk
        self._hash = hashlib.sha256()
        self._file = self._open()

    def _open(self) -> FileIO:
        return self.path.open("xb", buffering=0)

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> int:
        """Raises StoreError when the disk refuses."""
        rest = memoryview(data)
        # Only the disk's own errors become the store's: those of the source pass unchanged.
        with self._disk():
            while rest:
                written = self._file.write(rest)
                # Only what is on disk counts: a full disk may take a part.
                self._hash.update(rest[:written])
                self.size += written
                rest = rest[written:]
        return len(data)

    def flush(self) -> None:
        """Wait for the disk: a power cut after the rename must not leave an empty file under a good name."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class PartialBlob(BlobWriter):
    """A blob being fetched, of which ``size`` bytes are in its file already. Feed it the rest with write()."""

    def __init__(self, path: Path, disk: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        with disk():
            super().__init__(path, disk)
            try:
                liveness.lock(self._file.fileno(), fcntl.LOCK_EX, path)
                # With what an earlier try left; its bytes count only when the digest of the whole is right.
                self._hash = hashlib.file_digest(self._file, "sha256")
                self.size = self._file.tell()
                self.resumed = self.size > 0
            except BaseException:
                self._file.close()
                raise

    def _open(self) -> FileIO:
        return FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+")

    def restart(self) -> None:
        """Forget what an earlier try left."""
        with self._disk():
            self._file.seek(0)
            self._file.truncate()
        self._hash, self.size, self.resumed = hashlib.sha256(), 0, False

    @property
    def lost(self) -> bool:
        """Return True when another process finished or removed the file while this one waited for it."""
        try:
            return self.path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return True
