"""An archive as a stream: a file, volumes or standard input, compressed or not, with limits on what it may become."""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from harness import log
from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci.archive import index, volumes
from harness.oci.archive.index import Index
from harness.oci.archive.volumes import DamagedError
from harness.oci.layer import compression, tar_reader

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")

_BUFFER = 1 << 20


class ArchiveSource:
    """An archive being read. ``declared``: bytes that its manifests speak of so far; what is beyond must be worth its size."""

    def __init__(self, file: io.BufferedReader[Any], where: str, size: int) -> None:
        self.where = where
        self.size = size
        """Size of the file in bytes, 0 when it is not known."""
        self.declared = 0
        self.taken = 0
        """Bytes of the blobs that were read."""
        begin = file.peek(8)
        if not begin:
            raise DamagedError(f"{where} is empty", hint="was it copied whole?")
        if other := compression.foreign(begin):
            raise StoreError(f"{where} is compressed with {other[0]}, which is not read here", hint=f"undo that first: {other[1]}")
        self._compressed = compression.compression_of(begin) != "none"
        self._input = _Counter(cast("BinaryIO", file))
        self._reader = compression.reader(cast("BinaryIO", self._input), compression.compression_of(begin))
        self._output = 0
        self.tar = tar_reader.TarReader(self)

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._output += len(data)
        if self._compressed and self._output > self.declared + compression.RATIO * self._input.size + compression.SLACK:
            raise DamagedError(
                f"the archive is refused: {log.size(self._input.size)} of it decompress to more than {log.size(self._output)}, "
                "of which no manifest speaks"
            )
        return data

    def metered(self, meter: Meter | None) -> Callable[[int], bytes]:
        """Reads from the entry at hand, and counts it when it is known what it counts towards."""

        def read(size: int) -> bytes:
            data = self.tar.read(size)
            self.taken += len(data)
            if meter and meter.total:
                meter.add(len(data))
            return data

        return read

    def skip(self) -> None:
        """Go on behind the entry at hand, without reading it where that can be."""
        if not self._compressed:
            self.tar.skip(self._input.file)

    def drain(self) -> None:
        """Read what comes after the end mark, so that what a compressed stream or a volume says of itself is checked."""
        remaining = compression.SLACK
        while remaining > 0 and (data := self.read(_BUFFER)):
            remaining -= len(data)


class _Counter:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.file.read(size)
        self.size += len(data)
        return data


@contextlib.contextmanager
def opened(source: Path | BinaryIO) -> Iterator[ArchiveSource]:
    """Raises StoreError when it cannot be read, DamagedError when it is not what it should be: of volumes it says which one."""
    where = str(source) if isinstance(source, Path) else "the input"
    try:
        with contextlib.ExitStack() as stack:
            size = 0
            if isinstance(source, Path):
                raw = stack.enter_context(volumes.reading(volumes.find(source)))
                size = raw.size
                file = io.BufferedReader(raw, _BUFFER)
            else:
                file = source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("Any", source), _BUFFER)
            with _understood(where):
                yield ArchiveSource(file, where, size)
    except OSError as problem:
        raise StoreError(f"{where}: {problem.strerror or problem}") from problem


@contextlib.contextmanager
def _understood(where: str) -> Iterator[None]:
    try:
        yield
    except (tar_reader.TarError, *compression.BROKEN) as wrong:
        raise DamagedError(f"{where} is not a readable OCI archive: {wrong}", hint="was it copied whole?") from wrong


def safe_name(entry: tar_reader.TarEntry) -> str:
    """The path without ``./``. Nothing is unpacked by name, but a file with such entries was not made by slipway or skopeo."""
    if entry.kind not in ("file", "folder"):
        raise DamagedError(f"the archive is refused: its entry {entry.name!r} is a link or a device")
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise DamagedError(f"the archive is refused: its entry {entry.name!r} leaves its folder")
    return posixpath.normpath(entry.name)


def blob_of(name: str) -> str | None:
    """The digest of the blob that an entry with this name holds; None for other entries."""
    match = _BLOB.fullmatch(name)
    return f"sha256:{match[1]}" if match else None


def read_index(source: ArchiveSource, entry: tar_reader.TarEntry) -> Index:
    """The index.json that is the entry at hand. Raises DamagedError."""
    if entry.size > index.LARGEST:
        raise DamagedError(f"the archive is refused: its index.json has {log.size(entry.size)}")
    return Index.parse(b"".join(iter(source.tar.read, b"")))
