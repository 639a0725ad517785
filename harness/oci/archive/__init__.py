"""Images of the store as one file: a standard OCI archive (an image layout in a tar), for places that no network reaches.

``oci-layout`` and ``index.json`` come first, then indexes and manifests, parents before children, then all other blobs. So a reader that
reads it as a stream knows what is to come, and how large it may be, before the large blobs come. Archives of others, which have
their index last, are read as well.

A **delta** leaves out what its base images have; its index.json says what that is (see index.py).
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import hashlib
import io
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from harness import log
from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci import attached
from harness.oci.admission import Admitted
from harness.oci.archive import index as archiveindex
from harness.oci.archive import volumes
from harness.oci.archive.blob_writer import Intake
from harness.oci.archive.index import ArchiveBase, Image, Index
from harness.oci.archive.plan import LoadPlan
from harness.oci.archive.volumes import DamagedError
from harness.oci.graph import attached_to, attachments, children, closure, is_manifest, walk
from harness.oci.layer import compression, tar_reader
from harness.oci.model import Descriptor, Platform, canonical_json
from harness.oci.reference import Reference
from harness.oci.store import CHUNK, UNFINISHED, Store

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_DOCKER = re.compile(r"[0-9a-f]{64}(\.json|\.tar|/(layer\.tar|VERSION|json))?/?")
_READ_AHEAD = 8
_BUFFER = 1 << 20


# Writing


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


Admit = Callable[[str, str, Mapping[str, Descriptor]], Admitted]
"""Called with the name and the digest of an image before it is tagged, and with its attachments in the archive, by name.

Raises StoreError for an image that may not be taken in.
"""


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
    image or one of its blobs is missing or damaged, or the destination cannot take it; UsageError for an OLD that is not a file.
    """
    with store.shared_lease():
        images = _images(store, names, tuple(platforms))
        blobs = _blobs(store, images)
        bases = [_base(store, one) for one in since]
        had = {digest for base in bases for digest in base.blobs}
        carried = [blob for blob in blobs if blob.digest not in had]
        if meter:
            meter.total = sum(blob.size for blob in carried)
        index = Index(tuple(images), tuple(_left_out(blobs, bases)))
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


def _images(store: Store, names: Sequence[str], platforms: tuple[Platform, ...]) -> list[Image]:
    """The images by name and what is attached to them, and to their attachments in turn, in the order of their names."""
    if not names:
        raise StoreError("nothing to save", hint="name one image or more")
    known = store.names()
    found = {image.name: image for image in (Image(*_named(store, known, name), platforms) for name in names)}
    for image in found.values():
        _check_platforms(store, image)
    waiting = list(found.values())
    for image in waiting:
        try:
            manifests = [blob.digest for blob in walk(store, image.root, image.platforms) if is_manifest(blob)]
        except StoreError as problem:
            raise _not_whole(store, image, problem) from problem
        for name, root in attachments(known, manifests).items():
            if name not in found:
                found[name] = Image(name, root)
                waiting.append(found[name])
    return [found[name] for name in sorted(found)]


def _named(store: Store, known: Mapping[str, Descriptor], name: str) -> tuple[str, Descriptor]:
    image = store.resolve(name)
    with contextlib.suppress(ValueError):
        familiar = Reference.parse(name).familiar
        if familiar in known:
            return familiar, image
    having = [known_name for known_name, descriptor in known.items() if descriptor.digest == image.digest]
    if not having:
        raise StoreError(f"{name} has no name to be saved under", hint="give it one with `slipway tag`")
    return having[0], image


def _check_platforms(store: Store, image: Image) -> None:
    there = {str(child.platform) for child in children(store.json(image.root.digest), image.root) if child.platform}
    for platform in image.platforms:
        if not any(platform.matches(Platform.parse(one)) for one in there):
            raise StoreError(f"{image.name} is not made for {platform}", hint=f"it is made for {', '.join(sorted(there)) or 'none'}")


def _blobs(store: Store, images: Iterable[Image]) -> list[Descriptor]:
    """All blobs in the order in which they are written. Raises StoreError when one is missing or has not its length."""
    manifests: dict[str, Descriptor] = {}
    others: dict[str, Descriptor] = {}
    for image in images:
        try:
            for blob in closure(store, image.root, image.platforms):
                (manifests if is_manifest(blob) else others)[blob.digest] = blob
        except StoreError as problem:
            raise _not_whole(store, image, problem) from problem
    return [*manifests.values(), *(others[digest] for digest in sorted(others) if digest not in manifests)]


def _not_whole(store: Store, image: Image, problem: StoreError) -> StoreError:
    here = [] if image.platforms else _whole_platforms(store, image.root)
    hint = f"of its platforms {', '.join(here)} can be saved: --platform {here[0]}" if here else problem.hint
    return StoreError(f"{image.name} is not whole: {problem.message}", hint=hint)


