"""Blobs and names on disk: an OCI image layout, shared by every process of a user, that a kill at any moment leaves whole.

oci-layout  index.json  blobs/sha256/<hex>      the OCI image layout
tmp/                                            blobs being written; renamed into place when verified
partial/<hex>                                   blobs being fetched, with a lock; what a killed fetch had got stays
cache/<kind>/<key>.json                         records of work done (steps, discoveries)
lock                                            flock: one writer of index.json at a time
lease                                           flock: shared by those who write or use blobs, exclusive for garbage.collect()
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from harness import untrusted
from harness.errors import StoreError
from harness.host import durable, liveness, paths
from harness.oci.admission import Admitted
from harness.oci.blob_file import BlobWriter, MismatchError, PartialBlob
from harness.oci.model import INDEXES, LARGEST_MANIFEST, MANIFESTS, REF_NAME, Descriptor, canonical_json
from harness.oci.reference import Reference, familiar, names_registry

CHUNK = 1 << 20
"""Bytes held in memory at a time when a blob is copied."""

UNFINISHED = "unfinished"
"""The kind of the records that keep what a pull or load has fetched until it has a name. Their key is the image's digest in hex."""

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_SHORT = re.compile(r"[0-9a-f]{7,64}")
_SHORT_NAME = "a short name is read from the store only, one with its registry (registry.example.com/...) is pulled"
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,200}")
_SETTLERS = 16


class BusyError(StoreError):
    """Another process or thread holds the lease."""


