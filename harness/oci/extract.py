"""A tree on disk over which layers are laid; whatever a layer says, nothing is written or removed outside of the tree."""

from __future__ import annotations

import collections
import contextlib
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, cast

from harness.errors import StoreError
from harness.oci import compression
from harness.oci.model import GZIP_LAYERS, OCI_LAYER, OCI_LAYER_ZSTD, Descriptor
from harness.oci.store import CHUNK, Store

WHITEOUT = ".wh."
"""In a layer, ``.wh.NAME`` removes NAME of the layers below (OCI image specification, layer.md)."""
OPAQUE = ".wh..wh..opq"
"""Removes all that the layers below have in the folder it stands in."""

_COMPRESSIONS: Mapping[str, compression.Compression] = {**dict.fromkeys(GZIP_LAYERS, "gzip"), OCI_LAYER_ZSTD: "zstd", OCI_LAYER: "none"}
_MOST_LINKS = 40
_BUFFER = 128 << 10
"""Bytes tarfile reads ahead: it copies them for every header, so more is slower."""


@contextlib.contextmanager
def open_layer(store: Store, layer: Descriptor) -> Iterator[tarfile.TarFile]:
    """The tar of a layer, to be read once from its beginning. Raises StoreError when it is not readable."""
    with store.open(layer.digest) as file:
        how = _COMPRESSIONS.get(layer.media_type)
        if how is None:
            raise StoreError(
                f"layer {layer.digest} is of type {layer.media_type}, which cannot be unpacked here", hint="use gzip or zstd layers"
            )
        stream = cast("IO[bytes]", compression.reader(file, how))
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER) as tar:
                yield tar
            # tarfile stops at the end mark; only the end of the stream shows that nothing was cut off or changed.
            while stream.read(CHUNK):
                pass
        except (tarfile.TarError, *compression.BROKEN) as wrong:
            raise StoreError(f"layer {layer.digest} is not a readable tar: {wrong}") from wrong