def _whole_platforms(store: Store, root: Descriptor) -> list[str]:
    """The platforms of an index of which every blob is here."""
    whole = []
    with contextlib.suppress(StoreError):
        for platform in {child.platform for child in children(store.json(root.digest), root) if child.platform}:
            with contextlib.suppress(StoreError):
                closure(store, root, (platform,))
                whole.append(str(platform))
    return sorted(whole)


def _left_out(blobs: Sequence[Descriptor], bases: Sequence[ArchiveBase]) -> Iterator[ArchiveBase]:
    """The bases, with the blobs that are left out: each at the first that has it."""
    left = {blob.digest for blob in blobs}
    for base in bases:
        yield ArchiveBase(base.images, base.blobs & left)
        left -= base.blobs


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
    left = blob.size
    while left:
        chunk = content.read(min(CHUNK, left))
        if not chunk:
            raise _damaged(blob.digest)
        left -= len(chunk)
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


def _compare(found: Any, digest: str) -> None:
    if f"sha256:{found.hexdigest()}" != digest:
        raise _damaged(digest)


def _damaged(digest: str) -> StoreError:
    return StoreError(
        f"blob {digest} is damaged: its bytes have another digest",
        hint="pull, load or build the image again; the good blob replaces the damaged one",
    )


def _base(store: Store, old: str | Path) -> ArchiveBase:
    """Images and blobs that the receiver of OLD has: an image of the store, or all images of an archive and of its bases."""
    if isinstance(old, Path):
        return _base_in_file(old)
    image = store.resolve(old)
    name = next((name for name, known in store.names().items() if known.digest == image.digest), image.digest)
    with contextlib.suppress(ValueError, StoreError):
        name = _named(store, store.names(), old)[0]
    return ArchiveBase(((name, image.digest),), frozenset(blob.digest for blob in walk(store, image)))


def _base_in_file(path: Path) -> ArchiveBase:
    blobs: set[str] = set()
    index: Index | None = None
    with _opened(path) as source:
        for entry in source.tar:
            name = _safe(entry)
            if matched := _BLOB.fullmatch(name):
                blobs.add(f"sha256:{matched[1]}")
            elif name == "index.json":
                index = _index(source, entry)
            source.skip()
        if index is None:
            raise DamagedError(f"{path} is not an OCI archive: it has no index.json")
    return ArchiveBase(
        tuple((image.name, image.root.digest) for image in index.images if attached_to(image.name) is None),
        frozenset(blobs.union(*(base.blobs for base in index.bases))),
    )


