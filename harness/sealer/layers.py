"""Layers of an image that sealer made, split: the rootfs becomes new layers, the registry's storage in it blobs of the store.

sealer puts the storage of a docker-registry (2.8, ``storage/paths.go`` there) below ``registry/`` of the rootfs. It may be spread over
several layers, so what each of them adds and removes is read first and laid over each other then. A layer is read once, as a stream:
blobs go from the tar into the store while they are hashed, files of the rootfs through a scratch folder into a layer that is sorted
and has no times. What was read of a layer is remembered under its digest; images that share layers share the work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.host import scratch
from harness.oci.layer import Layer, LayerEntry, write_layer
from harness.oci.layer.extract import OPAQUE, WHITEOUT, open_layer
from harness.oci.layer.tar_reader import TarEntry, TarReader
from harness.oci.model import Descriptor
from harness.oci.store import CHUNK, Store
from harness.untrusted import json_object

ROOT = "registry"
"""The folder of the rootfs that sealer keeps the storage in."""

FORMAT = "1"
"""Part of every record of a layer: raise it when a layer would be read or written otherwise."""

_STORAGE = f"{ROOT}/docker/registry/v2"
_DATA = re.compile(rf"{_STORAGE}/blobs/sha256/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})/data")
_TAG = re.compile(rf"{_STORAGE}/repositories/(.+)/_manifests/tags/([^/]+)/current/link")
_REVISION = re.compile(rf"{_STORAGE}/repositories/(.+)/_manifests/revisions/sha256/([0-9a-f]{{64}})/link")
_KNOWN = re.compile(
    rf"{_STORAGE}/repositories/.+/(_layers|_uploads|_manifests)/.+|{_STORAGE}/blobs/sha256/[0-9a-f]{{2}}/[0-9a-f]{{64}}/data"
    # What the registry's pull-through cache, by which sealer fills the storage, keeps beside it.
    rf"|{ROOT}/scheduler-state\.json"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LARGEST_DOCUMENT = 4 << 20
"""Bytes. What begins like JSON and is not larger may be a manifest: it is kept also when only looking."""
_LARGEST_LINK = 1 << 10


@dataclasses.dataclass(frozen=True)
class RegistryEntry:
    """Something below ``registry/``. A blob has ``digest``, ``size`` and ``good`` (whether its bytes have that digest), a link ``text``."""

    kind: str
    """``blob``, ``link``, ``dir`` or ``other``."""
    digest: str = ""
    size: int = 0
    good: bool = False
    document: bool = False
    """It may be a manifest, and is in the store."""
    text: str = ""


@dataclasses.dataclass(frozen=True)
class RegistryTree:
    """The storage of a docker-registry as all layers together have it."""

    blobs: Mapping[str, int]
    """Digest -> bytes, of those whose bytes are right."""
    damaged: frozenset[str]
    """Digests under which other bytes lie."""
    tags: Mapping[tuple[str, str], str]
    """(repository, tag) -> digest; a repository has no domain here."""
    revisions: Mapping[str, frozenset[str]]
    """Repository -> digests of its manifests, tagged or not."""
    bad_links: Mapping[str, str]
    """``repository:tag`` -> content of its link, when that is not a digest."""
    strays: tuple[str, ...]
    """Files below ``registry/`` that do not belong to the storage."""


@dataclasses.dataclass(frozen=True)
class SplitLayers:
    """Layers without registry storage. ``layers`` has one for each, None where it held only storage, or when only reading."""

    tree: RegistryTree
    layers: tuple[Layer | None, ...]


def split_layers(store: Store, layers: Sequence[Descriptor], *, rootfs: bool = True) -> SplitLayers:
    """Read layers, lowest first. Without ``rootfs`` only look: no layer is written and of the blobs only manifests are kept.

    Hold ``store.shared_lease()`` meanwhile. Raises StoreError when a layer is missing or damaged, or holds what no rootfs may: a device, a
    path that leaves it.
    """
    read = [_known(store, layer, rootfs=rootfs) or _read(store, layer, rootfs=rootfs) for layer in layers]
    return SplitLayers(_storage(_merged(read)), tuple(one.rootfs for one in read))


# One layer


@dataclasses.dataclass
class _Read:
    """Additions of a layer to ``registry/``, its removals, and the rest as a new layer."""

    found: dict[str, RegistryEntry]
    removed: list[str]
    """Paths that go with all below them."""
    emptied: list[str]
    """Folders whose content goes."""
    complete: bool
    rootfs: Layer | None = None


def _key(layer: Descriptor) -> str:
    return layer.digest.replace(":", "-")


def _known(store: Store, layer: Descriptor, *, rootfs: bool) -> _Read | None:
    record = store.record("sealer-layer", _key(layer))
    if record is None or record.get("format") != FORMAT:
        return None
    rootfs_layer = record["rootfs"]
    content = _Read(
        {path: RegistryEntry(**value) for path, value in record["found"].items()}, record["removed"], record["emptied"], record["complete"],
        Layer(Descriptor.from_json(rootfs_layer["layer"]), rootfs_layer["diffId"]) if rootfs_layer else None,
    )  # fmt: skip
    needed = {entry.digest for entry in content.found.values() if entry.good and (entry.document or rootfs)}
    if rootfs and content.rootfs:
        needed.add(content.rootfs.descriptor.digest)
    usable = (content.complete or not rootfs) and all(store.has(digest) for digest in needed)
    return content if usable else None


def _read(store: Store, layer: Descriptor, *, rootfs: bool) -> _Read:
    store.verify(layer.digest)
    with tempfile.TemporaryDirectory(prefix="sealer-", dir=scratch.folder()) as work:
        reader = _Reader(store, layer, Path(work), keep=rootfs)
        with open_layer(store, layer) as tar:
            for number, entry in enumerate(tar):
                reader.add(tar, entry, number)
        read = reader.read
        if rootfs:
            entries = reader.entries()
            read.rootfs = write_layer(entries, store) if entries else None
    rootfs_layer = {"layer": read.rootfs.descriptor.to_json(), "diffId": read.rootfs.diff_id} if read.rootfs else None
    store.keep("sealer-layer", _key(layer), {
        "format": FORMAT, "found": {path: dataclasses.asdict(item) for path, item in read.found.items()},
        "removed": read.removed, "emptied": read.emptied, "complete": rootfs, "rootfs": rootfs_layer,
    })  # fmt: skip
    return read


class _WrongBytesError(Exception):
    """A blob of the tree is not what its name says; ends the writer that was to keep it."""


class _Hash:
    """Takes a blob that is only looked at."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> None:
        self._hash.update(data)


