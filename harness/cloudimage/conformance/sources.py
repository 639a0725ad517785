"""Places of an image to check: the store, an archive, or an OCI image layout in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness import log, untrusted
from harness.cloudimage.conformance.documents import parsed, pointer
from harness.cloudimage.conformance.examined import ExaminedImage
from harness.errors import StoreError, UsageError
from harness.host import scratch
from harness.oci.archive import volumes
from harness.oci.archive.index import CONTAINERD_NAME, LARGEST
from harness.oci.archive.source import ArchiveSource, blob_of, opened, safe_name
from harness.oci.attached import is_attachment
from harness.oci.graph import is_manifest
from harness.oci.layer import compression
from harness.oci.model import REF_NAME, Descriptor
from harness.oci.reference import Reference
from harness.oci.store import CHUNK, Store
from harness.untrusted import UntrustedTree

LAYOUT, NAMES = "CI-ARCHIVE-1", "CI-ARCHIVE-2"
"""Clauses about layouts and archives."""
VERSION = "1.0.0"
"""Of the OCI image layout."""

_MARGIN = 256 << 20
"""Bytes of the disk that a copy of an archive leaves free."""
_LARGEST_MARK = 1 << 16
"""Bytes of the file oci-layout."""


@dataclasses.dataclass(frozen=True)
class ConformanceSubject:
    """An image to check, with its name and digest (empty when the index of its archive is not readable)."""

    name: str
    digest: str
    image: ExaminedImage


class LayoutFolder:
    """Blobs of an OCI image layout in a folder that another tool wrote."""

    def __init__(self, root: Path) -> None:
        self.tree = UntrustedTree(root)

    def size(self, digest: str) -> int:
        with _refusals(digest):
            state = self.tree.stat(_path(digest))
            if not stat.S_ISREG(state.st_mode):
                raise StoreError(f"blob {digest} is not a regular file")
            return state.st_size

    def open(self, digest: str, /) -> BinaryIO:
        with _refusals(digest):
            return self.tree.open(_path(digest))


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


@contextlib.contextmanager
def _refusals(digest: str) -> Iterator[None]:
    try:
        yield
    except OSError as wrong:
        raise StoreError(f"blob {digest}: {wrong.strerror or wrong}") from wrong


def is_file(path: Path) -> bool:
    """Return True for an archive, the first of its volumes or their name, or a folder that is an OCI image layout."""
    names_volumes = volumes.volume(path, 1).is_file() or volumes.sums(path).is_file()
    return path.is_file() or names_volumes or (path / "oci-layout").is_file()


@contextlib.contextmanager
def subject(store: Store, image: str, name: str | None = None) -> Iterator[ConformanceSubject]:
    """The image to check: a path, when it exists as is_file() has it, else a name or digest of the store.

    ``name`` chooses among several images of an archive or layout. Raises UsageError when one has to be chosen, StoreError when the
    store has no such image or the disk has no room. An archive is unpacked below the folder of temporary files, which is removed.
    """
    path = Path(image)
    if not is_file(path):
        if name is not None:
            raise UsageError(f"--image {name} chooses an image of an archive", hint=f"{image} is not a file: leave --image out")
        with scratch.cleaned(), store.shared_lease():
            root = store.resolve(image)
            yield ConformanceSubject(image, root.digest, ExaminedImage(store, root))
        return
    with scratch.cleaned():
        faults: dict[str, list[str]] = {LAYOUT: [], NAMES: []}
        folder = path if path.is_dir() else _unpacked(path, faults[LAYOUT])
        roots = _roots(folder, faults)
        chosen, top = _choose(roots, name, image)
        yield ConformanceSubject(chosen, top.digest if top else "", ExaminedImage(LayoutFolder(folder), top, faults))


# index.json


def _roots(folder: Path, faults: Mapping[str, list[str]]) -> Sequence[tuple[str, Descriptor]]:
    """Names and descriptors of the images that a layout lists. Its faults are noted."""
    tree = UntrustedTree(folder)
    mark = parsed("oci-layout", _read(tree, "oci-layout", _LARGEST_MARK, faults[LAYOUT]))
    if mark.get("imageLayoutVersion") != VERSION:
        faults[LAYOUT].append(mark.problem or f"oci-layout: imageLayoutVersion is not {VERSION}")
    index = parsed("index.json", _read(tree, "index.json", LARGEST, faults[LAYOUT]))
    entries = index.get("manifests")
    if not isinstance(entries, list) or not entries:
        faults[LAYOUT].append(index.problem or "index.json: manifests is not a list of images")
        return ()
    roots = []
    for number, value in enumerate(entries):
        entry = pointer(f"index.json .manifests[{number}]", value)
        if entry.descriptor is None:
            faults[LAYOUT].append(entry.shape_fault or entry.digest_fault or entry.where)
            continue
        roots.append((_name(entry.where, entry.descriptor, faults[NAMES]), entry.descriptor))
    return roots


def _read(tree: UntrustedTree, path: str, limit: int, faults: list[str]) -> bytes:
    try:
        return tree.read_bytes(path, limit=limit)
    except StoreError as wrong:
        faults.append(wrong.message)
    except OSError as wrong:
        faults.append(f"{path}: {wrong.strerror or wrong}")
    return b"{}"


def _name(where: str, entry: Descriptor, faults: list[str]) -> str:
    """The familiar name of an entry; empty when it has none that can be used."""
    text = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME) or ""
    if not is_manifest(entry):
        faults.append(f"{where}: {entry.media_type[:80]!r} is not the type of an image")
    if not text:
        faults.append(f"{where}: has no annotation {REF_NAME}")
        return ""
    try:
        return Reference.parse(text).familiar
    except ValueError as wrong:
        faults.append(f"{where}: {str(wrong)[:200]}")
        return ""


def _choose(roots: Sequence[tuple[str, Descriptor]], name: str | None, image: str) -> tuple[str, Descriptor | None]:
    images = [(image_name, root) for image_name, root in roots if not is_attachment(image_name)]
    if name is not None:
        try:
            wanted = Reference.parse(name).familiar
        except ValueError as wrong:
            raise UsageError(f"--image {name}: {wrong}") from wrong
        images = [(image_name, root) for image_name, root in images if image_name == wanted]
        if not images:
            raise UsageError(f"--image {name}: {image} has no such image", hint=_listed(roots))
    if len(images) > 1:
        raise UsageError(f"{image} has {len(images)} images", hint=f"--image NAME chooses one of them: {_listed(images)}")
    return images[0] if images else (image, None)


def _listed(roots: Sequence[tuple[str, Descriptor]]) -> str:
    return untrusted.shown(", ".join(name or root.digest for name, root in roots[:20]))


# Archives


def _unpacked(path: Path, faults: list[str]) -> Path:
    """Copy of the layout in an archive, as far as the archive can be read. Its faults are noted.

    Blobs keep the names that they have in the archive, whatever their bytes are. Raises StoreError when the disk has no room.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch.folder(), prefix="layout-"))
    tree = UntrustedTree(folder)
    try:
        with opened(path) as archive, log.step(f"read {path}"):
            for entry in archive.tar:
                name = safe_name(entry)
                if entry.kind != "file" or not (blob_of(name) or name in ("oci-layout", "index.json")):
                    archive.skip()
                    continue
                _require_room(archive, entry.size, folder)
                try:
                    with tree.create(name) as file:
                        while piece := archive.tar.read(CHUNK):
                            file.write(piece)
                except FileExistsError as wrong:
                    raise StoreError(f"has the file {name} twice") from wrong
                except OSError as wrong:
                    full = wrong.errno in (errno.ENOSPC, errno.EDQUOT)
                    message = f"cannot read {path} into {folder}: {wrong.strerror or wrong}"
                    raise _LocalDiskError(message, hint=_LARGER if full else None) from wrong
            archive.drain()
    except _LocalDiskError as wrong:
        raise StoreError(wrong.message, hint=wrong.hint) from wrong
    except StoreError as wrong:
        faults.append(wrong.message)
    return folder


_LARGER = "SLIPWAY_CACHE names a folder on a larger disk"


class _LocalDiskError(StoreError):
    """The disk does not take a blob: no fault of the archive."""


def _require_room(archive: ArchiveSource, size: int, folder: Path) -> None:
    """Raise StoreError for a file that the archive cannot hold, _LocalDiskError for one that the disk cannot."""
    if archive.size and size > compression.RATIO * archive.size + compression.SLACK:
        raise StoreError(f"it has a file of {size} bytes, more than the {archive.size} bytes of the archive can hold")
    free = shutil.disk_usage(folder).free
    if size + _MARGIN > free:
        raise _LocalDiskError(f"no space left to read the archive: {log.size(size)} are needed, {log.size(free)} are free", hint=_LARGER)
