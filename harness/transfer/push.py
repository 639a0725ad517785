"""A CloudImage from the store into a registry: blobs first, then manifests, then what is attached to it, the tag last.

A pull at the same time gets the old image or the new one, whole, with its signatures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from harness import log
from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci.graph import DEEPEST_INDEX, NestingError, below_of, closure, entries_of, is_manifest
from harness.oci.model import Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import ATTESTATIONS, REFERRERS, SIGNATURES, LocalReferrers, RemoteReferrers, tag_of
from harness.oci.registry.upload import Sent
from harness.oci.store import Store
from harness.transfer import attachments, locations
from harness.transfer.worker_pool import WorkerPool
from harness.untrusted import json_object


@dataclasses.dataclass(frozen=True)
class Pushed:
    """Result of a push. ``sent``: bytes of blobs and manifests sent; the others count blobs."""

    reference: str
    digest: str
    sent: int
    uploaded: int
    mounted: int
    present: int
    attachments: tuple[str, ...] = ()


class TakenError(StoreError):
    """A tag that exists in the registry with another image, and must not be replaced."""


def present(target: Reference, digest: str, client: Client, *, replace: bool = True) -> str | None:
    """The digest that a tag has in its registry now; None for a new tag. Raises TakenError for another one without ``replace``."""
    now = client.head(target)
    if now is not None and now.digest != digest and not replace:
        raise TakenError(
            f"{target.familiar} exists with other bytes: {now.digest}, and not {digest}",
            hint="publish under another tag; --replace gives this one to the new image",
        )
    return now.digest if now else None


def push(store: Store, name: str, target: Reference, client: Client, *, replace: bool = True) -> Pushed:
    """Have an image of the store in a registry, under ``target``. Raises RemoteError or StoreError; the tag changes last, or not at all.

    Without ``replace`` a tag that exists with another image is an error (TakenError): it is asked for before anything is sent, and
    again before the tag is written. A registry cannot do both in one step.
    """
    with store.shared_lease():
        image = store.resolve(name)
        try:
            parts = closure(store, image)
        except NestingError as problem:
            raise StoreError(f"{name} cannot be pushed: {problem.message}", hint=problem.hint) from problem
        except StoreError as problem:
            raise StoreError(
                f"{name} is not whole here and cannot be pushed: {problem.message}", hint="pull or load it for all its platforms"
            ) from problem
        with log.step(f"push {target.familiar}") as step:
            work = _Push(store, target, client, replace=replace)
            work.send(image, parts, Meter(step, 0))
            attached = work.attach(image)
            work.tag(image)
        locations.remember(store, target, image.digest)
    return Pushed(str(target), image.digest, work.sent, work.counts["uploaded"], work.counts["mounted"], work.counts["present"], attached)


class _Push:
    """One image on its way out of the store."""

    def __init__(self, store: Store, target: Reference, client: Client, *, replace: bool = True) -> None:
        self.store = store
        self.target = target
        self.client = client
        self.replace = replace
        self.tagged = False
        """The tag names the image already."""
        self.workers = WorkerPool(client)
        self.sent = 0
        self.counts = {"uploaded": 0, "mounted": 0, "present": 0}
        self._lock = threading.Lock()

    def send(self, image: Descriptor, parts: Sequence[Descriptor], meter: Meter) -> None:
        """Send all but the manifest of the image itself."""
        manifests, blobs = _split(parts)
        existing = self._there(image)
        if image.digest in existing:
            # A registry keeps no manifest whose blobs it lacks.
            self.tagged = True
            self.counts["present"] = len(blobs)
            meter.finish("already present")
            return
        missing = sorted((blob for blob in blobs if blob.digest not in existing), key=lambda blob: (-blob.size, blob.digest))
        self.counts["present"] = len(blobs) - len(missing)
        meter.total = sum(blob.size for blob in missing)
        places = locations.known(self.store, self.target)
        self.workers.each(lambda blob: self._blob(blob, places.get(blob.digest, ()), meter), missing)
        # An index after what it lists.
        for manifest in reversed(manifests):
            if manifest.digest not in existing and manifest.digest != image.digest:
                self._manifest(manifest, tagged=False)
        counted = ", ".join(f"{count} {how}" for how, count in self.counts.items() if count)
        meter.finish(counted)

    def attach(self, image: Descriptor) -> tuple[str, ...]:
        """Send what is attached to the image; the tags that changed."""
        local = LocalReferrers(self.store, self.target)
        if not any(local.find(tag_of(image.digest, suffix)) for suffix in (SIGNATURES, ATTESTATIONS, REFERRERS)):
            return ()
        if not self.tagged:
            # A registry may refuse a referrer of an image that it lacks.
            self._manifest(image, tagged=False)
        return attachments.copy_referrers(local, RemoteReferrers(self.client, self.target), image.digest)

    def tag(self, image: Descriptor) -> None:
        """Give the image its tag, last of all."""
        if not self.tagged:
            if not self.replace:
                present(self.target, image.digest, self.client, replace=False)
            self._manifest(image, tagged=True)

    def _there(self, image: Descriptor) -> set[str]:
        """Digests that the registry is known to have: those of the image that the tag names now."""
        digests: set[str] = set()
        now = present(self.target, image.digest, self.client, replace=self.replace)
        if now is None:
            return digests
        if now == image.digest:
            return {now}
        with contextlib.suppress(StoreError):
            self._known(now, digests)
        return digests

    def _known(self, digest: str, digests: set[str], depth: int = 0) -> None:
        manifest = self.client.manifest(dataclasses.replace(self.target, tag=None, digest=digest))
        digests.add(digest)
        value = json_object(manifest.data, what=f"manifest {digest}")
        for entry in entries_of(value, digest) if manifest.is_index and depth < DEEPEST_INDEX else ():
            self._known(entry.digest, digests, depth + 1)
        if not manifest.is_index:
            digests.update(blob.digest for blob in below_of(value, digest))

    def _blob(self, blob: Descriptor, mounts: Sequence[str], meter: Meter) -> None:
        self.workers.check()
        try:
            sent = self.client.put_blob(self.target, blob, lambda: self._open(blob), mounts=mounts, progress=meter.add)
        except RemoteError as refused:
            # "Wrong digest" may be a fault of the local disk.
            self.store.verify(blob.digest)
            raise refused
        if sent.how != "uploaded":
            meter.skip(blob.size)
        self._count(sent)

    def _open(self, blob: Descriptor) -> Any:
        self.workers.check()
        return self.store.open(blob.digest)

    def _count(self, sent: Sent) -> None:
        with self._lock:
            self.sent += sent.bytes
            self.counts[sent.how] += 1

    def _manifest(self, manifest: Descriptor, *, tagged: bool) -> None:
        data = self.store.read(manifest.digest)
        place = self.target if tagged else dataclasses.replace(self.target, tag=None, digest=manifest.digest)
        self.client.put_manifest(place, data, manifest.media_type)
        self.sent += len(data)


def _split(parts: Iterable[Descriptor]) -> tuple[list[Descriptor], list[Descriptor]]:
    """Manifests (parents before children) and blobs, each once. A blob may be both: a manifest here, content of an image set there."""
    manifests: dict[str, Descriptor] = {}
    blobs: dict[str, Descriptor] = {}
    for part in parts:
        (manifests if is_manifest(part) else blobs).setdefault(part.digest, part)
    return list(manifests.values()), list(blobs.values())
