"""Layers of a rootfs: written so that the same tree has the same digest, unpacked so that nothing leaves its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import posixpath
import stat
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, Protocol

from harness.errors import BuildError, StoreError
from harness.oci.layer.extract import OPAQUE, WHITEOUT, Extraction
from harness.oci.layer.gzip import GzipWriter
from harness.oci.model import OCI_LAYER_GZIP, Descriptor
from harness.oci.store import CHUNK, Store

Kind = Literal["file", "dir", "symlink", "hardlink", "whiteout", "opaque"]

_CLOCK_STEP = 50_000_000
"""Nanoseconds: a file changed so shortly before the snapshot may change again without a new time stamp."""


@dataclasses.dataclass(frozen=True)
class LayerEntry:
    """One thing in a layer. ``path`` is relative with ``/``; ``source`` holds a file's bytes, or says where they are.

    A *whiteout* removes ``path`` of the layers below, *opaque* removes all that they have in folder ``path``.
    """

    path: str
    kind: Kind
    mode: int = 0o755
    source: Path | bytes | None = None
    target: str = ""
    """Target of a symlink (as written), or the path in this layer that a hard link refers to."""

    @property
    def name(self) -> str:
        """The path in the tar, where removals have their own names."""
        if self.kind == "opaque":
            return posixpath.join(self.path, OPAQUE)
        folder, name = posixpath.split(self.path)
        return posixpath.join(folder, WHITEOUT + name) if self.kind == "whiteout" else self.path


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer in the store. ``diff_id`` is the digest of the tar without compression."""

    descriptor: Descriptor
    diff_id: str


def scan(root: Path, prefix: str = "") -> Iterator[LayerEntry]:
    """Everything below a folder as entries below ``prefix``, sorted; hard links within it stay hard links.

    Raises BuildError for a device, a FIFO, or a name that means a removal in a layer. Sockets are left out.
    """
    return _entries(root, _walk(root), prefix)


def write_layer(entries: Iterable[LayerEntry], store: Store) -> Layer:
    """Pack entries, in any order, into a gzip layer: sorted, times and owners zero. Of two with one name the last counts.

    Reads files as it goes, a chunk at a time. Raises BuildError for a path that would leave the rootfs or a file that
    cannot be read, StoreError when the store cannot take it.
    """
    # By the name in the tar: a layer may empty a folder and fill it again, or put something in place of what it removes.
    unique = {_checked(entry).name: entry for entry in entries}
    with store.writer() as blob, GzipWriter(blob.write) as compressed:
        tar = _TarWriter(compressed)
        for entry in sorted(unique.values(), key=lambda entry: entry.name.split("/")):
            tar.add(entry)
        tar.end()
    return Layer(Descriptor(OCI_LAYER_GZIP, blob.digest, blob.size), tar.digest)


