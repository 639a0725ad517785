"""CloudImages to and from registries: only what the other side lacks, many blobs at once, and nothing that was verified twice.

A pull asks for the manifests first, then for every blob that is not in the store. A blob grows in the store's ``partial`` folder, so
that a killed pull resumes at the last byte; the image is tagged once all is fetched and verified. A push sends blobs first,
then manifests, the tag last: who pulls meanwhile gets the old image or the new one, whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from harness import log
from harness.errors import StoreError, UsageError
from harness.log.progress import Meter
from harness.oci.admission import Admitted
from harness.oci.graph import below_of, closure, entries_of, is_manifest, wanted
from harness.oci.model import INDEXES, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.registry import config
from harness.oci.registry.client import Client, Manifest
from harness.oci.registry.config import Certificates
from harness.oci.registry.credentials import Credential, CredentialStore
from harness.oci.registry.errors import RemoteError, RetryPolicy
from harness.oci.registry.referrers import LocalReferrers, RemoteReferrers
from harness.oci.registry.session import CredentialSource
from harness.oci.registry.upload import Sent
from harness.oci.store import UNFINISHED, MismatchError, Store
from harness.transfer import attachments
from harness.untrusted import json_object, shown

JOBS = 8
"""Blobs that are on their way at once."""

_PIECE = 256 << 10
"""Bytes of a blob that go from the line to the disk at a time: what fits into a processor's cache is not fetched from memory twice."""

_DEEPEST = 4
"""Indexes within indexes that are followed."""
_MOST_PLACES = 64
RETRIES = RetryPolicy(attempts=6, longest_wait=300)
"""A person who moves gigabytes wants it to go on; a kubelet that waits for a manifest does not."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class RegistryAccess:
    """Options of a command line to reach registries; they override registries.conf."""

    plain_http: bool = False
    insecure: bool = False
    """Accept an untrusted TLS certificate."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def client(
    access: RegistryAccess = RegistryAccess(),
    login: CredentialSource | None = None,
    retry: RetryPolicy = RETRIES,
    *,
    mirrors: bool = True,
) -> Client:
    """Return a client of registries with the user's configuration and logins. Raises InputError or UsageError.

    Without ``mirrors`` it asks every registry itself: what a mirror has says nothing about what a push still has to send.
    """
    if (access.cert is None) != (access.key is None):
        raise UsageError("--cert and --cert-key belong together", hint="name the client's certificate and its key")
    for path in (access.ca, access.cert, access.key):
        if path is not None and not path.is_file():
            raise UsageError(f"{path}: no such file")
    pair = ((access.cert, access.key),) if access.cert and access.key else ()
    configured = config.load()
    rules = dataclasses.replace(
        configured,
        rules=configured.rules if mirrors else tuple(dataclasses.replace(rule, mirrors=()) for rule in configured.rules),
        plain=access.plain_http,
        insecure=access.insecure,
        extra=Certificates((access.ca,) if access.ca else (), pair),
    )
    return Client(rules, login or CredentialStore(), retry=retry)


def sign_in(host: str, credential: Credential, access: RegistryAccess) -> None:
    """Verify a login at a registry. Raises RemoteError when it is refused; warns when the registry requires no authentication."""
    with client(access, _Only(credential)) as found:
        found.sign_in(host)


@dataclasses.dataclass(frozen=True)
class _Only:
    credential: Credential

    def find(self, domain: str) -> Credential:  # noqa: ARG002 -- the one that is being tried
        return self.credential


# Many at once


