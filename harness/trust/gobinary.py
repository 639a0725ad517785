"""What a Go program says about how it was built: the Go version and its modules (``go version -m``), found in a stream of its bytes.

Layout after Go's debug/buildinfo: a magic, then since Go 1.18 two strings, each behind its length as a varint. Programs of older
Go point to the strings instead, and are passed over.
"""

from __future__ import annotations

import dataclasses

_MAGIC = b"\xff Go buildinf:"
_HEADER = 32
_INLINE = 2
"""Flag: the strings follow the header."""
_SENTINEL = 16
"""Bytes of a mark before and behind the modules."""
_LARGEST = 4 << 20
"""Bytes that the strings may take together; the modules of the largest programs there are take some 60,000."""


@dataclasses.dataclass(frozen=True)
class GoBuild:
    """``version`` as ``go1.22.3``; ``modules`` are (path, version) of what was compiled in, the program's own module first."""

    version: str
    modules: tuple[tuple[str, str], ...] = ()


class Finder:
    """Looks for the build information in bytes that are fed to it, in bounded memory."""

    def __init__(self) -> None:
        self.found: GoBuild | None = None
        self._kept = b""

    def feed(self, data: bytes) -> None:
        if self.found is None:
            self._kept += data
            self._search(last=False)

    def end(self) -> GoBuild | None:
        """What was found in all of it."""
        if self.found is None:
            self._search(last=True)
        return self.found

    def _search(self, *, last: bool) -> None:
        while (at := self._kept.find(_MAGIC)) >= 0:
            self._kept = self._kept[at:]
            if len(self._kept) < _HEADER + _LARGEST and not last:
                return  # what belongs to it may still come
            self.found = parse(self._kept[: _HEADER + _LARGEST])
            if self.found:
                self._kept = b""
                return
            # The magic also stands in programs that look for it.
            self._kept = self._kept[len(_MAGIC) :]
        self._kept = self._kept[-len(_MAGIC) :]


def parse(data: bytes) -> GoBuild | None:
    """Build information that begins with its magic; None when it is none, or of an older form."""
    if len(data) < _HEADER or not data[15] & _INLINE:
        return None
    version, rest = _string(data[_HEADER:])
    if not version.startswith(b"go") and not version.startswith(b"devel"):
        return None
    text, _ = _string(rest)
    marked = len(text) > 2 * _SENTINEL and text[-_SENTINEL - 1 : -_SENTINEL] == b"\n"
    modules = text[_SENTINEL:-_SENTINEL].decode(errors="replace") if marked else ""
    return GoBuild(version.decode(errors="replace").split(" ")[0], tuple(_modules(modules)))


def _modules(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        words = line.split("\t")
        if words[0] in ("mod", "dep") and len(words) >= 3:
            found.append((words[1], words[2]))
        elif words[0] == "=>" and len(words) >= 3 and found:
            found[-1] = (words[1], words[2])  # what it was replaced by is what is in the program
    return found


def _string(data: bytes) -> tuple[bytes, bytes]:
    """A string behind its length, and what follows it; nothing when it is cut."""
    length, shift = 0, 0
    for position, byte in enumerate(data[:10]):
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            end = position + 1 + length
            return (data[position + 1 : end], data[end:]) if end <= len(data) else (b"", b"")
    return b"", b""
