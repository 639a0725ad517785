"""A tree on disk over which layers are laid; whatever a layer says, nothing is written, removed or changed outside of the tree."""

from __future__ import annotations

import collections
import contextlib
import errno
import io
import os
import posixpath
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from harness import log
from harness.errors import StoreError
from harness.oci.layer import compression, tar_reader
from harness.oci.layer.tar_reader import TarEntry, TarReader
from harness.oci.model import GZIP_LAYERS, OCI_LAYER, OCI_LAYER_ZSTD, Descriptor
from harness.oci.store import CHUNK
from harness.untrusted import Ceiling

WHITEOUT = ".wh."
"""In a layer, ``.wh.NAME`` removes NAME of the layers below (OCI image specification, layer.md)."""
OPAQUE = ".wh..wh..opq"
"""Removes all that the layers below have in the folder it stands in."""

_COMPRESSIONS: Mapping[str, compression.Compression] = {**dict.fromkeys(GZIP_LAYERS, "gzip"), OCI_LAYER_ZSTD: "zstd", OCI_LAYER: "none"}
UNPACKED = tuple(_COMPRESSIONS)
"""Media types of layers that can be unpacked."""
_MOST_LINKS = 40
MOST_ENTRIES = 300_000
"""Entries of a layer. The largest of a whole desktop have half of that."""
_DEEPEST = 256
"""Folders above a file."""
_LONGEST_NAME = 255
"""Bytes of one component, as Linux' file systems have it."""
_LONGEST = 4096
"""Characters of a path (PATH_MAX)."""
_FREE = 128 << 20
"""Bytes of the disk that unpacking leaves free: a full one stops everything else on this machine."""
_BETWEEN_LOOKS = 32 << 20
"""Bytes that are written before the free space is looked at again."""
_BUFFER = 128 << 10


class BlobSource(Protocol):
    """Reader of blobs: a Store, or an OCI image layout elsewhere. Raises StoreError for what cannot be read."""

    def open(self, digest: str, /) -> BinaryIO: ...


@contextlib.contextmanager
def open_layer(store: BlobSource, layer: Descriptor, content_hash: ContentHash | None = None) -> Iterator[TarReader]:
    """The entries of a layer, to be read once from the beginning, in memory that does not depend on what it says.

    ``content_hash`` gets every byte of the tar, so that it has the diff id when the block has ended.
    Raises StoreError when it is not a readable tar, holds sparse files, more than MOST_ENTRIES entries, or more than 200 times its size.
    """
    with store.open(layer.digest) as file:
        how = _COMPRESSIONS.get(layer.media_type)
        if how is None:
            raise StoreError(
                f"layer {layer.digest} is of type {layer.media_type}, which cannot be unpacked here", hint="use gzip or zstd layers"
            )
        size = os.fstat(file.fileno()).st_size
        content = Ceiling(
            cast("BinaryIO", compression.reader(file, how)),
            compression.RATIO * size + compression.SLACK,
            what=f"layer {layer.digest} is refused: what its {log.size(size)} decompress to",
        )
        raw = content if content_hash is None else _Hashed(content, content_hash)
        stream = cast("compression.Readable", io.BufferedReader(raw, _BUFFER))
        try:
            yield TarReader(stream, most=MOST_ENTRIES, marked=False)
            # Only the end of the stream shows that nothing was cut off or changed.
            while stream.read(CHUNK):
                pass
        except (tar_reader.TarError, *compression.BROKEN) as wrong:
            raise StoreError(f"layer {layer.digest} is not a readable tar: {wrong}") from wrong