def _checked(entry: LayerEntry) -> LayerEntry:
    parts = entry.path.split("/")
    if entry.path.startswith("/") or not all(parts) or {".", ".."} & set(parts):
        raise BuildError(f"{entry.path!r} cannot be in a layer: it is not a plain path below the rootfs")
    if any(part.startswith(WHITEOUT) for part in parts):
        raise BuildError(f"{entry.path!r} cannot be in a layer: names with {WHITEOUT} mean removals there", hint="rename the file")
    return entry


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _TarWriter:
    """A tar stream with its digest. PAX headers appear only for what does not fit the plain header."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._hash = hashlib.sha256()
        self._size = 0
        self._added: set[str] = set()

    @property
    def digest(self) -> str:
        return "sha256:" + self._hash.hexdigest()

    def add(self, entry: LayerEntry) -> None:
        if entry.kind == "file":
            self._add_file(entry)
        else:
            self._header(entry, 0)
        self._added.add(entry.path)

    def _add_file(self, entry: LayerEntry) -> None:
        if not isinstance(entry.source, Path):
            data = entry.source or b""
            self._header(entry, len(data))
            self._content(io.BytesIO(data), len(data), entry)
            return
        try:
            with entry.source.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                self._header(entry, size)
                self._content(file, size, entry)
        except OSError as problem:
            raise BuildError(f"{entry.source} cannot be read: {problem.strerror or problem}") from problem

    def _header(self, entry: LayerEntry, size: int) -> None:
        info = tarfile.TarInfo(entry.name)
        info.mode, info.size = entry.mode & 0o7777, size
        match entry.kind:
            case "dir":
                info.type = tarfile.DIRTYPE
            case "symlink":
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
            case "hardlink":
                if entry.target not in self._added:
                    raise BuildError(f"{entry.path}: a hard link to {entry.target}, which is not before it in the layer")
                info.type, info.linkname = tarfile.LNKTYPE, entry.target
            case "whiteout" | "opaque":
                info.mode = 0o644
            case _:
                pass
        self._write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))

    def _content(self, file: IO[bytes], size: int, entry: LayerEntry) -> None:
        rest = size
        while rest:
            chunk = file.read(min(rest, CHUNK))
            if not chunk:
                raise BuildError(f"{entry.path} became shorter while it was read", hint="let nothing write to it during the build")
            self._write(chunk)
            rest -= len(chunk)
        self._write(bytes(-size % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self._hash.update(data)
        self._sink.write(data)
        self._size += len(data)

    def end(self) -> None:
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self._size % tarfile.RECORDSIZE))


def unpack(store: Store, layers: Sequence[Descriptor], destination: Path, *, links_out: bool = False) -> None:
    """Lay layers over each other, lowest first, in a folder that is made when missing. Each is verified before it is opened.

    Owners and times are not kept; what a failure leaves in the folder is for the caller to remove. Raises StoreError when a
    layer is missing or damaged, holds a device, or would write outside of ``destination``: through ``..``, an absolute path,
    or a link that points out of it. A relative link that leads out of ``destination`` is refused even when nothing is written
    through it, unless ``links_out``: a container image has its root folder to stop it.
    """
    for layer in layers:
        store.verify(layer.digest)
    try:
        destination.mkdir(parents=True, exist_ok=True)
        tree = Extraction(destination.resolve())
        for layer in layers:
            tree.lay(store, layer)
        tree.finish(links_out=links_out)
    except OSError as problem:
        raise StoreError(f"cannot unpack into {destination}: {problem.strerror or problem}") from problem


# What a command changed


@dataclasses.dataclass(frozen=True)
class _Seen:
    kind: Kind
    mode: int
    size: int
    target: str
    identity: tuple[int, ...]
    """Device, inode and times: if these are equal, the file has not been written to."""
    digest: str


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """State of a folder at ``taken`` (nanoseconds since the epoch), for a later comparison without a copy."""

    seen: Mapping[str, _Seen]
    taken: int


def snapshot(root: Path) -> Snapshot:
    """Remember a folder before a command runs in it; reads every file once. Raises BuildError as scan() does."""
    now = time.time_ns()
    return Snapshot({path: _look(root, path, state, content=True) for path, state in _walk(root)}, now)


def diff(before: Path | Snapshot, after: Path) -> Iterator[LayerEntry]:
    """Layer entries that turn ``before`` into ``after``, sorted: content, mode, type, symlink target, added, removed.

    A file that was only touched, or written again with what it held, is not in it.
    """
    if isinstance(before, Path):
        before = snapshot(before)
    now = dict(_walk(after))
    changed = ((path, state) for path, state in now.items() if _is_changed(before, after, path, state))
    yield from _entries(after, changed)
    for path in before.seen:
        # A child of what has gone or become something else goes with it.
        parent = posixpath.dirname(path)
        if path not in now and (not parent or (parent in now and stat.S_ISDIR(now[parent].st_mode))):
            yield LayerEntry(path, "whiteout")


def _is_changed(before: Snapshot, root: Path, path: str, state: os.stat_result) -> bool:
    old = before.seen.get(path)
    if old is None:
        return True
    new = _look(root, path, state, content=False)
    if (old.kind, old.mode, old.size, old.target) != (new.kind, new.mode, new.size, new.target):
        return True
    if old.kind != "file" or (old.identity == new.identity and max(old.identity[2:]) < before.taken - _CLOCK_STEP):
        return False
    return _file_digest(root / path) != old.digest


def _look(root: Path, path: str, state: os.stat_result, *, content: bool) -> _Seen:
    kind = _kind(path, state)
    target = _target(root / path) if kind == "symlink" else ""
    mode = 0o777 if kind == "symlink" else stat.S_IMODE(state.st_mode)
    size = state.st_size if kind == "file" else 0
    identity = (state.st_dev, state.st_ino, state.st_mtime_ns, state.st_ctime_ns)
    return _Seen(kind, mode, size, target, identity, _file_digest(root / path) if content and kind == "file" else "")


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise BuildError(f"{path} cannot be read: {problem.strerror or problem}") from problem


def _walk(root: Path, folder: str = "") -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(root / folder) as entries:
            children = sorted((child.name, child.stat(follow_symlinks=False)) for child in entries)
    except OSError as problem:
        raise BuildError(f"{root / folder} cannot be read: {problem.strerror or problem}") from problem
    for name, state in children:
        path = f"{folder}/{name}" if folder else name
        if stat.S_ISSOCK(state.st_mode):
            continue
        yield path, state
        if stat.S_ISDIR(state.st_mode):
            yield from _walk(root, path)


def _kind(path: str, state: os.stat_result) -> Kind:
    if stat.S_ISREG(state.st_mode):
        return "file"
    if stat.S_ISDIR(state.st_mode):
        return "dir"
    if stat.S_ISLNK(state.st_mode):
        return "symlink"
    raise BuildError(f"{path} is a device or a FIFO; a rootfs may hold files, directories and links only", hint="remove it")


def _target(link: Path) -> str:
    return os.readlink(link)  # noqa: PTH115 -- Path would change how the target is written


def _entries(root: Path, states: Iterable[tuple[str, os.stat_result]], prefix: str = "") -> Iterator[LayerEntry]:
    first: dict[tuple[int, int], str] = {}
    for path, state in states:
        kind, name = _kind(path, state), posixpath.join(prefix, path)
        mode = stat.S_IMODE(state.st_mode)
        if kind == "symlink":
            yield _checked(LayerEntry(name, kind, 0o777, target=_target(root / path)))
        elif kind == "dir":
            yield _checked(LayerEntry(name, kind, mode))
        elif state.st_nlink > 1 and (state.st_dev, state.st_ino) in first:
            yield _checked(LayerEntry(name, "hardlink", mode, target=first[state.st_dev, state.st_ino]))
        else:
            first[state.st_dev, state.st_ino] = name
            yield _checked(LayerEntry(name, kind, mode, root / path))