# Reading


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Result of a load. ``written`` and ``present`` count blobs: new ones, and those that were in the store already."""

    names: Mapping[str, Descriptor]
    written: int
    present: int


def load(store: Store, source: Path | BinaryIO, *, admit: Admit, meter: Meter | None = None) -> Loaded:
    """Take all images of an archive into the store. It may be gzip or zstd, or volumes, of which ``source`` is the first or the base name.

    No image is tagged before every blob is present with the right digest. Raises StoreError, and names nothing, when the
    file is damaged or not whole, is a delta whose base is not here, has an image without a name or that is not admitted, or holds
    links, devices or paths that leave it; UsageError when there is no such file. What was verified until then stays for the next try.
    """
    with store.shared_lease():
        with _opened(source) as opened:
            plan = LoadPlan(store)
            if meter:
                meter.total = opened.size
            with Intake(store) as intake:
                _read(opened, plan, intake, meter)
            images = plan.finish()
        with store.lock(), contextlib.ExitStack() as after:
            # Whatever comes of it, nothing but names keeps these blobs from now on: those of a refused image may be collected.
            for image in images:
                after.callback(store.forget, UNFINISHED, image.root.digest.removeprefix("sha256:"))
            names = {image.name: image.root for image in images if not attached.is_attachment(image.name)}
            arriving = {image.name: attached.merged(store, image.name, image.root) for image in images if image.name not in names}
            admitted = [admit(name, root.digest, arriving) for name, root in names.items()]
            # In one change: a refusal leaves nothing behind, and who sees an image also sees what is attached to it.
            store.take_in(names, admitted, arriving)
    return Loaded({**names, **arriving}, intake.written, intake.present)


def _read(source: _Source, plan: LoadPlan, intake: Intake, meter: Meter | None) -> None:
    docker = counted = False
    for entry in source.tar:
        if _DOCKER.fullmatch(entry.name):
            raise _docker_archive(source.where)
        name = _safe(entry)
        if (matched := _BLOB.fullmatch(name)) and entry.kind == "file":
            digest = f"sha256:{matched[1]}"
            if plan.wants(digest, entry.size):
                intake.take(digest, entry.size, source.metered(meter))
                if plan.leads_on(digest):
                    intake.wait(digest)
                    plan.arrived(digest)
        elif name == "index.json" and entry.kind == "file":
            plan.begin(_index(source, entry))
        docker |= name == "manifest.json"
        source.declared = plan.size
        if meter and plan.known and not counted:
            meter.total, counted = plan.carried, True
            meter.add(source.taken - meter.done)
    source.drain()
    if plan.index is None:
        if docker:
            raise _docker_archive(source.where)
        raise DamagedError(f"{source.where} is not an OCI archive: it has no index.json", hint="make it with `slipway save`")


def _index(source: _Source, entry: tar_reader.TarEntry) -> Index:
    if entry.size > archiveindex.LARGEST:
        raise DamagedError(f"the archive is refused: its index.json has {log.size(entry.size)}")
    return Index.parse(b"".join(iter(source.tar.read, b"")))


def _docker_archive(where: str) -> StoreError:
    return StoreError(
        f"{where} is a docker-archive, as `docker save` before version 25 and `podman save` write it: a container image, no CloudImage",
        hint=f"`docker load -i {where}` takes it; `skopeo copy docker-archive:{where} oci-archive:NEW.tar:NAME:TAG` converts it",
    )


def _safe(entry: tar_reader.TarEntry) -> str:
    """The path without ``./``. Nothing is unpacked by name, but a file with such entries was not made by slipway or skopeo."""
    if entry.kind not in ("file", "folder"):
        raise DamagedError(f"the archive is refused: its entry {entry.name!r} is a link or a device")
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise DamagedError(f"the archive is refused: its entry {entry.name!r} leaves its folder")
    return posixpath.normpath(entry.name)


# An archive as a stream


class _Source:
    """An archive being read. ``declared``: bytes that its manifests speak of so far; what is beyond must be worth its size."""

    def __init__(self, file: io.BufferedReader[Any], where: str, size: int) -> None:
        self.where = where
        self.size = size
        """Size of the file in bytes, 0 when it is not known."""
        self.declared = 0
        self.taken = 0
        """Bytes of the blobs that were read."""
        begin = file.peek(8)
        if not begin:
            raise DamagedError(f"{where} is empty", hint="was it copied whole?")
        if other := compression.foreign(begin):
            raise StoreError(f"{where} is compressed with {other[0]}, which is not read here", hint=f"undo that first: {other[1]}")
        self._compressed = compression.compression_of(begin) != "none"
        self._input = _Counter(cast("BinaryIO", file))
        self._reader = compression.reader(cast("BinaryIO", self._input), compression.compression_of(begin))
        self._output = 0
        self.tar = tar_reader.TarReader(self)

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._output += len(data)
        if self._compressed and self._output > self.declared + compression.RATIO * self._input.size + compression.SLACK:
            raise DamagedError(
                f"the archive is refused: {log.size(self._input.size)} of it decompress to more than {log.size(self._output)}, "
                "of which no manifest speaks"
            )
        return data

    def metered(self, meter: Meter | None) -> Callable[[int], bytes]:
        """Reads from the entry at hand, and counts it when it is known what it counts towards."""

        def read(size: int) -> bytes:
            data = self.tar.read(size)
            self.taken += len(data)
            if meter and meter.total:
                meter.add(len(data))
            return data

        return read

    def skip(self) -> None:
        """Go on behind the entry at hand, without reading it where that can be."""
        if not self._compressed:
            self.tar.skip(self._input.file)

    def drain(self) -> None:
        """Read what comes after the end mark, so that what a compressed stream or a volume says of itself is checked."""
        left = compression.SLACK
        while left > 0 and (data := self.read(_BUFFER)):
            left -= len(data)


class _Counter:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self.file.read(size)
        self.size += len(data)
        return data


@contextlib.contextmanager
def _opened(source: Path | BinaryIO) -> Iterator[_Source]:
    """Raises StoreError when it cannot be read, DamagedError when it is not what it should be: of volumes it says which one."""
    where = str(source) if isinstance(source, Path) else "the input"
    try:
        with contextlib.ExitStack() as stack:
            size = 0
            if isinstance(source, Path):
                raw = stack.enter_context(volumes.reading(volumes.find(source)))
                size = raw.size
                file = io.BufferedReader(raw, _BUFFER)
            else:
                file = source if isinstance(source, io.BufferedReader) else io.BufferedReader(cast("Any", source), _BUFFER)
            with _understood(where):
                yield _Source(file, where, size)
    except OSError as problem:
        raise StoreError(f"{where}: {problem.strerror or problem}") from problem


@contextlib.contextmanager
def _understood(where: str) -> Iterator[None]:
    try:
        yield
    except (tar_reader.TarError, *compression.BROKEN) as wrong:
        raise DamagedError(f"{where} is not a readable OCI archive: {wrong}", hint="was it copied whole?") from wrong
