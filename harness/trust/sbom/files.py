"""The files of an image's merged layers, each with its SHA-256, read as a stream: nothing is unpacked to disk."""

from __future__ import annotations

import dataclasses
import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence

from harness.oci.layer.extract import OPAQUE, WHITEOUT, open_layer
from harness.oci.layer.tar_reader import TarEntry, TarReader
from harness.oci.model import Descriptor
from harness.oci.store import CHUNK, Store
from harness.trust.sbom.go_binary import Finder, GoBuild
from harness.trust.sbom.packages import is_record

_LARGEST_RECORDS = 64 << 20
"""Bytes of the package records of a layer that are held in memory; a whole desktop's has some millions."""
_ELF = b"\x7fELF"


@dataclasses.dataclass(frozen=True)
class ScannedFile:
    """A regular file: SHA-256 in hexadecimal, size in bytes. ``record``: its content where that lists installed packages."""

    sha256: str
    size: int
    go: GoBuild | None = None
    record: bytes | None = None


@dataclasses.dataclass(frozen=True)
class _Listing:
    """Additions and removals of one layer. None stands for an entry that is not a file: a folder, a link."""

    entries: Mapping[str, ScannedFile | None]
    folders: frozenset[str]
    removed: tuple[str, ...]
    emptied: tuple[str, ...]


class Inventory:
    """Lists layers; each is read once, however many images have it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, _Listing] = {}

    def files(self, layers: Sequence[Descriptor]) -> dict[str, ScannedFile]:
        """The regular files of layers that lie over each other, lowest first: path -> file, sorted. Raises StoreError."""
        merged: dict[str, ScannedFile | None] = {}
        for layer in layers:
            if layer.digest not in self._known:
                self._known[layer.digest] = _list(self._store, layer)
            _lay(merged, self._known[layer.digest])
        return {path: file for path, file in sorted(merged.items()) if file is not None}


def _lay(merged: dict[str, ScannedFile | None], layer: _Listing) -> None:
    emptied = {*layer.emptied, *layer.removed}
    # What was a folder and is something else now takes all that was in it along.
    emptied |= {path for path in layer.entries if path not in layer.folders and merged.get(path, "") is None}
    if emptied:
        for path in [path for path in merged if "" in emptied or not emptied.isdisjoint(_above(path))]:
            del merged[path]
    for path in layer.removed:
        merged.pop(path, None)
    merged.update(layer.entries)


def _above(path: str) -> Iterator[str]:
    """The folders that a path is in."""
    while path := posixpath.dirname(path):
        yield path


def _list(store: Store, layer: Descriptor) -> _Listing:
    entries: dict[str, ScannedFile | None] = {}
    folders: set[str] = set()
    removed: list[str] = []
    emptied: list[str] = []
    records = 0
    with open_layer(store, layer) as tar:
        for entry in tar:
            path = posixpath.normpath(f"/{entry.name}").lstrip("/")
            folder, name = posixpath.split(path)
            if name == OPAQUE:
                emptied.append(folder)
            elif name.startswith(WHITEOUT):
                removed.append(posixpath.join(folder, name.removeprefix(WHITEOUT)))
            elif path:
                entries[path] = file = _file(tar, entry, path, entries, _LARGEST_RECORDS - records)
                records += len((file and file.record) or b"")
                if entry.kind == "folder":
                    folders.add(path)
    return _Listing(entries, frozenset(folders), tuple(removed), tuple(emptied))


def _file(tar: TarReader, entry: TarEntry, path: str, before: Mapping[str, ScannedFile | None], room: int) -> ScannedFile | None:
    """The file that an entry is; its content is kept when it is a package record of at most ``room`` bytes."""
    if entry.kind == "hardlink":
        return before.get(posixpath.normpath(f"/{entry.link}").lstrip("/"))
    if entry.kind != "file":
        return None
    digest, finder, record = hashlib.sha256(), None, bytearray()
    wanted = is_record(path) and entry.size <= room
    first = True
    while chunk := tar.read(CHUNK):
        digest.update(chunk)
        if first and chunk.startswith(_ELF):
            finder = Finder()
        if finder is not None:
            finder.feed(chunk)
        if wanted:
            record += chunk
        first = False
    return ScannedFile(digest.hexdigest(), entry.size, finder.end() if finder else None, bytes(record) if wanted else None)
