"""Compressed streams, known by their first bytes: gzip and zstd, read in bounded memory, written with several processors."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Literal, Protocol, Self, cast

import zstandard

from harness.oci.layer.gzip import GzipReader, GzipWriter

Compression = Literal["none", "gzip", "zstd"]

BROKEN = (zlib.error, zstandard.ZstdError, EOFError)
"""Exceptions of the readers for a damaged or truncated stream."""

RATIO = 200
"""Largest ratio of decompression where no manifest states a size; layers of text reach 20."""
SLACK = 64 << 20
"""Bytes that are allowed on top of RATIO."""

LEVEL = 3
"""Of zstd for whole archives, where more takes much longer for little: what is in them are mostly blobs that are compressed already."""

PROGRAMS = 12
"""Of zstd for layers: Go binaries come out a fifth smaller than gzip makes them. Only level 19 is better by more than 1 %, and takes
ten times as long."""

_MOST_THREADS = 8
_JOB = 2 << 20
"""Bytes that a thread compresses at a time: four times as many, the default, take four times the memory and are no smaller."""
_PIECE = 1 << 20
_LARGEST_WINDOW = 128 << 20
"""Memory that a zstd stream may ask for: the default limit of the program ``zstd``."""
_LARGEST_BLOCK = 128 << 10
_ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_GZIP = b"\x1f\x8b"
_OTHERS = (
    (b"\xfd7zXZ\0", "xz", "xz -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def compression_of(begin: bytes) -> Compression:
    """By the first four bytes of a stream."""
    if begin.startswith(_GZIP):
        return "gzip"
    return "zstd" if begin[:4] == _ZSTD or (len(begin) >= 4 and int.from_bytes(begin[:4], "little") in _SKIPPABLE) else "none"


def foreign(begin: bytes) -> tuple[str, str] | None:
    """The name of a compression that is not read here, and the command that undoes it."""
    return next(((name, command) for magic, name, command in _OTHERS if begin.startswith(magic)), None)


def reader(file: BinaryIO, how: Compression) -> Readable:
    """Content of a compressed file. Its read() raises one of BROKEN when the file is damaged or truncated."""
    match how:
        case "gzip":
            return GzipReader(file)
        case "zstd":
            return ZstdReader(file)
        case _:
            return cast("Readable", file)


class Writer(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None: ...
    def write(self, data: bytes, /) -> int: ...


def writer(sink: Callable[[bytes], object], how: Compression) -> Writer:
    """Compresses what is written to it and hands it to ``sink``; equal bytes in, equal bytes out. Use it in a ``with`` block."""
    match how:
        case "gzip":
            return GzipWriter(sink)
        case "zstd":
            return ZstdWriter(sink)
        case _:
            return _Plain(sink)


class _Plain:
    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None: ...

    def write(self, data: bytes) -> int:
        self._sink(data)
        return len(data)


class ZstdWriter:
    """One zstd frame with a checksum, made by as many threads as there are processors; their number does not change its bytes."""

    def __init__(self, sink: Callable[[bytes], object], level: int = LEVEL) -> None:
        self._sink = sink
        # Never 0 threads, which would cut the blocks in other places.
        threads = min(os.cpu_count() or 1, _MOST_THREADS)
        how = zstandard.ZstdCompressionParameters.from_level(level, threads=threads, job_size=_JOB, write_checksum=True)
        self._engine = zstandard.ZstdCompressor(compression_params=how).compressobj()

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> int:
        self._give(self._engine.compress(data))
        return len(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if kind is None:
            self._give(self._engine.flush())

    def _give(self, data: bytes) -> None:
        if data:
            self._sink(data)


class ZstdReader:
    """read() of what a zstd stream holds, any number of frames. Raises zstandard.ZstdError or EOFError when it is damaged or cut.

    The library is given one block at a time (RFC 8878, section 3.1.1): it can neither say that a stream was cut nor stop at a number of
    bytes, while a block never holds more than 128 KiB, whatever a hostile stream says.
    """

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._content = self._blocks()
        self._rest = memoryview(b"")

    def read(self, size: int = _PIECE) -> bytes:
        """At most ``size`` bytes; nothing only at the end."""
        while not self._rest:
            block = next(self._content, None)
            if block is None:
                return b""
            self._rest = memoryview(block)
        data, self._rest = self._rest[:size], self._rest[size:]
        return bytes(data)

    def _blocks(self) -> Iterator[bytes]:
        while begin := self._file.read(1):
            magic = begin + self._exactly(3)
            if int.from_bytes(magic, "little") in _SKIPPABLE:
                self._skip(*struct.unpack("<I", self._exactly(4)))
            elif magic == _ZSTD:
                yield from self._frame()
            elif any(magic):
                raise zstandard.ZstdError("there is something else behind a frame")

    def _frame(self) -> Iterator[bytes]:
        head, has_checksum = self._frame_header()
        engine = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
        last = False
        while not last:
            block = self._exactly(3)
            fields = int.from_bytes(block, "little")
            last, run, size = bool(fields & 1), fields >> 1 & 3 == 1, fields >> 3
            if size > _LARGEST_BLOCK:
                raise zstandard.ZstdError("a block is larger than blocks may be")
            yield engine.decompress(head + block + self._exactly(1 if run else size))
            head = b""
        if has_checksum:
            yield engine.decompress(self._exactly(4))
        if not engine.eof:
            raise zstandard.ZstdError("a frame does not end where it says")

    def _frame_header(self) -> tuple[bytes, bool]:
        flags = self._exactly(1)
        single = bool(flags[0] & 0x20)
        dictionary = (0, 1, 2, 4)[flags[0] & 3]
        content_size = (1 if single else 0, 2, 4, 8)[flags[0] >> 6]
        return _ZSTD + flags + self._exactly((not single) + dictionary + content_size), bool(flags[0] & 4)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._exactly(min(size, _PIECE)))

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:
                raise EOFError("the zstd stream ends too early")
            data += more
        return data
