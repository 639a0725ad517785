"""Files on their way to several nodes, each known by its digest, and the forms in which they are sent."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness import log
from harness.nodes import Node, Writer
from harness.nodes.files import NodeFile, tar_stream
from harness.oci.store import Store

_RECORD = "parcel"
"""Kind of the store's records with the digests of a parcel's files."""


@dataclasses.dataclass(frozen=True)
class Content:
    """A file: its local path, its size in bytes, and its BLAKE2b digest in hexadecimal digits."""

    source: Path
    size: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Load:
    """Files in the form in which they are sent: about how many bytes, what writes them, and what unpacks standard input."""

    size: int
    write: Writer
    unpack: str = "tar -xof -"


@dataclasses.dataclass(frozen=True)
class Parcel:
    """Files that several nodes are to have."""

    name: str
    """Of lower-case letters, digits and hyphens; another one for other contents."""
    files: Mapping[str, Content]
    """By path, relative and ``plain``."""
    place: str
    """Folder on a node out of which it serves the files."""
    finish: str
    """Shell text, run in the complete folder ``$work/tree``: puts the files into place; ``place`` is served afterwards."""
    begin: str = ":"
    """Shell text that prepares that folder."""
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """Small files for ``begin`` and ``finish``, in ``$work``."""
    earlier: str = ""
    """Folders on a node, as a shell pattern, that may have some of the files already."""
    parts: tuple[str, ...] = ()
    """Digests of the layers that it is made of, lowest first."""
    packed: Callable[[Collection[str]], Load | None] | None = None
    """All files packed, without those of the lowest parts that a node has; None where they cannot be packed."""
    whole: Callable[[Node], None] | None = None
    """Sends it to a node that lacks the programs to gather it."""
    listed: bool = True
    """All names in it are ``plain``; otherwise every node is sent the whole of it."""

    @property
    def size(self) -> int:
        return sum(content.size for content in self.files.values())

    def manifest(self, key: str) -> dict[str, NodeFile]:
        """The files that tell a node what it is to gather: digests, place and parts, and the key for requests."""
        sums = "".join(f"{content.digest}  ./{path}\n" for path, content in sorted(self.files.items()))
        have = "".join(f"{line}\n" for line in (self.place, *self.parts))
        return {
            "/sums": NodeFile.text(sums),
            "/have": NodeFile.text(have),
            "/key": NodeFile.text(f"{key}\n", 0o600),
            **{f"/{name}": NodeFile(data) for name, data in self.beside.items()},
        }

    def load(self, paths: Sequence[str]) -> Load:
        """Some of the files, as they are."""

        def write(stream: BinaryIO) -> None:
            with tar_stream(stream) as tar:
                for path in paths:
                    entry = tarfile.TarInfo(path)
                    entry.size, entry.mode = self.files[path].size, 0o644
                    with self.files[path].source.open("rb") as file:
                        tar.addfile(entry, file)

        return Load(sum(self.files[path].size for path in paths), write)


@dataclasses.dataclass(frozen=True)
class Delivery:
    """The delivery of a parcel to a node: bytes sent to it over SSH, and the addresses of the peers that gave it files."""

    sent: int = 0
    peers: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """Text behind the title of a step, beside those of other nodes."""
        return f"{log.size(self.sent)} from here" if self.sent else "copied between machines" if self.peers else ""


def plain(path: str) -> bool:
    """Return whether a path can be a line of a list as it is."""
    return "\n" not in path and "\\" not in path and path.isprintable()


def contents(files: Mapping[str, Path], expected: Mapping[str, str] | None = None) -> dict[str, Content]:
    """Digest files that are to be sent. ``expected`` has SHA-256 digests, in hexadecimal digits, of some of them.

    Raises ValueError with the path of one that does not match, OSError for one that cannot be read.
    """

    def read(path: str) -> Content:
        digest, sha256, size = hashlib.blake2b(), hashlib.sha256(), 0
        expected_sha256 = (expected or {}).get(path)
        with files[path].open("rb") as file:
            while data := file.read(1 << 20):
                size += len(data)
                digest.update(data)
                if expected_sha256:
                    sha256.update(data)
        if expected_sha256 and sha256.hexdigest() != expected_sha256:
            raise ValueError(path)
        return Content(files[path], size, digest.hexdigest())

    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(files, pool.map(read, files), strict=True))


def known_contents(store: Store, name: str, files: Mapping[str, Path], expected: Mapping[str, str] | None = None) -> dict[str, Content]:
    """``contents``, digested once for a parcel of this name. A file that changes later does not arrive."""
    sizes = {path: source.stat().st_size for path, source in files.items()}
    recorded = (store.record(_RECORD, name) or {}).get("files", {})
    if {path: entry[0] for path, entry in recorded.items()} == sizes:
        return {path: Content(files[path], size, digest) for path, (size, digest) in recorded.items()}
    digested = contents(files, expected)
    store.keep(_RECORD, name, {"files": {path: [content.size, content.digest] for path, content in digested.items()}})
    return digested


def listing(paths: Iterable[str]) -> bytes:
    """Paths as ``find .`` prints them, sorted as ``LC_ALL=C sort`` does."""
    return b"".join(sorted(os.fsencode(f"./{path}\n") for path in paths))
