"""A CloudImage from a registry into the store: only what the store lacks, many blobs at once, and nothing that was verified twice.

Manifests are fetched first, then every blob that is not in the store. A blob grows in the store's ``partial`` folder, so that a killed pull
resumes at the last byte; the image is tagged once all is fetched and verified.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence

from harness import log
from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci.admission import Admitted
from harness.oci.blob_file import MismatchError
from harness.oci.graph import DEEPEST_INDEX, below_of, entries_of, is_manifest, wanted
from harness.oci.model import INDEXES, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import UNFINISHED, Store
from harness.transfer import attachments, locations
from harness.transfer.worker_pool import WorkerPool
from harness.untrusted import shown

_PIECE = 256 << 10
"""Bytes of a blob that go from the line to the disk at a time: what fits into a processor's cache is not fetched from memory twice."""


@dataclasses.dataclass(frozen=True)
class PullResult:
    """Result of a pull. ``received``: bytes of blobs and manifests received; ``fetched`` and ``present`` count blobs."""

    name: str
    digest: str
    received: int
    fetched: int
    present: int
    attachments: tuple[str, ...] = ()
    """Names of the signatures and attestations that came along."""


Admit = Callable[[Client, Reference], Admitted]
"""Raises StoreError when an image (by digest) may not be taken in."""


def pull(
    store: Store,
    reference: Reference,
    client: Client,
    *,
    name: str | None = None,
    platforms: Sequence[Platform] = (),
    admit: Admit | None = None,
) -> PullResult:
    """Have an image of a registry in the store, under ``name`` or its own; all of it, or only some platforms.

    ``admit`` is asked before any blob is fetched: by default the policies of this machine.

    Raises RemoteError or StoreError; then nothing has a new name, and what was fetched and verified stays for the next try.
    """
    from harness.trust import policy  # here: its cryptography is slow to load, and a push does without

    ask = admit or policy.gate().admit_remote
    with store.shared_lease():
        work = _Pull(store, reference, client, tuple(platforms))
        root = work.root()
        pinned = dataclasses.replace(reference, tag=None, digest=root.digest)
        # With the tag, unless the user said which image it shall be.
        admitted = ask(client, pinned if reference.digest else dataclasses.replace(reference, digest=root.digest))
        with log.step(f"pull {reference.familiar}") as step:
            work.fetch(root, Meter(step, 0))
        store.fsync(work.new)
        local_name = name or (None if reference.digest else reference.familiar)
        beside = Reference.parse(name) if name else reference
        attached = attachments.pull_referrers(client, pinned, LocalReferrers(store, beside))
        if local_name:
            store.take_in({local_name: root}, [admitted], {})
        store.forget(UNFINISHED, root.digest.removeprefix("sha256:"))
        locations.remember(store, reference, root.digest)
    return PullResult(local_name or root.digest, root.digest, work.received, work.fetched, work.present, attached)


