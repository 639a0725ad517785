"""Layers of a rootfs, read as a stream, and the tree that they unpack to."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import log
from harness.cloudimage.conformance.documents import ExaminedBlobs
from harness.cloudimage.unpacked import open_folders
from harness.errors import SlipwayError, StoreError
from harness.host import scratch
from harness.oci.layer.extract import Extraction, open_layer
from harness.oci.layer.tar_reader import TarEntry
from harness.oci.model import Descriptor
from harness.templates.job import output_name
from harness.untrusted import UntrustedTree, relative_path

_HINT = "SLIPWAY_CACHE names a folder on a larger disk"
_ENDINGS = ("", ".tmpl", ".j2")
_MARGIN = 256 << 20
"""Bytes of the disk that unpacking leaves free."""


@dataclasses.dataclass(frozen=True)
class LayerScan:
    """Content of a layer. ``problem``: why it is not a readable tar; the other facts are those of what comes before that."""

    diff_id: str = ""
    problem: str | None = None
    entries: int = 0
    size: int = 0
    """Bytes of its files."""
    unsorted: str | None = None
    """The first entry that is not behind the one before it."""
    dated: str | None = None
    """The first entry with a time; ``gzip`` when the stream has one."""
    owned: str | None = None
    """The first entry whose owner or group is not 0."""


def scan_layer(blobs: ExaminedBlobs, layer: Descriptor) -> LayerScan:
    """Read a layer once, in bounded memory."""
    content = hashlib.sha256()
    notes = _Notes()
    try:
        with blobs.open(layer.digest) as file:
            head = file.read(10)
        # RFC 1952: MTIME.
        notes.dated = "the gzip stream" if head[:2] == b"\x1f\x8b" and any(head[4:8]) else None
        with open_layer(blobs, layer, content) as tar:
            for entry in tar:
                notes.add(entry)
    except StoreError as wrong:
        return notes.scan("", wrong.message)
    except OSError as wrong:
        return notes.scan("", f"cannot be read: {wrong.strerror or wrong}")
    return notes.scan(f"sha256:{content.hexdigest()}", None)


class _Notes:
    def __init__(self) -> None:
        self.entries = self.size = 0
        self.unsorted: str | None = None
        self.dated: str | None = None
        self.owned: str | None = None
        self._last: list[str] | None = None

    def add(self, entry: TarEntry) -> None:
        self.entries += 1
        self.size += entry.size
        parts = [part for part in entry.name.split("/") if part not in ("", ".")]
        if self._last is not None and parts <= self._last:
            self.unsorted = self.unsorted or entry.name
        self._last = parts
        if entry.dated:
            self.dated = self.dated or entry.name
        if entry.owner != (0, 0):
            self.owned = self.owned or entry.name

    def scan(self, diff_id: str, problem: str | None) -> LayerScan:
        return LayerScan(diff_id, problem, self.entries, self.size, self.unsorted, self.dated, self.owned)


@dataclasses.dataclass(frozen=True)
class RootfsTree:
    """An unpacked rootfs, or ``problem``: why it may not be unpacked."""

    folder: Path | None = None
    problem: str | None = None

    def holds(self, path: str) -> bool:
        """Return True when a launch command finds ``path``: a file, a folder, or a template that is rendered to it."""
        if self.folder is None:
            return False
        tree = UntrustedTree(self.folder)
        try:
            if tree.is_dir(path):
                return True
            clean = relative_path(path, what="path")
            return any(output_name(clean + ending) == clean and tree.is_file(clean + ending) for ending in _ENDINGS)
        except (SlipwayError, OSError):
            return False


def unpacked(blobs: ExaminedBlobs, layers: Sequence[Descriptor], size: int) -> RootfsTree:
    """Unpack layers, lowest first, below the folder of temporary files.

    Raises StoreError when the disk has no room for ``size`` bytes: that is not a fault of the image.
    """
    folder = Path(tempfile.mkdtemp(dir=scratch.folder(), prefix="rootfs-"))
    free = shutil.disk_usage(folder).free
    if size + _MARGIN > free:
        raise StoreError(
            f"no space left to unpack the rootfs: it has {log.size(size)}, {log.size(free)} are free below {folder.parent}",
            hint=_HINT,
        )
    tree = Extraction(folder)
    try:
        for layer in layers:
            tree.lay(blobs, layer)
        tree.finish()
        open_folders(folder)
    except StoreError as wrong:
        return RootfsTree(problem=wrong.message)
    except OSError as wrong:
        if wrong.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left in {folder.parent}", hint=_HINT) from wrong
        return RootfsTree(problem=f"cannot be unpacked: {wrong.strerror or wrong}")
    return RootfsTree(folder)
