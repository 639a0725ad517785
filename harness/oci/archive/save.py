"""Images of the store as one file: a standard OCI archive (an image layout in a tar), for places that no network reaches.

``oci-layout`` and ``index.json`` come first, then indexes and manifests, parents before children, then all other blobs. So a reader that
reads it as a stream knows what is to come, and how large it may be, before the large blobs come. Archives of others, which have
their index last, are read as well.

A **delta** leaves out what its base images have; its index.json says what that is (see index.py).
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci.archive import delta, selection, volumes
from harness.oci.archive.index import Index
from harness.oci.layer import compression, tar_reader
from harness.oci.model import Descriptor, Platform, canonical_json
from harness.oci.store import CHUNK, Store

_READ_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class SavedArchive:
    """Result of a save: ``size`` bytes into ``files`` (none for a stream), of images under ``names`` with ``blobs`` blobs."""

    names: tuple[str, ...]
    files: tuple[Path, ...]
    size: int
    blobs: int
    content: int
    """Bytes of the blobs in the archive."""
    whole: int
    """Bytes of all blobs of the images: more than ``content`` in a delta."""
    since: tuple[str, ...] = ()
    """Names, or digests, of the images that the delta is based on."""


def save(
    store: Store,
    names: Sequence[str],
    destination: Path | BinaryIO,
    *,
    since: Sequence[str | Path] = (),
    platforms: Sequence[Platform] = (),
    compress: compression.Compression = "none",
    volume_size: int | None = None,
    meter: Meter | None = None,
) -> SavedArchive:
    """Write images, and the attachments of each, into one archive, each blob once and each verified on its way.

    A file appears when it is whole, volumes of ``volume_size`` bytes all together; a stream is written as it goes. ``since``: names
    or digests of the store, or archives, whose blobs are left out. The same images give the same bytes. Raises StoreError when an
    image or one of its blobs is missing or damaged, or the destination cannot take it; UsageError for an OLD that is not a file, and for
    too many volumes.
    """
    with store.shared_lease():
        images = selection.images_of(store, names, tuple(platforms))
        blobs = selection.blobs_of(store, images)
        bases = [delta.base_of(store, old) for old in since]
        had = {digest for base in bases for digest in base.blobs}
        carried = [blob for blob in blobs if blob.digest not in had]
        if meter:
            meter.total = sum(blob.size for blob in carried)
        index = Index(tuple(images), tuple(delta.left_out(blobs, bases)))
        if isinstance(destination, Path) and volume_size and compress == "none":
            # Of a compressed archive the size is known only when it is written.
            volumes.require_few(destination, sum(blob.size for blob in carried), volume_size)
        try:
            with _output(destination, volume_size) as file, compression.writer(file.write, compress) as packed:
                _write(store, index, carried, packed, meter)
        except OSError as problem:
            where = destination if isinstance(destination, Path) else "the output"
            large = problem.errno == errno.EFBIG
            hint = "its file system takes no file of that size: --volume-size 4GB" if large and not volume_size else "nothing was saved"
            raise StoreError(f"{where}: {problem.strerror or problem}", hint=hint) from problem
    return SavedArchive(
        names=tuple(image.name for image in images),
        files=file.files,
        size=file.size,
        blobs=len(carried),
        content=sum(blob.size for blob in carried),
        whole=sum(blob.size for blob in blobs),
        since=tuple(name for base in bases for name, _ in base.images),
    )


def _output(destination: Path | BinaryIO, volume_size: int | None) -> volumes.FileWriter | volumes.VolumeWriter | volumes.StreamWriter:
    if not isinstance(destination, Path):
        return volumes.StreamWriter(destination)
    if volume_size:
        return volumes.VolumeWriter(destination, volume_size)
    if destination.exists() and not destination.is_file():
        # A pipe, or /dev/null: written to, not replaced.
        return volumes.StreamWriter(destination.open("wb"), close=True)
    return volumes.FileWriter(destination)


def _write(store: Store, index: Index, blobs: Sequence[Descriptor], file: compression.Writer, meter: Meter | None) -> None:
    # These first, so that a reader of the stream knows early what it is.
    for name, data in (("oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"})), ("index.json", index.data())):
        file.write(tar_reader.file_header(name, len(data)) + data + tar_reader.padding(len(data)))
    for folder in ("blobs", "blobs/sha256"):
        file.write(tar_reader.folder_header(folder))
    with _Verifier() as verifier:
        for blob in blobs:
            verifier.begin(blob.digest)
            file.write(tar_reader.file_header(f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", blob.size))
            with store.open(blob.digest) as content:
                for chunk in _chunks(blob, content):
                    verifier.update(chunk)
                    file.write(chunk)
                    if meter:
                        meter.add(len(chunk))
            file.write(tar_reader.padding(blob.size))
    file.write(tar_reader.END)


def _chunks(blob: Descriptor, content: BinaryIO) -> Iterator[bytes]:
    remaining = blob.size
    while remaining:
        chunk = content.read(min(CHUNK, remaining))
        if not chunk:
            raise _damaged(blob.digest)
        remaining -= len(chunk)
        yield chunk


class _Verifier:
    """Hashes beside the writing, in a thread. Raises StoreError for a damaged blob, at the latest when the ``with`` block ends."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="verifier")
        self._waiting: collections.deque[concurrent.futures.Future[None]] = collections.deque()
        self._digest = ""
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                self._end()
                while self._waiting:
                    self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, digest: str) -> None:
        """The next blob; the one before is complete."""
        self._end()
        self._digest, self._hash = digest, hashlib.sha256()

    def update(self, chunk: bytes) -> None:
        self._submit(self._hash.update, chunk)

    def _end(self) -> None:
        if self._digest:
            self._submit(_compare, self._hash, self._digest)

    def _submit(self, work: Callable[..., None], *values: Any) -> None:
        self._waiting.append(self._pool.submit(work, *values))
        while len(self._waiting) > _READ_AHEAD:
            self._waiting.popleft().result()


def _compare(hashed: Any, digest: str) -> None:
    if f"sha256:{hashed.hexdigest()}" != digest:
        raise _damaged(digest)


def _damaged(digest: str) -> StoreError:
    return StoreError(
        f"blob {digest} is damaged: its bytes have another digest",
        hint="pull, load or build the image again; the good blob replaces the damaged one",
    )