class ContentHash(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...


class _Hashed(io.RawIOBase):
    """Hands on what another stream gives, and hashes it."""

    def __init__(self, file: io.RawIOBase, content_hash: ContentHash) -> None:
        self._file = file
        self._hash = content_hash

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._file.readinto(buffer) or 0
        self._hash.update(memoryview(buffer)[:count])
        return count


class Entries(Protocol):
    """Entries of a tar, in order; read() returns the content of the current one."""

    def __iter__(self) -> Iterator[TarEntry]: ...
    def read(self, size: int, /) -> bytes: ...


class Extraction:
    """The tree below ``root``. Call lay() for each layer, lowest first, then finish(). No other process writes to it meanwhile.

    Raises StoreError for what a layer may not do, OSError when the disk refuses.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, Path] = {}
        """Real folder of each path that was resolved already; emptied when a folder or link goes."""
        self._modes: dict[str, int] = {}
        """Modes of folders by their path below the root, set at the end: a read-only folder could not be filled."""
        self._links: dict[str, str] = {}
        """Layer of each symbolic link, by its path below the root; some links may be gone by the end."""
        self._fresh: set[str] = set()
        """Paths that the current layer created, and the folders above them: its removals spare these."""
        self._emptied: set[str] = set()
        """Folders that the layer at hand has emptied already: what is in them now is its own."""
        self._what = ""
        """The layer or archive at hand, for errors."""
        self._unseen = 0
        """Bytes that were written since the last look at the free space."""

    def lay(self, store: BlobSource, layer: Descriptor) -> None:
        """Add, replace and remove what the layer says."""
        with open_layer(store, layer) as tar:
            self.lay_tar(tar, f"layer {layer.digest}")

    def lay_tar(self, tar: Entries, what: str) -> None:
        """As lay(), of a tar that ``what`` names in errors."""
        self._what = what
        self._fresh = {""}
        self._emptied = set()
        for entry in tar:
            try:
                self._add(tar, entry)
            except OSError as problem:
                # Of a path that is put together from a link and what stands behind it.
                if problem.errno != errno.ENAMETOOLONG:
                    raise
                raise self._refused(entry.name[:200], "has a path that is too long") from problem

    def finish(self, *, links_out: bool = False) -> None:
        """Give the folders their modes, the deepest first.

        Raises StoreError for a relative link that climbs out of the tree, unless ``links_out``. An absolute link is for the machine that
        gets the tree, and is not followed here.
        """
        if not links_out:
            self._check_links()
        for path, mode in sorted(self._modes.items(), reverse=True):
            self._set_mode(path, mode)

    def _set_mode(self, path: str, mode: int) -> None:
        """Of a folder, component by component: a link that has taken the place of one of them is not followed."""
        # O_PATH: a folder that its owner may not read has a mode too.
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(self._root, flags)
        try:
            for part in path.split("/"):
                above = folder
                folder = os.open(part, flags, dir_fd=above)
                os.close(above)
            Path(f"/proc/self/fd/{folder}").chmod(mode)
        except OSError as problem:
            # A later entry has put something else there. Linux says ENOTDIR of a link too.
            if problem.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        finally:
            os.close(folder)

    def _check_links(self) -> None:
        # Links that lead through long chains of links would take time without end.
        steps = 64 * len(self._links) + 10_000
        for path, what in self._links.items():
            self._what = what
            place = self._root / path
            if not place.is_symlink():
                continue
            real = posixpath.dirname(path).split("/") if "/" in path else []
            goal = os.readlink(place)  # noqa: PTH115 -- Path would change how it is written
            if goal.startswith("/"):
                continue
            waiting = collections.deque(_steps(goal))
            links = 0
            while waiting and links <= _MOST_LINKS:
                steps -= 1
                if steps < 0:
                    raise self._refused(path, "is one of too many links that lead through links")
                part = waiting.popleft()
                if part != "..":
                    real.append(part)
                    target = self._target(real)
                    if target is not None and target.startswith("/"):
                        break
                    if target is not None:
                        real.pop()
                        links += 1
                        waiting.extendleft(reversed(_steps(target)))
                elif real:
                    real.pop()
                else:
                    raise self._refused(path, f"is a link that leads out of the rootfs: {goal!r}")

    def _target(self, real: list[str]) -> str | None:
        try:
            return os.readlink(self._root.joinpath(*real))  # noqa: PTH115 -- Path would change how it is written
        except OSError:
            return None

    def _add(self, tar: Entries, entry: TarEntry) -> None:
        path = self._clean(entry.name, entry.name)
        if not path:
            return
        parent, name = posixpath.split(path)
        if name.startswith(WHITEOUT):
            self._remove(parent, name, entry)
            return
        place = self._folder(parent, entry.name) / name
        if entry.kind == "file":
            self._file(tar, entry, place)
        elif entry.kind == "folder":
            self._directory(entry, place)
        elif entry.kind == "symlink":
            self._symlink(entry, place)
        elif entry.kind == "hardlink":
            self._hardlink(entry, place)
        else:
            raise self._refused(entry.name, "is a device or a FIFO")
        self._mark(place)

    def _clean(self, path: str, name: str) -> str:
        """``path``, which stands in entry ``name``, without ``./`` and slashes at its end; nothing for the root itself."""
        if path.startswith("/"):
            raise self._refused(name, "has an absolute path")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in path:
            raise self._refused(name, "leaves the rootfs")
        if len(path) > _LONGEST or len(parts) > _DEEPEST or any(len(os.fsencode(part)) > _LONGEST_NAME for part in parts):
            raise self._refused(name[:200], "has a path that is too long")
        return "/".join(parts)

    def _refused(self, name: str, why: str) -> StoreError:
        return StoreError(f"{self._what} is refused: its entry {name!r} {why}", hint="do not use this image; tell who made it")

    # Where a path really is

    def _folder(self, path: str, name: str) -> Path:
        """Folder that ``path`` resolves to in the tree, following links that stay inside; created when it does not exist."""
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
                if len(real) > _DEEPEST:
                    raise self._refused(name[:200], "has a path that is too long")
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
        self._modes[self._below(place)] = 0o755
        self._mark(place)
        return stat.S_IFDIR

    def _below(self, place: Path) -> str:
        """The path of a place below the root, empty for the root."""
        return str(place)[len(str(self._root)) :].lstrip("/")

    # Adding

    def _file(self, tar: Entries, entry: TarEntry, place: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            target = os.open(place, flags, 0o600)
        except FileExistsError:
            self._clear(place)
            target = os.open(place, flags, 0o600)
        with os.fdopen(target, "wb", buffering=0) as file:
            self._room(entry.size)
            while chunk := tar.read(CHUNK):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fchmod(target, entry.mode)

    def _room(self, size: int) -> None:
        """Raise StoreError unless the disk has room for ``size`` bytes more."""
        self._unseen += size
        if self._unseen < _BETWEEN_LOOKS:
            return
        self._unseen = 0
        state = os.statvfs(self._root)
        free = state.f_bavail * state.f_frsize
        if size + _FREE > free:
            raise StoreError(
                f"{self._what} does not fit on the disk: {log.size(free)} are free below {self._root}",
                hint="free some space: `slipway prune`, or set SLIPWAY_CACHE to a folder on a larger disk",
            )

    def _symlink(self, entry: TarEntry, place: Path) -> None:
        if not entry.link or "\0" in entry.link or len(entry.link) > _LONGEST:
            raise self._refused(entry.name[:200], "is a link to nothing that can be")
        self._clear(place)
        place.symlink_to(entry.link)
        self._links[self._below(place)] = self._what

    def _directory(self, entry: TarEntry, place: Path) -> None:
        try:
            place.mkdir()
        except FileExistsError:
            if not stat.S_ISDIR(place.lstat().st_mode):
                self._clear(place)
                place.mkdir()
        self._modes[self._below(place)] = entry.mode

    def _hardlink(self, entry: TarEntry, place: Path) -> None:
        parent, name = posixpath.split(self._clean(entry.link, entry.name))
        folder = self._resolve(parent, entry.name, make=False)
        source = folder / name if folder and name else None
        if source is None or not os.path.lexists(source) or stat.S_ISDIR(source.lstat().st_mode):
            raise self._refused(entry.name, f"is a hard link to {entry.link!r}, which is not a file in this tree")
        if source != place:
            self._clear(place)
            os.link(source, place, follow_symlinks=False)
            if self._below(source) in self._links:
                self._links[self._below(place)] = self._what

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
        path = self._below(place)
        while path not in self._fresh:
            self._fresh.add(path)
            path = posixpath.dirname(path)

    # Removing

    def _remove(self, parent: str, name: str, entry: TarEntry) -> None:
        hidden = name.removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise self._refused(entry.name, "removes something outside of its folder")
        folder = self._resolve(parent, entry.name, make=False)
        if folder is None:
            return
        if name == OPAQUE:
            self._remove_children(folder)
        elif not hidden.startswith(WHITEOUT):
            self._remove_lower(folder / hidden)

    def _remove_lower(self, place: Path) -> None:
        """Remove what lower layers put at ``place``; what this layer put there stays, whichever came first."""
        if self._below(place) not in self._fresh:
            self._clear(place)
        elif place.is_dir() and not place.is_symlink():
            self._remove_children(place)

    def _remove_children(self, folder: Path) -> None:
        if self._below(folder) in self._emptied:
            return
        self._emptied.add(self._below(folder))
        for child in list(folder.iterdir()):
            self._remove_lower(child)


def _steps(path: str) -> list[str]:
    return [step for step in path.split("/") if step not in ("", ".")]
