"""Tar as a stream that nobody has to trust: read in bounded memory whatever its headers say, and never taken for whole when it was cut.

The standard library's reader takes extended headers of any size into memory and a file that ends between two entries for a whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from harness.oci.compression import Readable

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
_LARGEST_HEADER = 1 << 20
"""Bytes of an extended header; the longest path has 4 KiB."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_EXTENDED, _GLOBAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE

END = bytes(2 * _BLOCK)
"""What ends an archive."""


class TarError(Exception):
    """The stream is no tar, is damaged, or ends too early (``cut``)."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut


@dataclasses.dataclass(frozen=True)
class TarEntry:
    """``kind`` is ``file``, ``folder`` or ``other`` (a link, a device ...), ``size`` the bytes of its content."""

    name: str
    kind: str
    size: int


class TarReader:
    """The entries of a tar, in order. After each, read() gives its content, as much of it as one likes."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[TarEntry]:
        """Raises TarError. What ``source`` raises passes."""
        while (entry := self._next()) is not None:
            yield entry
            while self.read():
                pass

    def read(self, size: int = _PIECE) -> bytes:
        """At most ``size`` bytes of the entry at hand; nothing only at its end."""
        data = self._source.read(min(size, self._left)) if self._left else b""
        if self._left and not data:
            raise TarError(f"it ends {self._left} bytes too early", cut=True)
        self._left -= len(data)
        return data

    def skip(self, file: BinaryIO) -> None:
        """Go on behind the entry at hand without reading it; ``file`` is what ``source`` reads from, unchanged."""
        file.seek(self._left, io.SEEK_CUR)
        self._left = 0

    def _next(self) -> TarEntry | None:
        extended: dict[str, str] = {}
        while True:
            info = self._header()
            if info is None:
                return None
            if info.type in _EXTENDED:
                extended |= _records(self._small(info.size))
            elif info.type == _LONG_NAME:
                extended["path"] = _text(self._small(info.size).rstrip(b"\0"))
            elif info.type in (_GLOBAL, _LONG_LINK):
                self._small(info.size)
            else:
                return self._entry(info, extended)

    def _entry(self, info: tarfile.TarInfo, extended: dict[str, str]) -> TarEntry:
        size = info.size
        with contextlib.suppress(ValueError):
            size = int(extended.get("size", info.size))
        if size < 0:
            raise TarError("an entry has a size below zero")
        name = extended.get("path", info.name)
        folder = info.type == tarfile.DIRTYPE or (info.type in _FILES and name.endswith("/"))
        kind = "folder" if folder else "file" if info.type in _FILES else "other"
        # Of links and devices the size means nothing.
        self._left = size if kind != "other" else 0
        self._padding = -self._left % _BLOCK
        return TarEntry(name, kind, self._left)

    def _header(self) -> tarfile.TarInfo | None:
        self._exactly(self._padding)
        self._padding = 0
        block = self._exactly(_BLOCK)
        if not any(block):
            if any(self._exactly(_BLOCK)):
                raise TarError("there is an empty block in it")
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as wrong:
            raise TarError(str(wrong)) from wrong

    def _small(self, size: int) -> bytes:
        if not 0 <= size <= _LARGEST_HEADER:
            raise TarError(f"it has a header of {size} bytes")
        data = self._exactly(size)
        self._padding = -size % _BLOCK
        return data

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size) if size else b""
        while len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                raise TarError("it ends before its end mark", cut=True)
            data += more
        return data


def _records(data: bytes) -> dict[str, str]:
    """The records of an extended header, ``LENGTH KEY=VALUE\\n`` each (POSIX.1-2001, pax)."""
    found: dict[str, str] = {}
    while data:
        digits, blank, _ = data.partition(b" ")
        length = int(digits) if blank and digits.isdigit() and len(digits) < 10 else 0
        key, is_, value = data[len(digits) + 1 : length].partition(b"=")
        if not is_ or not value.endswith(b"\n") or length > len(data):
            raise TarError("it has an extended header that cannot be understood")
        found[_text(key)] = _text(value[:-1])
        data = data[length:]
    return found


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def file_header(name: str, size: int) -> bytes:
    """What stands before the ``size`` bytes of a file: no time, no owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def folder_header(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """What stands behind the ``size`` bytes of a file."""
    return bytes(-size % _BLOCK)