class _Reader:
    """Takes the members of one layer's tar, in their order."""

    def __init__(self, store: Store, layer: Descriptor, work: Path, *, keep: bool) -> None:
        self.read = _Read({}, [], [], complete=keep)
        self._store = store
        self._layer = layer.digest
        self._work = work
        self._keep = keep
        self._entries: dict[str, LayerEntry] = {}
        """By the path in the tar, where removals have their own."""

    def add(self, tar: TarReader, member: TarEntry, number: int) -> None:
        path = self._clean(member.name, member.name)
        parent, name = posixpath.split(path)
        if not path:
            return
        if name.startswith(WHITEOUT):
            self._whiteout(member, parent, name)
        elif _in_registry(path):
            self._registry(tar, member, path)
        else:
            self._rootfs(tar, member, path, number)

    def _clean(self, path: str, name: str) -> str:
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise self._refused(name, "leaves the rootfs")
        return "/".join(parts)

    def _refused(self, name: str, why: str) -> StoreError:
        return StoreError(f"layer {self._layer} is refused: its entry {name!r} {why}", hint="do not use this image; tell who made it")

    def _whiteout(self, member: TarEntry, parent: str, name: str) -> None:
        hidden = name.removeprefix(WHITEOUT)
        if name == OPAQUE:
            if not parent:
                raise self._refused(member.name, "removes the whole rootfs below it")
            if _in_registry(parent):
                self.read.emptied.append(parent)
            elif self._keep:
                self._entries[posixpath.join(parent, name)] = LayerEntry(parent, "opaque")
        elif hidden in ("", ".", ".."):
            raise self._refused(member.name, "removes something outside of its folder")
        elif not hidden.startswith(WHITEOUT):
            gone = posixpath.join(parent, hidden)
            if _in_registry(gone):
                self.read.removed.append(gone)
            elif self._keep:
                self._entries[posixpath.join(parent, name)] = LayerEntry(gone, "whiteout")

    # The storage

    def _registry(self, tar: TarReader, member: TarEntry, path: str) -> None:
        self.read.found[path] = self._look(tar, member, path)

    def _look(self, tar: TarReader, member: TarEntry, path: str) -> RegistryEntry:
        if member.kind == "folder":
            return RegistryEntry("dir")
        if member.kind == "hardlink":
            same = self.read.found.get(self._clean(member.link, member.name))
            if same is None:
                raise self._refused(member.name, f"is a hard link to {member.link!r}, which is not before it in the layer")
            return same
        data = _DATA.fullmatch(path)
        if member.kind != "file" or not (data or _is_link(path)):
            return RegistryEntry("other")
        if data:
            return self._blob(tar, f"sha256:{data[2]}", member.size)
        return RegistryEntry("link", text=tar.head(_LARGEST_LINK).decode(errors="replace").strip())

    def _blob(self, content: TarReader, digest: str, size: int) -> RegistryEntry:
        chunk = content.read(CHUNK)
        document = size <= _LARGEST_DOCUMENT and chunk.lstrip()[:1] == b"{"
        # Hashed also when the store has it: what the tree holds must not depend on what else is here.
        keep = (self._keep or document) and not self._store.has(digest)
        try:
            with self._store.writer() if keep else contextlib.nullcontext(_Hash()) as blob:
                while chunk:
                    blob.write(chunk)
                    chunk = content.read(CHUNK)
                if blob.digest != digest:
                    raise _WrongBytesError
        except _WrongBytesError:
            return RegistryEntry("blob", digest, size)
        return RegistryEntry("blob", digest, size, good=True, document=document)

    # The rootfs

    def _rootfs(self, tar: TarReader, member: TarEntry, path: str, number: int) -> None:
        if member.kind == "other":
            raise self._refused(member.name, "is a device or a FIFO")
        if not self._keep:
            return
        if member.kind == "folder":
            entry = LayerEntry(path, "dir", member.mode)
        elif member.kind == "symlink":
            entry = LayerEntry(path, "symlink", 0o777, target=member.link)
        elif member.kind == "hardlink":
            entry = LayerEntry(path, "hardlink", member.mode, target=self._clean(member.link, member.name))
        else:
            entry = LayerEntry(path, "file", member.mode, self._kept(tar, number))
        self._entries[path] = entry

    def _kept(self, tar: TarReader, number: int) -> Path:
        place = self._work / str(number)
        with place.open("wb") as file:
            shutil.copyfileobj(tar, file, CHUNK)
        return place

    def entries(self) -> list[LayerEntry]:
        """All of the rootfs. Of the names of one file the first in the order of a layer holds it: the others are links to that."""
        names: dict[str, list[str]] = {}
        for path, entry in self._entries.items():
            if entry.kind == "hardlink":
                names.setdefault(self._target(entry), []).append(path)
        for target, links in names.items():
            holds = self._entries[target]
            first, *rest = sorted([target, *links], key=lambda path: path.split("/"))
            self._entries[first] = dataclasses.replace(holds, path=first)
            for path in rest:
                alike = dataclasses.replace(holds, path=path)
                self._entries[path] = LayerEntry(path, "hardlink", holds.mode, target=first) if holds.kind == "file" else alike
        return list(self._entries.values())

    def _target(self, link: LayerEntry) -> str:
        seen = {link.path}
        while link.kind == "hardlink":
            entry = self._entries.get(link.target)
            if entry is None or entry.kind == "dir" or entry.path in seen:
                raise self._refused(link.path, f"is a hard link to {link.target!r}, which is not a file of this layer")
            seen.add(entry.path)
            link = entry
        return link.path