class WorkerPool:
    """Runs many small jobs at once; the first failure ends them all. Blocking reads are aborted."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self._open: set[Any] = set()

    def each(self, work: Callable[[_T], object], items: Iterable[_T]) -> None:
        """``work(item)`` for every item. Raises what the first failure raised, when none runs any more."""
        with ThreadPoolExecutor(JOBS, thread_name_prefix="transfer") as pool:
            try:
                # Also inside: the first may be under way for long while Ctrl-C arrives during the submission of the last.
                futures = [pool.submit(work, item) for item in items]
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self.stop.set()
                self.client.close()  # no thread waits for another attempt
                pool.shutdown(wait=False, cancel_futures=True)
                with self.lock:
                    streams = tuple(self._open)
                for stream in streams:
                    stream.abort()
                raise

    @contextlib.contextmanager
    def abortable(self, stream: Any) -> Iterator[None]:
        with self.lock:
            self._open.add(stream)
        try:
            yield
        finally:
            with self.lock:
                self._open.discard(stream)
            stream.close()

    def check(self) -> None:
        if self.stop.is_set():
            raise RemoteError("cancelled", status=503)


# Pull


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
            work.everything(root, Meter(step, 0))
        store.fsync(work.new)
        known = name or (None if reference.digest else reference.familiar)
        beside = Reference.parse(name) if name else reference
        attached = attachments.pull_referrers(client, pinned, LocalReferrers(store, beside))
        if known:
            store.take_in({known: root}, [admitted], {})
        store.forget(UNFINISHED, root.digest.removeprefix("sha256:"))
        _remember(store, reference, root.digest)
    return PullResult(known or root.digest, root.digest, work.received, work.fetched, work.present, attached)


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
        found = self.client.manifest(self.reference)
        self._count(len(found.data), 0)
        return self._keep(found)

    def everything(self, root: Descriptor, meter: Meter) -> None:
        """Fetch what the store lacks of an image whose root it has."""
        key = root.digest.removeprefix("sha256:")
        # An earlier try may have ended in a power cut, and left files that have their length but not their bytes.
        doubtful = self.store.record(UNFINISHED, key) is not None
        self.store.keep(UNFINISHED, key, {"image": root.digest})
        blobs = self._blobs(root)
        missing = [blob for blob in blobs if not self._here(blob, doubtful=doubtful)]
        self.present += len(blobs) - len(missing)
        meter.total = sum(blob.size for blob in missing)
        # The longest first: a big one that begins last is waited for by all.
        missing.sort(key=lambda blob: (-blob.size, blob.digest))
        self.workers.each(lambda blob: self._fetch(blob, meter), missing)
        meter.finish(f"{len(missing)} of {len(blobs)} blobs" if missing else "nothing was missing")

    def _blobs(self, root: Descriptor) -> list[Descriptor]:
        """Every blob below the manifests, which are fetched for it; each once."""
        found: dict[str, Descriptor] = {}
        level = [root]
        for _ in range(_DEEPEST):
            below: list[Descriptor] = []
            for manifest in level:
                children, blobs = self._children(manifest)
                below += children
                found.update((blob.digest, blob) for blob in blobs)
            if not below:
                return list(found.values())
            fetched: dict[str, Descriptor] = {}

            def fetch(child: Descriptor, fetched: dict[str, Descriptor] = fetched) -> None:
                fetched[child.digest] = self._manifest(child)

            self.workers.each(fetch, {child.digest: child for child in below}.values())
            level = list(fetched.values())
        raise StoreError(f"{self.reference}: more than {_DEEPEST} indexes within each other", hint="this is not an image")

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
        there = {str(entry.platform) for entry in entries if entry.platform}
        absent = [one for one in self.platforms if not any(entry.platform and entry.platform.matches(one) for entry in entries)]
        if absent and there:
            raise StoreError(f"{self.reference} is not made for {absent[0]}", hint=f"it exists for {', '.join(sorted(there))}")
        return [entry for entry in entries if wanted(entry.platform, self.platforms)]

    def _manifest(self, child: Descriptor) -> Descriptor:
        self.workers.check()
        if self._here(child):
            with contextlib.suppress(StoreError):  # a damaged one is fetched again
                self.store.read(child.digest)
                return child
        found = self.client.manifest(dataclasses.replace(self.reference, tag=None, digest=child.digest))
        if len(found.data) != child.size:
            raise StoreError(f"{self.reference}: manifest {child.digest} has {len(found.data)} bytes, and its index says {child.size}")
        self._count(len(found.data), 0)
        kept = self._keep(found)
        return dataclasses.replace(child, media_type=kept.media_type)

    def _keep(self, found: Manifest) -> Descriptor:
        self.store.put(found.data, expected=found.digest)
        return Descriptor(found.media_type, found.digest, len(found.data))

    def _here(self, blob: Descriptor, *, doubtful: bool = False) -> bool:
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
            self._go_on(blob, meter)
        except MismatchError as wrong:
            if not wrong.resumed:
                raise
            self._go_on(blob, meter)

    def _go_on(self, blob: Descriptor, meter: Meter) -> None:
        self.workers.check()
        with self.store.partial(blob.digest, blob.size) as part:
            if part is None:
                meter.skip(blob.size)
                with self._lock:
                    self.present += 1
                return
            begun = part.size
            meter.skip(begun)
            if begun < blob.size:
                stream = self.client.blob(self.reference, blob.digest, blob.size, start=begun)
                with self.workers.abortable(stream):
                    while part.size < blob.size:
                        self.workers.check()
                        data = stream.read(_PIECE)
                        part.write(data)
                        meter.add(len(data))
                    # One byte more would make it longer than it may be: the stream says so.
                    stream.read(1)
            received = part.size - begun
        self._count(received, 1)
        with self._lock:
            self.new.append(blob.digest)

    def _count(self, received: int, fetched: int) -> None:
        with self._lock:
            self.received += received
            self.fetched += fetched


# Push


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


def push(store: Store, name: str, target: Reference, client: Client) -> Pushed:
    """Have an image of the store in a registry, under ``target``. Raises RemoteError or StoreError; the tag changes last, or not at all."""
    with store.shared_lease():
        image = store.resolve(name)
        try:
            parts = closure(store, image)
        except StoreError as problem:
            raise StoreError(
                f"{name} is not whole here and cannot be pushed: {problem.message}", hint="pull or load it for all its platforms"
            ) from problem
        with log.step(f"push {target.familiar}") as step:
            work = _Push(store, target, client)
            work.everything(image, parts, Meter(step, 0))
        attached = attachments.copy_referrers(LocalReferrers(store, target), RemoteReferrers(client, target), image.digest)
        _remember(store, target, image.digest)
    return Pushed(str(target), image.digest, work.sent, work.counts["uploaded"], work.counts["mounted"], work.counts["present"], attached)


class _Push:
    """One image on its way out of the store."""

    def __init__(self, store: Store, target: Reference, client: Client) -> None:
        self.store = store
        self.target = target
        self.client = client
        self.workers = WorkerPool(client)
        self.sent = 0
        self.counts = {"uploaded": 0, "mounted": 0, "present": 0}
        self._lock = threading.Lock()

    def everything(self, image: Descriptor, parts: Sequence[Descriptor], meter: Meter) -> None:
        manifests, blobs = _split(parts)
        there = self._there(image)
        if image.digest in there:
            # A registry keeps no manifest whose blobs it lacks.
            self.counts["present"] = len(blobs)
            meter.finish("already present")
            return
        missing = sorted((blob for blob in blobs if blob.digest not in there), key=lambda blob: (-blob.size, blob.digest))
        self.counts["present"] = len(blobs) - len(missing)
        meter.total = sum(blob.size for blob in missing)
        places = _known_locations(self.store, self.target)
        self.workers.each(lambda blob: self._blob(blob, places.get(blob.digest, ()), meter), missing)
        # An index after what it lists; the tag, which is the last of all, after everything.
        for manifest in reversed(manifests):
            if manifest.digest not in there:
                self._manifest(manifest, tagged=manifest.digest == image.digest)
        counted = ", ".join(f"{count} {how}" for how, count in self.counts.items() if count)
        meter.finish(counted)

    def _there(self, image: Descriptor) -> set[str]:
        """Digests that the registry is known to have: those of the image that the tag names now."""
        found: set[str] = set()
        now = self.client.head(self.target)
        if now is None:
            return found
        if now.digest == image.digest:
            return {now.digest}
        with contextlib.suppress(StoreError):
            self._known(now.digest, found)
        return found

    def _known(self, digest: str, found: set[str], depth: int = 0) -> None:
        manifest = self.client.manifest(dataclasses.replace(self.target, tag=None, digest=digest))
        found.add(digest)
        value = json_object(manifest.data, what=f"manifest {digest}")
        for entry in entries_of(value, digest) if manifest.is_index and depth < _DEEPEST else ():
            self._known(entry.digest, found, depth + 1)
        if not manifest.is_index:
            found.update(blob.digest for blob in below_of(value, digest))

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


# Where blobs are already: an image that was pushed or pulled there has its blobs there


def _remember(store: Store, reference: Reference, digest: str) -> None:
    """Note that a repository of a registry has an image, so that a later push can mount its blobs from there."""
    key, known = _place_record(store, reference.domain)
    # Without "sha256:", so that this record does not keep the blobs.
    hexadecimal = digest.removeprefix("sha256:")
    seen = [entry for entry in known if entry != [reference.path, hexadecimal]]
    store.keep("place", key, {"host": reference.domain, "images": [[reference.path, hexadecimal], *seen][:_MOST_PLACES]})


def _place_record(store: Store, host: str) -> tuple[str, list[list[str]]]:
    key = hashlib.sha256(host.encode()).hexdigest()
    record = store.record("place", key) or {}
    return key, list(record.get("images") or ())


def _known_locations(store: Store, target: Reference) -> Mapping[str, tuple[str, ...]]:
    """Blob -> other repositories of the target's registry that are known to have it."""
    found: dict[str, tuple[str, ...]] = {}
    for repository, hexadecimal in _place_record(store, target.domain)[1]:
        if repository != target.path:
            for digest in store.reachable([f"sha256:{hexadecimal}"]):
                found.setdefault(digest, (repository,))
    return found