class Store:
    """The OCI image layout under ``root``, created when it does not exist. Safe for several processes and threads at once.

    Every method raises StoreError when the disk refuses, naming the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.blobs = self.root / "blobs" / "sha256"
        """Folder of the blobs, by their digest in hex."""
        self.temporary = self.root / "tmp"
        """Folder of the blobs being written."""
        self.partial_blobs = self.root / "partial"
        """Folder of the blobs being fetched, by their digest in hex."""
        self._index = self.root / "index.json"
        self._held = threading.local()
        with self._disk():
            for folder in (self.blobs, self.temporary, self.partial_blobs, self.root / "cache"):
                folder.mkdir(parents=True, exist_ok=True)
            if not self._index.exists() or not (self.root / "oci-layout").exists():
                self._begin()
        self._sweep()

    @classmethod
    def default(cls) -> Store:
        """The store of this user: ``store`` below ``paths.home()``."""
        return cls(paths.home() / "store")

    def _begin(self) -> None:
        with self.lock():
            if not (self.root / "oci-layout").exists():
                self._replace(self.root / "oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}))
            if not self._index.exists():
                self._replace(self._index, canonical_json({"schemaVersion": 2, "manifests": []}))

    # Blobs

    def path(self, digest: str) -> Path:
        """Path of the blob, whether or not it exists. Raises StoreError when ``digest`` is not a sha256 digest."""
        if not _SHA256.fullmatch(digest):
            raise StoreError(f"{digest!r} is not a sha256 digest")
        return self.blobs / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes of a blob. Raises StoreError when it is not here."""
        with self._disk(digest):
            return self.path(digest).stat().st_size

    def lacks(self, blobs: Iterable[Descriptor]) -> list[str]:
        """The digests of the blobs that are not here in full length."""
        folder = str(self.blobs)
        missing = []
        # Strings, not paths: of an image there are some thousand.
        for blob in blobs:
            if not _SHA256.fullmatch(blob.digest):
                raise StoreError(f"{blob.digest!r} is not a sha256 digest")
            try:
                state = os.stat(f"{folder}/{blob.digest[7:]}")  # noqa: PTH116
            except FileNotFoundError:
                missing.append(blob.digest)
                continue
            if state.st_size != blob.size:
                missing.append(blob.digest)
        return missing

    def open(self, digest: str) -> BinaryIO:
        """A blob as it lies on disk; read() and verify() look whether it is still what its digest says."""
        with self._disk(digest):
            return self.path(digest).open("rb")

    def read(self, digest: str) -> bytes:
        """A small blob (manifest, config), verified. Raises StoreError when it is missing or damaged."""
        with self._disk(digest):
            data = self.path(digest).read_bytes()
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(digest)
        return data

    def json(self, digest: str) -> dict[str, Any]:
        """A blob that holds a JSON object, verified."""
        return untrusted.json_object(self.read(digest), what=f"blob {digest}")

    def verify(self, digest: str) -> None:
        """Read a whole blob of any size; StoreError when it is missing or damaged."""
        with self._disk(digest), self.path(digest).open("rb") as file:
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise self._damaged(digest)

    def put(self, data: bytes | BinaryIO, *, expected: str | None = None) -> tuple[str, int]:
        """Keep a blob, streamed; digest and size. StoreError, and nothing kept, when it is not the ``expected`` one."""
        with self.writer(expected) as writer:
            if isinstance(data, bytes):
                writer.write(data)
            else:
                while chunk := data.read(CHUNK):
                    writer.write(chunk)
        return writer.digest, writer.size

    @contextlib.contextmanager
    def writer(self, expected: str | None = None) -> Iterator[BlobWriter]:
        """Write a blob piece by piece. It appears, whole and verified, when the block ends well; else nothing is left."""
        if expected is not None:
            self.path(expected)
        with self.shared_lease():
            with self._disk():
                blob = BlobWriter(self._temporary(), self._disk)
            try:
                yield blob
                if expected not in (None, blob.digest):
                    raise MismatchError(str(expected), blob.digest, blob.size)
                with self._disk():
                    blob.flush()
                    # Over an existing blob too: the new one is verified, the old one may have been damaged since.
                    blob.path.replace(self.path(blob.digest))
            finally:
                blob.close()
                blob.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def partial(self, digest: str, size: int) -> Iterator[PartialBlob | None]:
        """Resume fetching a blob after the bytes of an earlier attempt. None when the blob is in the store by now.

        It appears when the block ends well and its digest is right; when it is wrong nothing is kept (StoreError); when the block
        fails, what was written stays for the next try. Another thread or process that fetches the same blob is waited for. The
        file is not yet safe from a power cut: fsync() makes it so.
        """
        path = self.partial_blobs / self.path(digest).name
        with self.shared_lease(), contextlib.ExitStack() as stack:
            while True:
                part = PartialBlob(path, self._disk)
                if not part.lost:
                    break
                part.close()
            stack.callback(part.close)
            if self.has(digest) and self.size(digest) == size:
                part.path.unlink(missing_ok=True)
                yield None
                return
            if part.size > size:
                part.restart()
            yield part
            if part.digest != digest:
                part.path.unlink(missing_ok=True)
                raise MismatchError(digest, part.digest, part.size, resumed=part.resumed)
            with self._disk():
                part.path.replace(self.path(digest))

    def fsync(self, digests: Iterable[str]) -> None:
        """Wait until the disk has these blobs: a power cut after they are named must not leave empty files under good names."""

        def fsync(digest: str) -> None:
            with self._disk(digest), self.path(digest).open("rb") as file:
                os.fsync(file.fileno())

        # Many at once, which a disk writes as one: of two thousand small ones each would wait for its own turn.
        with ThreadPoolExecutor(_SETTLERS, thread_name_prefix="fsync") as pool:
            list(pool.map(fsync, digests))

    def _damaged(self, digest: str) -> StoreError:
        return StoreError(
            f"blob {digest} in {self.root} is damaged: its bytes have another digest",
            hint="pull, load or build the image again; the good blob replaces the damaged one",
        )

    # Names

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let ``name`` mean the manifest or index in ``descriptor``, which must be in the store.

        For images that this machine made or has named already. Images from elsewhere are named by take_in().
        """
        self._name({name: descriptor})

    def take_in(self, images: Mapping[str, Descriptor], admitted: Collection[Admitted], attached: Mapping[str, Descriptor]) -> None:
        """Name images from elsewhere, each of which policy has admitted, and what is attached to them: all at once.

        Raises StoreError, and names nothing, for an image without admission.
        """
        allowed = {one.digest for one in admitted}
        missing = [name for name, descriptor in images.items() if descriptor.digest not in allowed]
        if missing:
            raise StoreError(f"{missing[0]} cannot be taken in: policy was not asked about it")
        self._name({**images, **attached})

    def _name(self, wanted: Mapping[str, Descriptor]) -> None:
        for name, descriptor in wanted.items():
            if not self.has(descriptor.digest):
                raise StoreError(f"cannot tag {_key(name)}: {descriptor.digest} is not in {self.root}")
        keys = {_key(name): descriptor for name, descriptor in wanted.items()}
        with self._names_for_change() as names:
            names.update(keys)

    def resolve(self, name: str) -> Descriptor:
        """Resolve a name, a digest, or the first 7 or more digits of a digest.

        Raises StoreError, with the nearest name that is known.
        """
        names = self.names()
        digits = name.removeprefix("sha256:")
        by_name = self._by_name(name, names) if name == digits else None
        descriptor = by_name or self._by_digest(digits, names)
        if descriptor is None:
            near = difflib.get_close_matches(familiar(name), names, n=1, cutoff=0.5)
            short = not names_registry(name)
            if near:
                hint = f"did you mean {near[0]}?" + (f" {_SHORT_NAME}" if short else "")
            else:
                hint = "`slipway images` lists all images; build, pull or load it" + (f"; {_SHORT_NAME}" if short else " first")
            raise StoreError(f"{name}: no such image in {self.root}", hint=hint)
        return descriptor

    def _by_name(self, name: str, names: dict[str, Descriptor]) -> Descriptor | None:
        reference = parse_name(name)
        if reference.digest:
            return self._by_digest(reference.digest.removeprefix("sha256:"), names)
        return names.get(reference.familiar)

    def _by_digest(self, digits: str, names: dict[str, Descriptor]) -> Descriptor | None:
        if not _SHORT.fullmatch(digits):
            return None
        matching = {candidate.digest: candidate for candidate in names.values() if candidate.digest.startswith(f"sha256:{digits}")}
        if len(matching) > 1:
            raise StoreError(f"{digits} is the beginning of {len(matching)} digests", hint="write more digits, or the name")
        for descriptor in matching.values():
            return descriptor
        return self._describe(f"sha256:{digits}")

    def _describe(self, digest: str) -> Descriptor | None:
        """The descriptor of a manifest that has no name here, from what it says itself."""
        manifest = self._manifest(digest)
        media_type = manifest and manifest.get("mediaType")
        return Descriptor(str(media_type), digest, self.size(digest)) if media_type in (*INDEXES, *MANIFESTS) else None

    def untag(self, name: str) -> Descriptor:
        """Remove a name; return its descriptor. garbage.collect() then frees the blobs. Raises StoreError when there is no such name."""
        key = _key(name)
        with self._names_for_change() as names:
            if key not in names:
                self.resolve(name)
                raise StoreError(f"{key}: no such name in {self.root}", hint="untag takes a name, not a digest")
            return names.pop(key)

    def names(self) -> dict[str, Descriptor]:
        """Every name, in its familiar form (``web:latest``, ``ghcr.io/x/y:1``), sorted."""
        with self._disk():
            text = self._index.read_bytes()
        try:
            entries = [Descriptor.from_json(entry) for entry in json.loads(text)["manifests"]]
        except (ValueError, TypeError, KeyError) as wrong:
            raise StoreError(f"{self._index} is damaged: {wrong}") from wrong
        named = {entry.annotations[REF_NAME]: _with_name(None, entry) for entry in entries if REF_NAME in entry.annotations}
        return dict(sorted(named.items()))

    @contextlib.contextmanager
    def _names_for_change(self) -> Iterator[dict[str, Descriptor]]:
        with self.lock(), self._disk():
            names = self.names()
            yield names
            entries = [_with_name(name, descriptor).to_json() for name, descriptor in sorted(names.items())]
            self._replace(self._index, canonical_json({"schemaVersion": 2, "manifests": entries}))

    # Locks

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the names for a change. The thread that holds it may take it again."""
        depth = getattr(self._held, "depth", 0)
        with contextlib.ExitStack() as stack:
            if not depth:
                stack.enter_context(self._flock("lock", fcntl.LOCK_EX))
            self._held.depth = depth + 1
            try:
                yield
            finally:
                self._held.depth = depth

    @contextlib.contextmanager
    def shared_lease(self) -> Iterator[None]:
        """Hold this from the first look at a blob to the tag that names it: garbage.collect() removes nothing meanwhile."""
        with self._flock("lease", fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def _flock(self, name: str, how: int) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with self._disk():
                stack.enter_context(liveness.locked(self.root / name, how))
            yield

    # Cache records

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return a record of keep(), or None. The blobs that it names stay in the store as long as the record."""
        with self._disk():
            try:
                value = json.loads(self._record_path(kind, key).read_bytes())
            except (FileNotFoundError, ValueError):
                return None
        return value if isinstance(value, dict) else None

    def keep(self, kind: str, key: str, value: dict[str, Any]) -> None:
        """Remember a small JSON object, e.g. ``keep("step", id, {"layer": ..., "diffId": ...})``."""
        path = self._record_path(kind, key)
        with self.shared_lease(), self._disk():
            path.parent.mkdir(exist_ok=True)
            self._replace(path, canonical_json(value))

    def forget(self, kind: str | None = None, key: str | None = None) -> int:
        """Remove the records of a kind (or the one with that key), or all, so that their blobs may be collected; how many there were."""
        with self._disk():
            paths = list((self.root / "cache").glob(f"{kind or '*'}/{key or '*'}.json"))
            for path in paths:
                path.unlink(missing_ok=True)
        return len(paths)

    def records(self) -> set[Path]:
        """The files of all records, in folders by their kind."""
        return set((self.root / "cache").glob("*/*.json"))

    def _record_path(self, kind: str, key: str) -> Path:
        if not _KEY.fullmatch(kind) or not _KEY.fullmatch(key):
            raise StoreError(f"{kind}/{key} cannot be the name of a cache record")
        return self.root / "cache" / kind / f"{key}.json"

    # What blobs lead to

    def _sweep(self) -> None:
        """Remove what killed writers left behind, when no process can be writing."""
        with contextlib.suppress(BusyError), self._disk():
            if any(self.temporary.iterdir()):
                with self._flock("lease", fcntl.LOCK_EX | fcntl.LOCK_NB), self.lock():
                    for stale in self.temporary.iterdir():
                        stale.unlink(missing_ok=True)

    @contextlib.contextmanager
    def exclusive_lease(self) -> Iterator[None]:
        """Keep others out of shared_lease(). Raises BusyError while one is inside. Write no blob inside: that would wait for this lease."""
        with self._flock("lease", fcntl.LOCK_EX | fcntl.LOCK_NB), self.lock(), self._disk():
            yield

    def reachable(self, roots: Iterable[str]) -> set[str]:
        """``roots`` and the digests their indexes and manifests lead to, whether those are in the store or not."""
        digests: set[str] = set()
        waiting = list(roots)
        while waiting:
            digest = waiting.pop()
            if digest in digests:
                continue
            digests.add(digest)
            manifest = self._manifest(digest)
            if manifest:
                waiting += _children(manifest)
        return digests

    def manifests(self, digest: str) -> list[str]:
        """The digests of the manifests that an index lists, as far as they can be read; none for what is not an index."""
        listed = (self._manifest(digest) or {}).get("manifests")
        return _children({"manifests": listed})

    def _manifest(self, digest: str) -> dict[str, Any] | None:
        """A blob as manifest or index if it is one, by its look: cache records do not say the type of what they name."""
        if not _SHA256.fullmatch(digest):
            return None
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(512)
                if not data.lstrip().startswith(b"{"):
                    return None
                data += file.read(LARGEST_MANIFEST)
            # Most blobs of JSON are configs, which need not be parsed; an escape could hide the key.
            if b"schemaVersion" not in data and b"\\u" not in data:
                return None
            value = untrusted.json_object(data, what=f"blob {digest}")
        except (OSError, StoreError):
            return None
        return value if value.get("schemaVersion") == 2 else None

    # Disk

    def _temporary(self) -> Path:
        return self.temporary / f"{os.getpid()}-{secrets.token_hex(8)}"

    def _replace(self, path: Path, data: bytes) -> None:
        """Give ``path`` new content at once; a reader sees the old or the new."""
        with durable.replacing(path, mode=None, folder=self.temporary) as file:
            file.write(data)
            # The new content names blobs: the names of their files come first.
            durable.sync_folder(self.blobs)

    @contextlib.contextmanager
    def _disk(self, digest: str | None = None) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise self._refused(problem, digest) from problem

    def _refused(self, problem: OSError, digest: str | None) -> StoreError:
        if isinstance(problem, FileNotFoundError) and digest:
            return StoreError(f"blob {digest} is not in {self.root}", hint="pull, load or build the image again")
        if isinstance(problem, BlockingIOError):
            return BusyError(f"{self.root} is in use")
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"no space left in {self.root}", hint="`slipway prune` frees what no image needs; SLIPWAY_HOME moves the store"
            )
        return StoreError(f"{problem.filename or self.root}: {problem.strerror or problem}", hint="SLIPWAY_HOME says where the store is")


def parse_name(name: str) -> Reference:
    """The reference that a name is. Raises StoreError."""
    try:
        return Reference.parse(name)
    except ValueError as wrong:
        raise StoreError(str(wrong)) from wrong


def _key(name: str) -> str:
    """The form of a name in index.json."""
    reference = parse_name(name)
    if reference.digest:
        raise StoreError(f"{name}: a name with a digest cannot be given to an image", hint="write repository:tag")
    return reference.familiar


def _with_name(name: str | None, descriptor: Descriptor) -> Descriptor:
    """An entry of index.json under a name, or under none."""
    annotations = {**descriptor.annotations, REF_NAME: name}
    kept = {key: value for key, value in annotations.items() if value is not None}
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size, kept, descriptor.platform)


def _children(manifest: Mapping[str, Any]) -> list[str]:
    """The digests that a manifest or index leads to, whatever else is wrong with it: what is found here is kept."""
    lists = [value for value in (manifest.get("manifests"), manifest.get("layers")) if isinstance(value, list)]
    listed = itertools.chain(*lists, [manifest.get("config")])
    return [child["digest"] for child in listed if isinstance(child, dict) and _is_sha256(child.get("digest"))]


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None
