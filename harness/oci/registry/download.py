"""One blob that is in the store or on its way there: any number of readers follow it while it arrives."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from harness.errors import StoreError
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.sources import Stream
from harness.oci.store import CHUNK, Store


class BlobContent(Protocol):
    """A blob that is in the store or arriving: its bytes lie in a file that may still grow."""

    @property
    def size(self) -> int: ...

    def available(self, offset: int) -> int:
        """Wait until bytes after ``offset`` may be given away; up to which offset they may. Raises SlipwayError."""

    def open(self) -> contextlib.AbstractContextManager[int]:
        """A file descriptor to read from."""

    def result(self) -> None:
        """Wait until the blob is in the store. Raises SlipwayError."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A blob that is in the store."""

    path: Path
    size: int

    def available(self, offset: int) -> int:  # noqa: ARG002 - all of it, always
        return self.size

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def result(self) -> None: ...


class BlobDownload:
    """One blob on its way from a source into the store. Runs in a thread of its own; any number of readers may follow it.

    The last piece is held back until the digest of the whole is right: no reader gets a complete body with wrong bytes.
    """

    def __init__(
        self, store: Store, reference: Reference, digest: str, open: Callable[[], Stream], forget: Callable[[BlobDownload], object]
    ) -> None:
        self.digest = digest
        self._store = store
        self._reference = reference
        self._open = open
        self._forget = forget
        self._aborted = False
        self._size: int | None = None
        self._released = 0
        self._verified = False
        self._ended = False
        self._error: Exception | None = None
        self._file: int | None = None
        self._stream: Stream | None = None
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name=f"fetch {digest[7:19]}", daemon=True)

    @property
    def size(self) -> int:
        """Size in bytes; waits until the source reports it. Raises SlipwayError when it does not have the blob."""
        with self._changed:
            self._changed.wait_for(lambda: self._size is not None or self._error)
            if self._size is None:
                raise self._failure()
            return self._size

    def available(self, offset: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._verified or self._released > offset)
            if self._error and not self._verified:
                raise self._failure()
            return self._released

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        with self._changed:
            descriptor = os.dup(self._file) if self._file is not None else None
        if descriptor is None:  # it ended meanwhile: the store has the whole blob
            descriptor = os.open(self._store.path(self.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def result(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended)
            if self._error:
                raise self._failure()

    def abort(self) -> None:
        """End it; a read that waits fails now."""
        with self._changed:
            self._aborted = True
            stream = self._stream
        if stream:
            stream.abort()

    def _failure(self) -> Exception:
        """A copy for each reader: a raised exception keeps the stack of the reader that raised it."""
        error = self._error
        if isinstance(error, RemoteError):
            return RemoteError(error.message, status=error.status, code=error.code, hint=error.hint)
        if isinstance(error, StoreError):
            return StoreError(error.message, hint=error.hint)
        return error or StoreError(f"blob {self.digest} is not here")

    def _run(self) -> None:
        error: Exception | None = None
        # Every kind of error must reach the readers that wait.
        try:
            self._receive()
        except Exception as problem:
            error = problem
        # Remove it from the table first: a caller that retries must start a new download and not join this one.
        self._forget(self)
        with self._changed:
            self._error = error
            self._ended = True
            if self._file is not None:
                os.close(self._file)
                self._file = None
            self._changed.notify_all()

    def _receive(self) -> None:
        stream = self._open()
        with self._changed:
            self._stream = stream
        try:
            size = stream.size
            if size is None:
                raise RemoteError(f"{self._reference}: blob {self.digest} comes without a length", code="BLOB_UNKNOWN")
            with self._store.writer(self.digest) as writer:
                with self._changed:
                    self._file = os.open(writer.path, os.O_RDONLY | os.O_CLOEXEC)
                    self._size = size
                    self._changed.notify_all()
                while chunk := stream.read(CHUNK):
                    if self._aborted:
                        raise RemoteError("cancelled", status=503, code="UNAVAILABLE")
                    if writer.size + len(chunk) > size:
                        raise RemoteError(f"{self._reference}: blob {self.digest} is longer than {size} bytes", code="BLOB_UNKNOWN")
                    before = writer.size
                    writer.write(chunk)
                    self._release(writer.size if writer.size < size else before)
                if writer.digest != self.digest:
                    raise RemoteError(
                        f"{self._reference}: {getattr(stream, 'source', '')}: {writer.size} bytes that should be blob {self.digest} "
                        f"are {writer.digest}",
                        code="DIGEST_INVALID",
                    )
                self._release(size, verified=True)
        finally:
            stream.close()

    def _release(self, upto: int, *, verified: bool = False) -> None:
        with self._changed:
            self._released = upto
            self._verified = verified
            self._changed.notify_all()
