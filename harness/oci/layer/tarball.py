"""Tar files as people hand them round: plain, or compressed with gzip, bzip2 or xz; read in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from harness import log
from harness.errors import StoreError
from harness.oci.layer import compression, tar_reader
from harness.oci.layer.extract import MOST_ENTRIES, WHITEOUT, Extraction
from harness.oci.layer.tar_reader import TarEntry, TarReader
from harness.untrusted import Ceiling

_BROKEN = (tar_reader.TarError, *compression.BROKEN, lzma.LZMAError, OSError, ValueError)
_MEMORY = 192 << 20
"""Bytes that an xz stream may ask for; `xz -9` needs 65 MiB."""
_BUFFER = 128 << 10


@contextlib.contextmanager
def open_tarball(path: Path) -> Iterator[TarReader]:
    """The entries of a tar file, to be read once. Raises StoreError when it is not a tar, or larger than 200 times its size."""
    with path.open("rb") as file:
        size = path.stat().st_size
        content = Ceiling(
            cast("BinaryIO", _reader(file)),
            compression.RATIO * size + compression.SLACK,
            what=f"{path.name}: what its {log.size(size)} decompress to",
        )
        try:
            yield TarReader(cast("compression.Readable", io.BufferedReader(content, _BUFFER)), most=MOST_ENTRIES, marked=False)
        except _BROKEN as wrong:
            raise StoreError(f"{path.name} is not a readable tar: {wrong}") from wrong


def is_tarball(path: Path) -> bool:
    """True when a tar begins in the file."""
    try:
        with open_tarball(path) as tar:
            next(iter(tar), None)
    except StoreError:
        return False
    return True


def extract(path: Path, folder: Path) -> None:
    """Unpack into an empty folder. Owners, times, setuid bits and the right of others to write are not kept.

    Raises StoreError for what is not a tar, for devices, and for entries and links that lead out of the folder.
    """
    tree = Extraction(folder.resolve())
    with open_tarball(path) as tar:
        tree.lay_tar(_Plain(tar, path.name), path.name)
        tree.finish()


class _Plain:
    """The entries of a tar with the names and modes that any folder may have; none of them removes another."""

    def __init__(self, tar: TarReader, what: str) -> None:
        self.read = tar.read
        self._tar = tar
        self._what = what

    def __iter__(self) -> Iterator[TarEntry]:
        for entry in self._tar:
            if entry.name.rpartition("/")[2].startswith(WHITEOUT):
                raise StoreError(f"{self._what}: {entry.name!r} would mean a removal in a layer")
            mode = (0o755 if entry.mode & 0o100 else 0o644) & (entry.mode | 0o700)
            yield dataclasses.replace(entry, name=entry.name.lstrip("/"), mode=0o755 if entry.kind == "folder" else mode)


def _reader(file: BinaryIO) -> compression.Readable:
    begin = file.read(6)
    file.seek(0)
    if begin.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if begin.startswith(b"\xfd7zXZ\0"):
        return _XzReader(file)
    return compression.reader(file, "gzip" if compression.compression_of(begin) == "gzip" else "none")


class _XzReader:
    """read() of what an xz file holds, any number of streams. Raises lzma.LZMAError or EOFError when it is damaged or cut."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._engine = self._begin()

    def read(self, size: int) -> bytes:
        while True:
            if self._engine.eof:
                rest = self._engine.unused_data or self._file.read(_BUFFER)
                # Streams may be padded with zeros (xz-file-format, section 2.2).
                rest = rest.lstrip(b"\0")
                if not rest:
                    return b""
                self._engine = self._begin()
                data = self._engine.decompress(rest, size)
            else:
                more = self._file.read(_BUFFER) if self._engine.needs_input else b""
                if not more and self._engine.needs_input:
                    raise EOFError("the xz stream ends too early")
                data = self._engine.decompress(more, size)
            if data:
                return data

    @staticmethod
    def _begin() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)
