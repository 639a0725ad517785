"""Blobs that an archive must contain: known as far as its index and manifests have been read, and checked before any tag is set."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from harness import errors, log
from harness.errors import StoreError
from harness.oci.archive.index import ArchiveBase, Image, Index
from harness.oci.archive.volumes import DamagedError
from harness.oci.graph import children, is_manifest, walk
from harness.oci.model import LARGEST_MANIFEST, Descriptor, Platform
from harness.oci.store import UNFINISHED, Store


class LoadPlan:
    """Blobs that an archive must contain, as far as its index and manifests have been read."""

    def __init__(self, store: Store) -> None:
        self.index: Index | None = None
        self.size = 0
        """Bytes of all blobs that are known to be needed."""
        self._store = store
        self._sizes: dict[str, int] = {}
        self._unread: dict[str, list[tuple[Descriptor, tuple[Platform, ...]]]] = {}
        """Manifests that are needed and not here yet."""

    def begin(self, index: Index) -> None:
        """Raises StoreError when there was an index before, or a base is missing."""
        if self.index is not None:
            raise DamagedError("the archive is refused: it has two index.json")
        self.index = index
        _check_bases(self._store, index.bases)
        for image in index.images:
            # Until it has a name, this keeps its blobs from being collected.
            self._store.keep(UNFINISHED, image.root.digest.removeprefix("sha256:"), {"image": image.root.digest})
        self._follow([(image.root, image.platforms) for image in index.images])

    def wants(self, digest: str, size: int) -> bool:
        """Return True when a blob is needed or may be. Raises StoreError for an invalid one."""
        declared = self._sizes.get(digest)
        if declared is None and not self.known:
            _check_space(self._store, size)
        elif declared not in (None, size):
            raise DamagedError(f"the archive is refused: its blob {digest} has {size} bytes, and its manifest says {declared}")
        return declared is not None or not self.known

    def leads_on(self, digest: str) -> bool:
        """Return True for a manifest that has not been read yet."""
        return digest in self._unread

    def arrived(self, digest: str) -> None:
        """A manifest is in the store."""
        self._follow(self._unread.pop(digest))

    @property
    def known(self) -> bool:
        """Return True once all manifests have been read."""
        return self.index is not None and not self._unread

    @property
    def carried(self) -> int:
        """Bytes of the blobs that should be in the archive."""
        left_out = {digest for base in self.index.bases for digest in base.blobs} if self.index else set()
        return self.size - sum(self._sizes.get(digest, 0) for digest in left_out)

    def _follow(self, waiting: list[tuple[Descriptor, tuple[Platform, ...]]]) -> None:
        """Note what manifests lead to, as far as they are here."""
        seen: set[str] = set()
        for blob, platforms in waiting:
            self._note(blob)
            if not is_manifest(blob) or blob.digest in seen:
                continue
            seen.add(blob.digest)
            try:
                manifest = self._store.json(blob.digest)
            except StoreError:
                self._unread.setdefault(blob.digest, []).append((blob, platforms))
            else:
                waiting += [(child, platforms) for child in children(manifest, blob, platforms)]
        if self.known:
            _check_space(self._store, sum(size for digest, size in self._sizes.items() if not self._store.has(digest)))

    def _note(self, blob: Descriptor) -> None:
        if is_manifest(blob) and blob.size > LARGEST_MANIFEST:
            raise DamagedError(f"the archive is refused: its manifest {blob.digest} has {log.size(blob.size)}")
        if blob.digest not in self._sizes:
            self.size += blob.size
        if self._sizes.setdefault(blob.digest, blob.size) != blob.size:
            raise DamagedError(f"the archive is refused: its manifests give {blob.digest} two sizes")

    def finish(self) -> tuple[Image, ...]:
        """The images, when all that they need is in the store. Raises StoreError that says what is missing, and of which image."""
        images = self.index.images if self.index else ()
        for image in images:
            self._check(image)
        return images

    def _check(self, image: Image) -> None:
        missing = []
        try:
            for blob in walk(self._store, image.root, image.platforms):
                if not self._store.has(blob.digest):
                    missing.append(blob.digest)
                elif self._store.size(blob.digest) != blob.size:
                    raise DamagedError(f"blob {blob.digest} has {self._store.size(blob.digest)} bytes instead of {blob.size}")
        except StoreError as problem:
            # It also ends here when a manifest is missing, so what is below it is not known.
            if not missing:
                raise DamagedError(f"{image.name} in the archive cannot be used: {problem.message}", hint=problem.hint) from problem
        if missing:
            named, details = errors.summary(missing)
            message = f"the archive is not whole: of {image.name} it lacks blob {named}"
            raise DamagedError(message, hint="was it saved from a whole image, and copied whole?", details=details)


def _check_bases(store: Store, bases: Iterable[ArchiveBase]) -> None:
    lacking = [(base, sum(not store.has(digest) for digest in base.blobs)) for base in bases]
    lines = [
        f"{' and '.join(f'{name} ({digest})' for name, digest in base.images)}: {count} of {len(base.blobs)} blobs are not here"
        for base, count in lacking
        if count
    ]
    if lines:
        names = " ".join(name for base, count in lacking if count for name, _ in base.images)
        raise StoreError(
            f"the archive is a delta, and what it is based on is missing: {lines[0]}",
            hint=f"load or pull {names} first, in exactly that version, or save without --since",
            details="\n".join(lines) if len(lines) > 1 else None,
        )


def _check_space(store: Store, needed: int) -> None:
    free = shutil.disk_usage(store.root).free
    if needed > free:
        raise StoreError(
            f"no space left in {store.root}: {log.size(needed)} are needed, {log.size(free)} are free",
            hint="`slipway prune` frees what no image needs; SLIPWAY_HOME moves the store",
        )