class Extraction:
    """The tree below ``root``. Call lay() for each layer, lowest first, then finish(). Nobody else writes to it meanwhile.

    Raises StoreError for what a layer may not do, OSError when the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, Path] = {}
        """Real folder of each path that was resolved already; emptied when a folder or link goes."""
        self._modes: dict[Path, int] = {}
        """Modes of folders, set at the end: a read-only folder could not be filled."""
        self._fresh: set[Path] = set()
        """What the layer at hand made, and the folders above that: its removals spare them."""
        self._layer = ""

    def lay(self, store: Store, layer: Descriptor) -> None:
        """Add, replace and remove what the layer says."""
        self._layer = layer.digest
        self._fresh = {self._root}
        with open_layer(store, layer) as tar:
            for member in tar:
                self._add(tar, member)

    def finish(self) -> None:
        """Give the folders their modes, the deepest first."""
        for path, mode in sorted(self._modes.items(), reverse=True):
            if path.is_dir() and not path.is_symlink():
                path.chmod(mode)

    def _add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = self._clean(member.name, member.name)
        if not path:
            return
        parent, name = posixpath.split(path)
        if name.startswith(WHITEOUT):
            self._remove(parent, name, member)
            return
        place = self._folder(parent, member.name) / name
        if member.isreg():
            self._file(tar, member, place)
        elif member.isdir():
            self._directory(member, place)
        elif member.issym():
            self._clear(place)
            place.symlink_to(member.linkname)
        elif member.islnk():
            self._hardlink(member, place)
        else:
            raise self._refused(member.name, "is a device or a FIFO")
        self._mark(place)

    def _clean(self, path: str, name: str) -> str:
        """``path``, which stands in entry ``name``, without ``./`` and slashes at its end; nothing for the root itself."""
        if path.startswith("/"):
            raise self._refused(name, "has an absolute path")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path:
            raise self._refused(name, "leaves the rootfs")
        return "/".join(parts)

    def _refused(self, name: str, why: str) -> StoreError:
        return StoreError(f"layer {self._layer} is refused: its entry {name!r} {why}", hint="do not use this image; tell who made it")

    # Where a path really is

    def _folder(self, path: str, name: str) -> Path:
        """The folder that ``path`` means in the tree, following links that stay inside; made when it is not there."""
        if path not in self._folders:
            self._folders[path] = cast("Path", self._resolve(path, name, make=True))
        return self._folders[path]

    def _resolve(self, path: str, name: str, *, make: bool) -> Path | None:
        real: list[str] = []
        waiting = collections.deque(path.split("/") if path else [])
        links = 0
        while waiting:
            part = waiting.popleft()
            if part == "..":
                if not real:
                    raise self._refused(name, "leaves the rootfs through a link")
                real.pop()
                continue
            place = self._root.joinpath(*real, part)
            mode = self._mode(place, make=make)
            if mode is None:
                return None
            if stat.S_ISDIR(mode):
                real.append(part)
            elif stat.S_ISLNK(mode):
                target = str(place.readlink())
                links += 1
                if target.startswith("/") or links > _MOST_LINKS:
                    raise self._refused(name, "leaves the rootfs through a link")
                waiting.extendleft(reversed([step for step in target.split("/") if step not in ("", ".")]))
            else:
                raise self._refused(name, f"is below {part!r}, which is not a directory")
        return self._root.joinpath(*real)

    def _mode(self, place: Path, *, make: bool) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return place.lstat().st_mode
        if not make:
            return None
        place.mkdir()
        self._modes[place] = 0o755
        self._mark(place)
        return stat.S_IFDIR

    # Adding

    def _file(self, tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            target = os.open(place, flags, 0o600)
        except FileExistsError:
            self._clear(place)
            target = os.open(place, flags, 0o600)
        with os.fdopen(target, "wb", buffering=0) as file:
            content = tar.extractfile(member)
            while content and (chunk := content.read(CHUNK)):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fchmod(target, member.mode & 0o7777)

    def _directory(self, member: tarfile.TarInfo, place: Path) -> None:
        try:
            place.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(place.lstat().st_mode):
                self._clear(place)
                place.mkdir()
        self._modes[place] = member.mode & 0o7777

    def _hardlink(self, member: tarfile.TarInfo, place: Path) -> None:
        parent, name = posixpath.split(self._clean(member.linkname, member.name))
        folder = self._resolve(parent, member.name, make=False)
        source = folder / name if folder and name else None
        if source is None or not os.path.lexists(source) or stat.S_ISDIR(source.lstat().st_mode):
            raise self._refused(member.name, f"is a hard link to {member.linkname!r}, which is no file here")
        if source != place:
            self._clear(place)
            os.link(source, place, follow_symlinks=False)

    def _clear(self, place: Path) -> None:
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode):
            shutil.rmtree(place)
        else:
            place.unlink()
        if not stat.S_ISREG(mode):
            self._folders.clear()

    def _mark(self, place: Path) -> None:
        while place not in self._fresh:
            self._fresh.add(place)
            place = place.parent

    # Removing

    def _remove(self, parent: str, name: str, member: tarfile.TarInfo) -> None:
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise self._refused(member.name, "removes something outside of its folder")
        folder = self._resolve(parent, member.name, make=False)
        if folder is None:
            return
        if name == OPAQUE:
            self._remove_children(folder)
        elif not hidden.startswith(WHITEOUT):
            self._remove_lower(folder / hidden)

    def _remove_lower(self, place: Path) -> None:
        """Remove what lower layers put at ``place``; what this layer put there stays, whichever came first."""
        if place not in self._fresh:
            self._clear(place)
        elif place.is_dir() and not place.is_symlink():
            self._remove_children(place)

    def _remove_children(self, folder: Path) -> None:
        for child in list(folder.iterdir()):
            self._remove_lower(child)
