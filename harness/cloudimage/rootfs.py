"""The files of a rootfs, from the entries of its layers, without unpacking them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

from harness.cloudimage.prune import LISTING
from harness.errors import StoreError
from harness.oci.layer.extract import OPAQUE, WHITEOUT, open_layer
from harness.oci.model import Descriptor
from harness.oci.store import CHUNK, Store

_MOST_LINKS = 40


@dataclasses.dataclass(frozen=True)
class RootfsEntry:
    """One thing in a merged rootfs. ``digest`` is that of a file's bytes in hex, ``target`` where a symlink points."""

    kind: str
    mode: int
    size: int = 0
    digest: str = ""
    target: str = ""
    layer: Descriptor | None = dataclasses.field(default=None, compare=False)
    """Layer that holds the bytes of a file, and the path in it."""
    inside: str = dataclasses.field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"kind": self.kind, "mode": f"{self.mode:04o}"}
        if self.kind == "file":
            value |= {"size": self.size, "digest": f"sha256:{self.digest}"}
        return {**value, "target": self.target} if self.kind == "symlink" else value


LayerRow = Sequence[Any]
"""One entry of a layer: path, kind (as in layer.Entry), mode, size, digest, target."""


def layer_rows(store: Store, layer: Descriptor) -> list[LayerRow]:
    """Entries of a layer, in its order; cached after the first read."""
    key = layer.digest.removeprefix("sha256:")
    record = store.record(LISTING, key)
    if record is not None:
        return list(record["rows"])
    rows: list[LayerRow] = []
    store.verify(layer.digest)
    with open_layer(store, layer) as tar:
        for entry in tar:
            path = "/".join(part for part in entry.name.split("/") if part not in ("", "."))
            folder, name = posixpath.split(path)
            if name == OPAQUE:
                rows.append((folder, "opaque", 0, 0, "", ""))
            elif name.startswith(WHITEOUT):
                rows.append((posixpath.join(folder, name.removeprefix(WHITEOUT)), "whiteout", 0, 0, "", ""))
            elif entry.kind == "folder" and path:
                rows.append((path, "dir", entry.mode, 0, "", ""))
            elif entry.kind == "symlink":
                rows.append((path, "symlink", 0o777, 0, "", entry.link))
            elif entry.kind == "hardlink":
                rows.append((path, "hardlink", entry.mode, 0, "", entry.link))
            elif entry.kind == "file":
                digest = hashlib.sha256()
                while chunk := tar.read(CHUNK):
                    digest.update(chunk)
                rows.append((path, "file", entry.mode, entry.size, digest.hexdigest(), ""))
    # Without it the next look takes longer; a full disk must not fail the command.
    with contextlib.suppress(StoreError):
        store.keep(LISTING, key, {"rows": rows})
    return rows


def merged(store: Store, layers: Sequence[Descriptor]) -> dict[str, RootfsEntry]:
    """The rootfs that layers make, laid over each other as layer.unpack() does: path -> entry."""
    tree = _Merged()
    for layer in layers:
        tree.lay(layer, layer_rows(store, layer))
    return tree.files


class _Merged:
    def __init__(self) -> None:
        self.files: dict[str, RootfsEntry] = {}
        self._fresh: set[str] = set()
        """Paths that the current layer created, and the folders above them: its removals spare these."""

    def lay(self, layer: Descriptor, rows: Iterable[LayerRow]) -> None:
        self._fresh = {""}
        for path, kind, mode, size, digest, target in rows:
            folder, name = posixpath.split(path)
            if kind == "opaque":
                self._remove(self._real(path), keep=True)
            elif kind == "whiteout":
                self._remove(posixpath.join(self._real(folder), name))
            else:
                place = posixpath.join(self._real(folder, make=True), name)
                if kind == "hardlink":
                    self._put(place, self._linked(target))
                else:
                    self._put(place, RootfsEntry(kind, mode, size, digest, target, layer, path))

    def _put(self, place: str, file: RootfsEntry) -> None:
        existing = self.files.get(place)
        if existing and existing.kind == "dir" and file.kind != "dir":
            self._drop(place)
        self.files[place] = file
        self._mark(place)

    def _mark(self, place: str) -> None:
        while place not in self._fresh:
            self._fresh.add(place)
            place = posixpath.dirname(place)

    def _linked(self, target: str) -> RootfsEntry:
        folder, name = posixpath.split("/".join(part for part in target.split("/") if part not in ("", ".")))
        place = posixpath.join(self._real(folder), name)
        if place not in self.files:
            raise StoreError(f"a layer holds a hard link to {target!r}, which is not a file", hint="do not use this image")
        return self.files[place]

    def _real(self, path: str, *, make: bool = False) -> str:
        """Folder that ``path`` resolves to, through links; missing ones are created, as on disk."""
        real: list[str] = []
        waiting = collections.deque(path.split("/") if path else [])
        links = 0
        while waiting:
            part = waiting.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                del real[-1:]
                continue
            place = "/".join([*real, part])
            entry = self.files.get(place)
            if entry and entry.kind == "symlink" and links < _MOST_LINKS:
                links += 1
                waiting.extendleft(reversed(entry.target.split("/")))
                continue
            if entry is None and make:
                self._put(place, RootfsEntry("dir", 0o755))
            real.append(part)
        return "/".join(real)

    def _remove(self, place: str, *, keep: bool = False) -> None:
        """Remove what lower layers put there; what this layer put there stays."""
        below = [path for path in self.files if path.startswith(f"{place}/") or (not place) or (path == place and not keep)]
        for path in below:
            if path not in self._fresh:
                del self.files[path]

    def _drop(self, place: str) -> None:
        for path in [path for path in self.files if path.startswith(f"{place}/")]:
            del self.files[path]
            self._fresh.discard(path)
