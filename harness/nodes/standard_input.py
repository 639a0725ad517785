"""Standard input of a command on a node: bytes, a file, or a writer that feeds a pipe."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from harness.nodes import Input
from harness.nodes.files import CountingPipe


@contextlib.contextmanager
def opened(source: Input, count: Callable[[int], None]) -> Iterator[str | bytes | BinaryIO | None]:
    """Input for process.run: a writer gets one end of a pipe in a thread, the program the other. The bytes are counted."""
    if not callable(source):
        if isinstance(source, str | bytes):
            count(len(source))
        elif source is not None:
            with contextlib.suppress(OSError):
                count(os.fstat(source.fileno()).st_size - source.tell())
        yield source
        return
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def write() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=1 << 20) as stream:
                counted = CountingPipe(stream)
                try:
                    source(cast("BinaryIO", counted))
                finally:
                    count(counted.tell())
        except BrokenPipeError:
            pass  # the program ended before it had read everything: its exit code says why
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=write, daemon=True)
    with os.fdopen(reading, "rb", buffering=0) as stream:
        thread.start()
        try:
            yield stream
        finally:
            # Closing this end stops a writer whose reader has ended.
            stream.close()
            thread.join()
    if failure:
        raise failure[0]
