"""Tar as an untrusted stream: read in bounded memory whatever its headers say, and never taken for whole when it was cut.

The standard library's reader takes extended headers of any size into memory and a file that ends between two entries for a whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from harness.oci.layer.compression import Readable

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 20
_LARGEST_HEADER = 1 << 20
"""Bytes of the extended headers of an entry; the longest path has 4 KiB."""
_NAMES = 32 << 20
"""Characters of all names and link targets where entries are counted: a list of them is held in memory."""
_HEADERS = 64
"""Extended headers of an entry; writers make two."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_EXTENDED, _GLOBAL = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE), tarfile.XGLTYPE
_LINKS = {tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink"}
_WITHOUT_CONTENT = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE)
"""Their size means nothing, as in Go's archive/tar."""
_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?")
_KIND_AT = 156
"""Offset of the type in a header."""

END = bytes(2 * _BLOCK)
"""End of an archive."""


class TarError(Exception):
    """The stream is not a tar, is damaged, or ends too early (``cut``)."""

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut


@dataclasses.dataclass(frozen=True)
class TarEntry:
    """``kind`` is ``file``, ``folder``, ``symlink``, ``hardlink`` or ``other`` (a device ...), ``size`` the bytes of a file's content."""

    name: str
    kind: str
    size: int
    mode: int = 0
    """Permissions with setuid, setgid and sticky bits."""
    link: str = ""
    """Target of a link."""
    owner: tuple[int, int] = (0, 0)
    """User and group."""
    dated: bool = False
    """It has a time (of its last change, or another in an extended header) other than 0."""


class TarReader:
    """The entries of a tar, in order. After each, read() gives its content, as much of it as one likes.

    ``most`` is the number of entries that are accepted. Without ``marked`` the stream may end without the blocks that mark the end, as
    Go's archive/tar accepts it: for streams that were verified otherwise.
    """

    def __init__(self, source: Readable, *, most: int | None = None, marked: bool = True) -> None:
        self._source = source
        self._most = most
        self._marked = marked
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[TarEntry]:
        """Raises TarError. What ``source`` raises passes."""
        count = names = 0
        while (entry := self._next()) is not None:
            count, names = count + 1, names + len(entry.name) + len(entry.link)
            if self._most is not None and (count > self._most or names > _NAMES):
                raise TarError(f"it has more than {self._most} entries" if count > self._most else "its names are too long")
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

    def head(self, size: int) -> bytes:
        """The first ``size`` bytes of what is left of the entry at hand, less only at its end."""
        data = b""
        while len(data) < size and (more := self.read(size - len(data))):
            data += more
        return data

    def skip(self, file: BinaryIO) -> None:
        """Go on behind the entry at hand without reading it; ``file`` is what ``source`` reads from, unchanged."""
        file.seek(self._left, io.SEEK_CUR)
        self._left = 0

    def _next(self) -> TarEntry | None:
        extended: dict[str, str] = {}
        headers = total = 0
        while True:
            info = self._header(first=not headers)
            if info is None:
                return None
            if info.type not in (*_EXTENDED, _GLOBAL, _LONG_NAME, _LONG_LINK):
                return self._entry(info, extended)
            headers, total = headers + 1, total + info.size
            if headers > _HEADERS:
                raise TarError(f"an entry has more than {_HEADERS} headers")
            data = self._small(info.size, total)
            if info.type in _EXTENDED:
                extended |= _records(data)
            elif info.type == _LONG_NAME:
                extended["path"] = _text(data.rstrip(b"\0"))
            elif info.type == _LONG_LINK:
                extended["linkpath"] = _text(data.rstrip(b"\0"))

    def _entry(self, info: tarfile.TarInfo, extended: dict[str, str]) -> TarEntry:
        if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extended):
            raise TarError("it has a sparse file, whose size says nothing about its content")
        size = info.size
        with contextlib.suppress(ValueError):
            size = int(extended.get("size", info.size))
        if size < 0:
            raise TarError("an entry has a size below zero")
        name = extended.get("path", info.name)
        folder = info.type == tarfile.DIRTYPE or (info.type in _FILES and name.endswith("/"))
        kind = "folder" if folder else "file" if info.type in _FILES else _LINKS.get(info.type, "other")
        self._left = 0 if info.type in _WITHOUT_CONTENT else size
        self._padding = -self._left % _BLOCK
        owner = (int(_number(extended.get("uid"), info.uid)), int(_number(extended.get("gid"), info.gid)))
        times = (_number(extended.get("mtime"), info.mtime), *(_number(extended.get(key), 0) for key in ("atime", "ctime")))
        link = extended.get("linkpath", info.linkname)
        return TarEntry(name, kind, self._left, info.mode & 0o7777, link, owner, any(times))

    def _header(self, *, first: bool) -> tarfile.TarInfo | None:
        self._exactly(self._padding)
        self._padding = 0
        block = self._exactly(_BLOCK, whole=self._marked or not first)
        if not any(block):
            if any(self._exactly(_BLOCK, whole=self._marked)):
                raise TarError("there is an empty block in it")
            return None
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as wrong:
            raise TarError(str(wrong)) from wrong
        # tarfile makes a folder of a file whose name ends with a slash. Readers do not agree on what follows it.
        if info.type == tarfile.DIRTYPE and info.size and block[_KIND_AT : _KIND_AT + 1] != tarfile.DIRTYPE:
            raise TarError("it has a folder with content")
        return info

    def _small(self, size: int, total: int) -> bytes:
        if not 0 <= size <= total <= _LARGEST_HEADER:
            raise TarError(f"it has a header of {size} bytes")
        data = self._exactly(size)
        self._padding = -size % _BLOCK
        return data

    def _exactly(self, size: int, *, whole: bool = True) -> bytes:
        """``size`` bytes of the stream; nothing at its end unless ``whole``."""
        data = self._source.read(size) if size else b""
        while len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                if not data and not whole:
                    return b""
                raise TarError("it ends before its end mark", cut=True)
            data += more
        return data


def _records(data: bytes) -> dict[str, str]:
    """The records of an extended header, ``LENGTH KEY=VALUE\\n`` each (POSIX.1-2001, pax)."""
    records: dict[str, str] = {}
    start = 0
    while start < len(data):
        blank = data.find(b" ", start, start + 10)
        digits = data[start:blank] if blank > 0 else b""
        end = start + int(digits) if digits.isdigit() else start
        key, is_, value = data[blank + 1 : end].partition(b"=")
        if not is_ or not value.endswith(b"\n") or end > len(data):
            raise TarError("it has an extended header that cannot be understood")
        records[_text(key)] = _text(value[:-1])
        start = end
    return records


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _number(text: str | None, plain: float) -> float:
    """Number of a record of an extended header; -1 when it is not one, ``plain`` without such a record."""
    if text is None:
        return plain
    return float(text) if _NUMBER.fullmatch(text) else -1


def file_header(name: str, size: int) -> bytes:
    """Header before the ``size`` bytes of a file: without time and owner."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def folder_header(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """Padding after the ``size`` bytes of a file."""
    return bytes(-size % _BLOCK)