class _Pull:
    """One image on its way into the store."""

    def __init__(self, store: Store, reference: Reference, client: Client, platforms: tuple[Platform, ...]) -> None:
        self.store = store
        self.reference = reference
        self.client = client
        self.platforms = platforms
        self.workers = WorkerPool(client)
        self.new: list[str] = []
        """Digests of what was written, which the disk may not have yet."""
        self.received = 0
        self.fetched = 0
        self.present = 0
        self._lock = threading.Lock()

    def root(self) -> Descriptor:
        """The manifest or index that the reference means now; kept in the store."""
        manifest = self.client.manifest(self.reference)
        self._count(len(manifest.data), 0)
        return self._keep(manifest)

    def fetch(self, root: Descriptor, meter: Meter) -> None:
        """Fetch the blobs that the store lacks, of an image whose root it has."""
        key = root.digest.removeprefix("sha256:")
        # An earlier try may have ended in a power cut, and left files that have their length but not their bytes.
        doubtful = self.store.record(UNFINISHED, key) is not None
        self.store.keep(UNFINISHED, key, {"image": root.digest})
        blobs = self._blobs(root)
        missing = [blob for blob in blobs if not self._has(blob, doubtful=doubtful)]
        self.present += len(blobs) - len(missing)
        meter.total = sum(blob.size for blob in missing)
        # The longest first: a big one that begins last is waited for by all.
        missing.sort(key=lambda blob: (-blob.size, blob.digest))
        self.workers.each(lambda blob: self._fetch(blob, meter), missing)
        meter.finish(f"{len(missing)} of {len(blobs)} blobs" if missing else "nothing was missing")

    def _blobs(self, root: Descriptor) -> list[Descriptor]:
        """Every blob below the manifests, which are fetched for it; each once."""
        by_digest: dict[str, Descriptor] = {}
        level = [root]
        for _ in range(DEEPEST_INDEX + 1):
            below: list[Descriptor] = []
            for manifest in level:
                children, blobs = self._children(manifest)
                below += children
                by_digest.update((blob.digest, blob) for blob in blobs)
            if not below:
                return list(by_digest.values())
            fetched: dict[str, Descriptor] = {}

            def fetch(child: Descriptor, fetched: dict[str, Descriptor] = fetched) -> None:
                fetched[child.digest] = self._manifest(child)

            self.workers.each(fetch, {child.digest: child for child in below}.values())
            level = list(fetched.values())
        raise StoreError(f"{self.reference}: more than {DEEPEST_INDEX} indexes within each other", hint="this is not an image")

    def _children(self, manifest: Descriptor) -> tuple[list[Descriptor], list[Descriptor]]:
        """The manifests and the blobs that a manifest lists."""
        value = self.store.json(manifest.digest)
        try:
            if manifest.media_type in INDEXES:
                return self._wanted(manifest, entries_of(value, manifest.digest)), []
            return [], below_of(value, manifest.digest)
        except StoreError as wrong:
            raise StoreError(f"{self.reference}: {wrong.message}", hint=wrong.hint) from wrong

    def _wanted(self, index: Descriptor, entries: Sequence[Descriptor]) -> list[Descriptor]:
        strange = [entry for entry in entries if not is_manifest(entry)]
        if strange:
            raise StoreError(
                f"{self.reference}: index {index.digest} lists {strange[0].digest} as {shown(strange[0].media_type)}, which is not an image"
            )
        available = {str(entry.platform) for entry in entries if entry.platform}
        absent = [one for one in self.platforms if not any(entry.platform and entry.platform.matches(one) for entry in entries)]
        if absent and available:
            raise StoreError(f"{self.reference} is not made for {absent[0]}", hint=f"it exists for {', '.join(sorted(available))}")
        return [entry for entry in entries if wanted(entry.platform, self.platforms)]

    def _manifest(self, child: Descriptor) -> Descriptor:
        self.workers.check()
        if self._has(child):
            with contextlib.suppress(StoreError):  # a damaged one is fetched again
                self.store.read(child.digest)
                return child
        manifest = self.client.manifest(dataclasses.replace(self.reference, tag=None, digest=child.digest))
        if len(manifest.data) != child.size:
            raise StoreError(f"{self.reference}: manifest {child.digest} has {len(manifest.data)} bytes, and its index says {child.size}")
        self._count(len(manifest.data), 0)
        kept = self._keep(manifest)
        return dataclasses.replace(child, media_type=kept.media_type)

    def _keep(self, manifest: Manifest) -> Descriptor:
        self.store.put(manifest.data, expected=manifest.digest)
        return Descriptor(manifest.media_type, manifest.digest, len(manifest.data))

    def _has(self, blob: Descriptor, *, doubtful: bool = False) -> bool:
        if not self.store.has(blob.digest) or self.store.size(blob.digest) != blob.size:
            return False
        if doubtful:
            try:
                self.store.verify(blob.digest)
            except StoreError:
                self.store.path(blob.digest).unlink(missing_ok=True)
                return False
        return True

    def _fetch(self, blob: Descriptor, meter: Meter) -> None:
        """Fetch one blob, resuming an earlier attempt; restart when that left wrong bytes."""
        try:
            self._resume(blob, meter)
        except MismatchError as wrong:
            if not wrong.resumed:
                raise
            self._resume(blob, meter)

    def _resume(self, blob: Descriptor, meter: Meter) -> None:
        self.workers.check()
        with self.store.partial(blob.digest, blob.size) as part:
            if part is None:
                meter.skip(blob.size)
                with self._lock:
                    self.present += 1
                return
            start = part.size
            meter.skip(start)
            if start < blob.size:
                stream = self.client.blob(self.reference, blob.digest, blob.size, start=start)
                with self.workers.abortable(stream):
                    while part.size < blob.size:
                        self.workers.check()
                        data = stream.read(_PIECE)
                        part.write(data)
                        meter.add(len(data))
                    # One byte more would make it longer than it may be: the stream says so.
                    stream.read(1)
            received = part.size - start
        self._count(received, 1)
        with self._lock:
            self.new.append(blob.digest)

    def _count(self, received: int, fetched: int) -> None:
        with self._lock:
            self.received += received
            self.fetched += fetched
