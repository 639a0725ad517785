"""Build information of a Go program: the Go version and its modules (``go version -m``), read from a stream of its bytes.

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
    """Looks for the build information in bytes that are fed to it, in bounded memory and in time proportionate to them."""

    def __init__(self) -> None:
        self.found: GoBuild | None = None
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        if self.found is None:
            self._kept += data
            self._search(last=False)

    def end(self) -> GoBuild | None:
        """Build information found in the whole stream."""
        if self.found is None:
            self._search(last=True)
        return self.found

    def _search(self, *, last: bool) -> None:
        """Examine every magic, from left to right. Nothing is copied between them: a file may consist of nothing else."""
        start = 0
        while (at := self._kept.find(_MAGIC, start)) >= 0:
            if len(self._kept) - at < _HEADER + _LARGEST and not last:
                del self._kept[:at]  # what belongs to it may still come
                return
            with memoryview(self._kept) as view, view[at : at + _HEADER + _LARGEST] as candidate:
                self.found = _parse(candidate)
            if self.found:
                self._kept.clear()
                return
            # The magic also stands in programs that look for it.
            start = at + len(_MAGIC)
        # The last bytes may be the beginning of a magic.
        del self._kept[: max(start, len(self._kept) - len(_MAGIC))]


def parse(data: bytes) -> GoBuild | None:
    """Build information that begins with its magic; None when it is not valid, or of an older form."""
    with memoryview(data) as view:
        return _parse(view)


def _parse(data: memoryview) -> GoBuild | None:
    if len(data) < _HEADER or not data[15] & _INLINE:
        return None
    begin, end = _string(data, _HEADER)
    if bytes(data[begin : min(end, begin + 2)]) != b"go" and bytes(data[begin : min(end, begin + 5)]) != b"devel":
        return None
    version = bytes(data[begin:end])
    begin, end = _string(data, end)
    text = bytes(data[begin:end])
    marked = len(text) > 2 * _SENTINEL and text[-_SENTINEL - 1 : -_SENTINEL] == b"\n"
    modules = text[_SENTINEL:-_SENTINEL].decode(errors="replace") if marked else ""
    return GoBuild(version.decode(errors="replace").split(" ")[0], tuple(_modules(modules)))


def _modules(text: str) -> list[tuple[str, str]]:
    modules: list[tuple[str, str]] = []
    for line in text.splitlines():
        words = line.split("\t")
        if words[0] in ("mod", "dep") and len(words) >= 3:
            modules.append((words[1], words[2]))
        elif words[0] == "=>" and len(words) >= 3 and modules:
            modules[-1] = (words[1], words[2])  # what it was replaced by is what is in the program
    return modules


def _string(data: memoryview, start: int) -> tuple[int, int]:
    """Begin and end of a string behind its length; an empty one when it is cut."""
    length, shift = 0, 0
    for position in range(start, min(start + 10, len(data))):
        length |= (data[position] & 0x7F) << shift
        shift += 7
        if data[position] < 0x80:
            begin = position + 1
            return (begin, begin + length) if begin + length <= len(data) else (start, start)
    return start, start