def _in_registry(path: str) -> bool:
    return path == ROOT or path.startswith(f"{ROOT}/")


def _is_link(path: str) -> bool:
    return bool(_TAG.fullmatch(path) or _REVISION.fullmatch(path))


# All layers


def _merged(layers: Iterable[_Read]) -> dict[str, RegistryEntry]:
    """Final content of ``registry/``. The removals of a layer apply only to the layers below it."""
    files: dict[str, RegistryEntry] = {}
    for layer in layers:
        gone = set(layer.removed)
        emptied = set(layer.emptied)
        replaced = {path for path, entry in layer.found.items() if entry.kind != "dir"}
        if gone or emptied:
            files = {path: entry for path, entry in files.items() if path not in gone and not {*_above(path)} & (gone | emptied)}
        # A file in place of a folder, and the other way round.
        if replaced & {above for path in files for above in _above(path)}:
            files = {path: entry for path, entry in files.items() if not {*_above(path)} & replaced}
        for path, entry in layer.found.items():
            if entry.kind == "dir":
                files.pop(path, None)
            else:
                files[path] = entry
    return files


def _above(path: str) -> Iterable[str]:
    while path := posixpath.dirname(path):
        yield path


def _storage(files: Mapping[str, RegistryEntry]) -> RegistryTree:
    blobs: dict[str, int] = {}
    damaged: set[str] = set()
    tags: dict[tuple[str, str], str] = {}
    revisions: dict[str, set[str]] = {}
    bad_links: dict[str, str] = {}
    strays: list[str] = []
    for path, entry in sorted(files.items()):
        tag, revision = _TAG.fullmatch(path), _REVISION.fullmatch(path)
        if entry.kind == "blob":
            if entry.good:
                blobs[entry.digest] = entry.size
            else:
                damaged.add(entry.digest)
        elif entry.kind == "link" and tag:
            if _DIGEST.fullmatch(entry.text):
                tags[tag[1], tag[2]] = entry.text
            else:
                bad_links[f"{tag[1]}:{tag[2]}"] = entry.text
        elif entry.kind == "link" and revision:
            # A revision that was deleted leaves its folder, without a link; a link with other content is ignored.
            if entry.text == f"sha256:{revision[2]}":
                revisions.setdefault(revision[1], set()).add(entry.text)
        elif not _KNOWN.fullmatch(path):
            strays.append(path)
    return RegistryTree(
        blobs, frozenset(damaged), tags, {name: frozenset(digests) for name, digests in revisions.items()}, bad_links, tuple(strays)
    )


def document(store: Store, tree: RegistryTree, digest: str) -> dict[str, Any] | None:
    """A manifest or index of the tree; None when it is missing, damaged, or not a JSON object."""
    if digest not in tree.blobs or tree.blobs[digest] > _LARGEST_DOCUMENT or not store.has(digest):
        return None
    data = store.read(digest)
    try:
        return json_object(data, what=f"blob {digest}", limit=_LARGEST_DOCUMENT)
    except StoreError:
        return None
