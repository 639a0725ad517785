"""Streams that come from outside."""

from __future__ import annotations

import io
from types import TracebackType
from typing import IO, Any

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message


class Ceiling(io.RawIOBase):
    """A stream that raises ``error`` once more than ``limit`` bytes were read from it."""

    def __init__(self, stream: IO[bytes], limit: int, *, what: str, error: type[SlipwayError] = StoreError) -> None:
        self._stream, self._left, self._limit, self._what, self._error = stream, limit, limit, what, error

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        # One byte more than allowed distinguishes the end of the stream from an excess.
        data = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise self._error(message(self._what, f"is larger than {self._limit} bytes"))
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None
