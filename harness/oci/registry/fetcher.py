"""The only way into the store from sources: each manifest and blob is fetched once and verified, for any number of readers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Self, TypeVar

from harness.errors import SlipwayError, StoreError
from harness.oci.graph import descriptors
from harness.oci.reference import Reference
from harness.oci.registry.download import BlobContent, BlobDownload, Stored
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.manifest import ACCEPT, Manifest
from harness.oci.registry.sources import FinalSourceError, Source, Stream, stored_manifest
from harness.oci.store import Store

_T = TypeVar("_T")


class Fetcher:
    """Asks the sources in order and keeps what they give. Safe for many threads; what is asked at once is fetched once.

    A tag keeps the meaning of its first request until close(), so that all nodes of a build get the same image.
    """

    def __init__(self, sources: Sequence[Source], store: Store) -> None:
        self.sources = tuple(sources)
        self.store = store
        self._lock = threading.Lock()
        self._closed = False
        self._asking: dict[tuple[str, tuple[str, ...]], Future[Manifest]] = {}
        self._pins: dict[str, list[Manifest]] = {}
        self._types: dict[str, Manifest] = {}
        self._transfers: dict[str, BlobDownload] = {}
        self._admitted: set[tuple[str, str]] = set()
        """(repository, digest) of images that may be used, and of the manifests below them; (name with a tag, digest) of what tags mean."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, patience: float = 5.0) -> None:
        """End running transfers; wait up to ``patience`` seconds in all for them to clean up."""
        with self._lock:
            self._closed = True
            running = list(self._transfers.values())
        for transfer in running:
            transfer.abort()
        for transfer in running:
            transfer.thread.join(patience / len(running))

    def _check_open(self) -> None:
        if self._closed:
            raise RemoteError("cancelled", status=503, code="UNAVAILABLE")

    def manifest(self, reference: Reference, accept: Sequence[str] = ACCEPT) -> Manifest:
        """The manifest or index, which is then in the store. Raises SlipwayError (RemoteError where a registry is the reason).

        An image that policy refuses is never given: not by a registry, and not from the store either.
        """
        key = (str(reference), tuple(accept))
        with self._lock:
            local_manifest = self._known(reference, accept)
            asking = self._asking.get(key)
            if local_manifest is None and asking is None:
                future = self._asking[key] = Future[Manifest]()
        if local_manifest is not None:
            self._admit(reference, local_manifest)
            return local_manifest
        if asking is not None:
            return asking.result()
        try:
            manifest = self._find(reference, accept)
            self._admit(reference, manifest)
            self.store.put(manifest.data, expected=manifest.digest)
            with self._lock:
                self._remember(reference, manifest)
        except BaseException as failed:
            future.set_exception(failed)
            raise
        else:
            future.set_result(manifest)
            return manifest
        finally:
            with self._lock:
                del self._asking[key]

    def _admit(self, reference: Reference, manifest: Manifest) -> None:
        """Raises StoreError when no source vouches for an image; what an admitted index lists is admitted with it."""
        by_tag = reference.digest is None
        key = (str(reference) if by_tag else reference.repository, manifest.digest)
        if key not in self._admitted:
            pinned = dataclasses.replace(reference, tag=reference.tag if by_tag else None, digest=manifest.digest)
            if not any(source.admit(pinned) for source in self.sources):
                raise StoreError(f"{pinned}: no source vouches for it")
        self._admitted |= {key, (reference.repository, manifest.digest)}
        if manifest.is_index:
            self._admitted.update((reference.repository, child.digest) for child in descriptors(manifest.data))

    def _known(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        self._check_open()
        if reference.digest is None:
            pinned = self._pins.get(str(reference), [])
            return next((manifest for manifest in pinned if _accepted(manifest.media_type, accept)), None)
        manifest = self._types.get(reference.digest)
        if manifest is None and self.store.has(reference.digest):
            with contextlib.suppress(StoreError):  # a damaged one is fetched again
                manifest = stored_manifest(self.store, reference.digest, "store")
        return manifest

    def _remember(self, reference: Reference, manifest: Manifest) -> None:
        if reference.digest is None:
            pinned = self._pins.setdefault(str(reference), [])
            if manifest not in pinned:
                pinned.append(manifest)
        # The type as it was served: a manifest need not say it, and an index of Docker's looks like one of OCI.
        self._types[manifest.digest] = manifest

    def _find(self, reference: Reference, accept: Sequence[str]) -> Manifest:
        absent = RemoteError(f"{reference}: no source has it", status=404, code="MANIFEST_UNKNOWN")
        return self._first(lambda source: source.manifest(reference, accept), absent)

    def _open(self, reference: Reference, digest: str, size: int | None) -> Stream:
        absent = RemoteError(f"{reference}: no source has blob {digest}", status=404, code="BLOB_UNKNOWN")
        return self._first(lambda source: source.blob(reference, digest, size), absent)

    def _first(self, ask: Callable[[Source], _T | None], absent: RemoteError) -> _T:
        """The answer of the first source that has one. Raises FinalSourceError, the reasons of all together, or ``absent``."""
        problems: list[SlipwayError] = []
        for source in self.sources:
            try:
                answer = ask(source)
            except FinalSourceError:
                raise
            except SlipwayError as problem:
                problems.append(problem)
                continue
            if answer is not None:
                return answer
        raise _joined(problems) or absent

    def blob(self, reference: Reference, digest: str, size: int | None = None) -> BlobContent:
        """A blob of that image, which is in the store or on its way there; ``size`` in bytes where a manifest states it."""
        with self._lock:
            self._check_open()
            running = self._transfers.get(digest)
            if running:
                return running
            if self.store.has(digest):
                return Stored(self.store.path(digest), self.store.size(digest))
            opened = functools.partial(self._open, reference, digest, size)
            transfer = self._transfers[digest] = BlobDownload(self.store, reference, digest, opened, self._forget)
            transfer.thread.start()
            return transfer

    def _forget(self, transfer: BlobDownload) -> None:
        with self._lock:
            if self._transfers.get(transfer.digest) is transfer:
                del self._transfers[transfer.digest]


def _joined(problems: Sequence[SlipwayError]) -> SlipwayError | None:
    """All reasons in one: that a registry does not have an image must not hide why it could not be made here."""
    if len(problems) < 2:
        return problems[0] if problems else None
    last = problems[-1]
    status, code = (last.status, last.code) if isinstance(last, RemoteError) else (502, "UNKNOWN")
    return RemoteError("; ".join(problem.message for problem in problems), status=status, code=code, hint=problems[0].hint)


def _accepted(media_type: str, accept: Sequence[str]) -> bool:
    return media_type in accept or "*/*" in accept
