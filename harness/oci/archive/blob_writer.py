"""Blobs on their way from a stream into the store: hashed and written in threads while the stream is read on, and never twice.

A blob that is in the store already is compared with what comes, not written again; where the two differ, the one in the store was
damaged, and what comes replaces it once its digest is right.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self

from harness.errors import StoreError
from harness.oci.archive.volumes import DamagedError
from harness.oci.blob_file import BlobWriter
from harness.oci.store import CHUNK, Store

_WORKERS = 4
"""Blobs at once: the disk is waited for at the end of each, and small ones wait for little else."""
_DEPTH = 4
"""Chunks that wait for a worker."""

_Channel = queue.Queue["bytes | None"]


class Intake:
    """Use it in a ``with`` block: when that ends well all blobs are in the store, on the disk, each with its digest."""

    def __init__(self, store: Store) -> None:
        self.written = 0
        self.present = 0
        """Blobs that were in the store already."""
        self._store = store
        self._pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, thread_name_prefix="intake")
        self._waiting: dict[concurrent.futures.Future[None], str] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                for future in list(self._waiting):
                    future.result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def take(self, digest: str, size: int, read: Callable[[int], bytes]) -> None:
        """Take a blob of ``size`` bytes from ``read``. Raises what went wrong with it or with one before it."""
        self._collect()
        channel = _Channel(_DEPTH)
        future = self._pool.submit(self._keep, digest, size, channel)
        self._waiting[future] = digest
        remaining = size
        try:
            while remaining:
                chunk = read(min(CHUNK, remaining))
                remaining -= len(chunk)
                self._put(channel, chunk, future)
            self._put(channel, None, future)
        except BaseException:
            _end(channel, future)
            raise

    def wait(self, digest: str) -> None:
        """Until a blob is in the store."""
        for future in [future for future, other in self._waiting.items() if other == digest]:
            future.result()

    def _collect(self) -> None:
        for future in [future for future in self._waiting if future.done()]:
            del self._waiting[future]
            future.result()

    def _put(self, channel: _Channel, chunk: bytes | None, future: concurrent.futures.Future[None]) -> None:
        while True:
            with contextlib.suppress(queue.Full):
                channel.put(chunk, timeout=0.5)
                return
            # It is not emptied any more once its worker has failed, or an earlier one has and the pool is full.
            if future.done():
                future.result()
            self._collect()

    def _keep(self, digest: str, size: int, channel: _Channel) -> None:
        with contextlib.ExitStack() as stack:
            stored = self._there(digest, size, stack)
            writer = None if stored else stack.enter_context(self._store.writer(digest))
            hashed = hashlib.sha256()
            position = 0
            for chunk in iter(channel.get, None):
                if stored and stored.read(len(chunk)) != chunk:
                    writer = stack.enter_context(self._store.writer(digest))
                    _copy(stored, writer, position)
                    stored = None
                if writer:
                    writer.write(chunk)
                else:
                    hashed.update(chunk)
                position += len(chunk)
            actual = writer.digest if writer else f"sha256:{hashed.hexdigest()}"
            if actual != digest:
                raise DamagedError(f"{position} bytes that should be {digest} are {actual}", hint="copy the archive again")
        with self._lock:
            self.written += writer is not None
            self.present += writer is None

    def _there(self, digest: str, size: int, stack: contextlib.ExitStack) -> BinaryIO | None:
        with contextlib.suppress(StoreError):
            if self._store.size(digest) == size:
                return stack.enter_context(self._store.open(digest))
        return None


def _end(channel: _Channel, future: concurrent.futures.Future[None]) -> None:
    """Let the worker of a blob go that did not come whole: it finds the wrong digest, and keeps nothing."""
    if future.cancel():
        return
    while not future.done():
        with contextlib.suppress(queue.Full):
            channel.put(None, timeout=0.1)
            return


def _copy(source: BinaryIO, target: BlobWriter, size: int) -> None:
    """The first ``size`` bytes, which were as they should be."""
    source.seek(0)
    while size:
        chunk = source.read(min(CHUNK, size))
        target.write(chunk)
        size -= len(chunk)
