"""Many small transfers at once, which end together at the first failure."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.process import parallel

JOBS = 8
"""Blobs that are on their way at once."""

_T = TypeVar("_T")


class WorkerPool:
    """Runs many small jobs at once; the first failure ends them all. Blocking reads are aborted."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self._open: set[Any] = set()

    def each(self, work: Callable[[_T], object], items: Iterable[_T]) -> None:
        """``work(item)`` for every item. Raises what the first failure raised, when none runs any more."""
        parallel(work, items, JOBS, self._end)

    def _end(self) -> None:
        self.stop.set()
        self.client.close()  # no thread waits for another attempt
        with self.lock:
            streams = tuple(self._open)
        for stream in streams:
            stream.abort()

    @contextlib.contextmanager
    def abortable(self, stream: Any) -> Iterator[None]:
        with self.lock:
            self._open.add(stream)
        try:
            yield
        finally:
            with self.lock:
                self._open.discard(stream)
            stream.close()

    def check(self) -> None:
        if self.stop.is_set():
            raise RemoteError("cancelled", status=503)
