"""Sources of manifests and blobs, and the only way into the store: each is fetched once and verified, for any number of readers."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol, Self, TypeVar

from harness.errors import SlipwayError, StoreError
from harness.oci.graph import descriptors
from harness.oci.model import Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.client import ACCEPT, Client, Manifest, check_manifest
from harness.oci.registry.credentials import Credential
from harness.oci.registry.errors import RemoteError
from harness.oci.store import Store

_T = TypeVar("_T")
CHUNK = 1 << 20
"""Bytes moved at a time; also what each running transfer holds in memory."""


class Stream(Protocol):
    """A blob being read."""

    @property
    def size(self) -> int | None:
        """Bytes in all, if known."""

    def read(self, amount: int, /) -> bytes:
        """Up to ``amount`` bytes, none at the end. Raises StoreError."""

    def close(self) -> None: ...

    def abort(self) -> None:
        """From another thread: make a waiting read() fail."""


class Source(Protocol):
    """Somewhere images may be. None means "not here, ask the next"; a SlipwayError means "here, but it fails"."""

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None: ...

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None: ...

    def admit(self, pinned: Reference) -> bool:
        """Return True when this source admits the image with the digest of ``pinned``; False: ask the other sources.

        Raises StoreError when policy refuses it.
        """
        ...


Admit = Callable[[Client, Reference], object]
"""Raises StoreError when an image of a registry (by digest) may not be used."""


class RemoteSource:
    """The registries themselves. ``admit`` is called for each of their images before any of its blobs is fetched."""

    def __init__(self, client: Client, admit: Admit) -> None:
        self.client = client
        self._admit = admit

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        return self.client.manifest(reference, accept)

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        return self.client.blob(reference, digest, size)

    def admit(self, pinned: Reference) -> bool:
        self._admit(self.client, pinned)
        return True


class Permits:
    """Permissions of a build: repositories that it may use logins for, and may reach at unusual addresses.

    A cluster under construction asks for what it likes. Only what a file of the image names, or the user allows by a pattern such as
    ``registry.example.com/team/*``, is known here. Safe in threads: repositories are only added.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._patterns = tuple(allowed)
        self._declared: set[str] = set()

    def declare(self, names: Iterable[str]) -> None:
        """Names of the images in a file; invalid names were reported by the reader of the file."""
        for name in names:
            with contextlib.suppress(ValueError):
                self._declared.add(Reference.parse(name).repository)

    def know(self, reference: Reference) -> bool:
        repository = reference.repository
        return repository in self._declared or any(
            fnmatch.fnmatchcase(repository, pattern) or repository.startswith(f"{pattern.rstrip('/')}/") for pattern in self._patterns
        )


_INNER_NAMES = ("localhost", "local", "internal", "localdomain", "home", "lan")
"""Last labels of names that mean something within one machine or network only, the metadata services of clouds among them."""
_METADATA = frozenset({"100.100.100.200", "fd00:ec2::254"})


def unsafe_address(domain: str) -> str | None:
    """Reason to refuse a registry without a trusted certificate; None when it may be used.

    A cluster that asks for ``169.254.169.254/x`` or ``localhost:2375/x`` wants this machine to talk to its neighbours, not an image.
    """
    host, _, port = domain.rpartition(":") if domain.rpartition(":")[2].isdecimal() else (domain, "", "")
    if port not in ("", "443"):
        return f"it is at port {port}"
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    else:
        return "it is named by its address"
    if host.lower().rpartition(".")[2] in _INNER_NAMES:
        return "its name is of an inner network"
    with contextlib.suppress(OSError, UnicodeError):  # the client says better why a name is not found
        for found in socket.getaddrinfo(host, 443, proto=socket.IPPROTO_TCP):
            address = ipaddress.ip_address(str(found[4][0]).partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None) or address
            if mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast or str(mapped) in _METADATA:
                return f"its name means {mapped}"
    return None


class GuardedSource:
    """The registries, for a cluster that is not trusted: what ``permits`` do not know is asked for without logins, at public addresses.

    ``admit`` is called for each of their images before any of its blobs is fetched.
    """

    def __init__(self, client: Client, anonymous: Client, permits: Permits, admit: Admit) -> None:
        self.client = client
        self.anonymous = anonymous
        self.permits = permits
        self._admit = admit

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        return self._as(reference, lambda client: client.manifest(reference, accept))

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        return self._as(reference, lambda client: client.blob(reference, digest, size))

    def admit(self, pinned: Reference) -> bool:
        self._as(pinned, lambda client: self._admit(client, pinned))
        return True

    def _as(self, reference: Reference, ask: Callable[[Client], _T]) -> _T:
        if self.permits.know(reference):
            return ask(self.client)
        hint = f"name it in a manifest or an image list of the image, or allow it: --allow-login {reference.repository}"
        # What the user's registries.conf says of a name, the user vouches for.
        reason = unsafe_address(reference.domain) if self.client.registries.rule(reference) is None else None
        if reason is not None:
            raise RemoteError(
                f"{reference}: {reference.domain} is not asked, since {reason} and no file of the image names the repository",
                status=403, code="DENIED", hint=hint,
            )  # fmt: skip
        try:
            return ask(self.anonymous)
        except RemoteError as refused:
            if refused.status not in (401, 403):
                raise
            message = f"{refused.message}; no login is used for it, since no file of the image names the repository"
            raise RemoteError(message, status=refused.status, code=refused.code, hint=hint) from refused


class NoLogins:
    """A credential source without credentials."""

    def find(self, domain: str) -> Credential | None:  # noqa: ARG002 -- whatever it is
        return None


class LayoutSource:
    """Images that lie in a store already: embedded in the base CloudImage, or built here.

    ``names`` maps image names to the digest (or descriptor) of their manifest or index; ``label`` says in reports what this is.
    """

    def __init__(self, store: Store, names: Mapping[str, str | Descriptor], label: str = "local") -> None:
        self.store = store
        self.label = label
        plain = {name: found.digest if isinstance(found, Descriptor) else found for name, found in names.items()}
        self._names = {str(Reference.parse(name)): digest for name, digest in plain.items()}
        self._repositories: dict[str, list[str]] = {}
        for name, digest in self._names.items():
            self._repositories.setdefault(Reference.parse(name).repository, []).append(digest)
        self._reachable: dict[str, set[str]] = {}

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:  # noqa: ARG002 - a layout has one form of each image
        digest = reference.digest or self._names.get(str(reference))
        if digest is None or (reference.digest and digest not in self._blobs_of(reference.repository)) or not self.store.has(digest):
            return None
        return stored_manifest(self.store, digest, self.label)

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:  # noqa: ARG002 - the file has it
        if digest not in self._blobs_of(reference.repository) or not self.store.has(digest):
            return None
        return FileStream(self.store, digest)

    def admit(self, pinned: Reference) -> bool:
        """Images in the local store were built here, or came with a CloudImage that was admitted as a whole."""
        return pinned.digest in self._blobs_of(pinned.repository)

    def _blobs_of(self, repository: str) -> set[str]:
        if repository not in self._reachable:
            self._reachable[repository] = self.store.reachable(self._repositories.get(repository, []))
        return self._reachable[repository]


class FileStream:
    """A blob of a store as a Stream."""

    def __init__(self, store: Store, digest: str) -> None:
        self.size: int | None = store.size(digest)
        self._file = store.open(digest)

    def read(self, amount: int, /) -> bytes:
        return self._file.read(amount)

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        """A disk does not block for long."""


def stored_manifest(store: Store, digest: str, label: str) -> Manifest | None:
    """The manifest or index with that digest; None when the blob is something else. Raises StoreError when it is damaged."""
    data = store.read(digest)
    try:
        return Manifest(data, check_manifest(data, ""), digest, label)
    except ValueError:
        return None


class BlobContent(Protocol):
    """A blob that is here, or arriving: its bytes lie in a file that may still grow."""

    @property
    def size(self) -> int: ...

    def available(self, offset: int) -> int:
        """Wait until bytes after ``offset`` may be given away; up to which offset they may. Raises SlipwayError."""

    def open(self) -> contextlib.AbstractContextManager[int]:
        """A file descriptor to read from."""

    def result(self) -> None:
        """Wait until the blob is in the store. Raises SlipwayError."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A blob that is in the store."""

    path: Path
    size: int

    def available(self, offset: int) -> int:  # noqa: ARG002 - all of it, always
        return self.size

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def result(self) -> None: ...


class BlobDownload:
    """One blob on its way from a source into the store. Runs in a thread of its own; any number of readers may follow it.

    The last piece is held back until the digest of the whole is right: no reader gets a complete body with wrong bytes.
    """

    def __init__(self, fetcher: Fetcher, reference: Reference, digest: str, size: int | None) -> None:
        self.digest = digest
        self._fetcher = fetcher
        self._reference = reference
        self._expected = size
        self._size: int | None = None
        self._released = 0
        self._verified = False
        self._ended = False
        self._error: Exception | None = None
        self._file: int | None = None
        self._stream: Stream | None = None
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name=f"fetch {digest[7:19]}", daemon=True)

    @property
    def size(self) -> int:
        """Size in bytes; waits until the source reports it. Raises SlipwayError when it does not have the blob."""
        with self._changed:
            self._changed.wait_for(lambda: self._size is not None or self._error)
            if self._size is None:
                raise self._failure()
            return self._size

    def available(self, offset: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._verified or self._released > offset)
            if self._error and not self._verified:
                raise self._failure()
            return self._released

    @contextlib.contextmanager
    def open(self) -> Iterator[int]:
        with self._changed:
            descriptor = os.dup(self._file) if self._file is not None else None
        if descriptor is None:  # it ended between: what is whole lies in the store
            descriptor = os.open(self._fetcher.store.path(self.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def result(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._ended)
            if self._error:
                raise self._failure()

    def abort(self) -> None:
        with self._changed:
            stream = self._stream
        if stream:
            stream.abort()

    def _failure(self) -> Exception:
        """A copy for each reader: a raised exception keeps the stack of who raised it."""
        error = self._error
        if isinstance(error, RemoteError):
            return RemoteError(error.message, status=error.status, code=error.code, hint=error.hint)
        if isinstance(error, StoreError):
            return StoreError(error.message, hint=error.hint)
        return error or StoreError(f"blob {self.digest} is not here")

    def _run(self) -> None:
        error: Exception | None = None
        # Whatever it is, those who wait must hear of it.
        try:
            self._receive()
        except Exception as problem:
            error = problem
        # Remove it from the table first: a caller that retries must start a new download and not join this one.
        self._fetcher.forget(self)
        with self._changed:
            self._error = error
            self._ended = True
            if self._file is not None:
                os.close(self._file)
                self._file = None
            self._changed.notify_all()

    def _receive(self) -> None:
        stream = self._fetcher.open(self._reference, self.digest, self._expected)
        with self._changed:
            self._stream = stream
        try:
            size = stream.size
            if size is None:
                raise RemoteError(f"{self._reference}: blob {self.digest} comes without a length", code="BLOB_UNKNOWN")
            with self._fetcher.store.writer(self.digest) as writer:
                with self._changed:
                    self._file = os.open(writer.path, os.O_RDONLY | os.O_CLOEXEC)
                    self._size = size
                    self._changed.notify_all()
                while chunk := stream.read(CHUNK):
                    self._fetcher.check_open()
                    if writer.size + len(chunk) > size:
                        raise RemoteError(f"{self._reference}: blob {self.digest} is longer than {size} bytes", code="BLOB_UNKNOWN")
                    before = writer.size
                    writer.write(chunk)
                    self._release(writer.size if writer.size < size else before)
                if writer.digest != self.digest:
                    raise RemoteError(
                        f"{self._reference}: {getattr(stream, 'source', '')}: {writer.size} bytes that should be blob {self.digest} "
                        f"are {writer.digest}",
                        code="DIGEST_INVALID",
                    )
                self._release(size, verified=True)
        finally:
            stream.close()

    def _release(self, upto: int, *, verified: bool = False) -> None:
        with self._changed:
            self._released = upto
            self._verified = verified
            self._changed.notify_all()


class Fetcher:
    """Asks the sources in order and keeps what they give. Safe for many threads; what is asked at once is fetched once.

    What a tag meant when it was first asked it means until close(), so that all nodes of a build get the same image.
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

    def check_open(self) -> None:
        if self._closed:
            raise RemoteError("cancelled", status=503, code="UNAVAILABLE")

    def manifest(self, reference: Reference, accept: Sequence[str] = ACCEPT) -> Manifest:
        """The manifest or index, which is then in the store. Raises SlipwayError (RemoteError where a registry is the reason).

        An image that policy refuses is never given: not by a registry, and not from the store either.
        """
        key = (str(reference), tuple(accept))
        with self._lock:
            known = self._known(reference, accept)
            asking = self._asking.get(key)
            if known is None and asking is None:
                future = self._asking[key] = Future[Manifest]()
        if known is not None:
            self._admit(reference, known)
            return known
        if asking is not None:
            return asking.result()
        try:
            found = self._find(reference, accept)
            self._admit(reference, found)
            self.store.put(found.data, expected=found.digest)
            with self._lock:
                self._remember(reference, found)
        except BaseException as failed:
            future.set_exception(failed)
            raise
        else:
            future.set_result(found)
            return found
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
        self.check_open()
        if reference.digest is None:
            pinned = self._pins.get(str(reference), [])
            return next((manifest for manifest in pinned if _accepted(manifest.media_type, accept)), None)
        known = self._types.get(reference.digest)
        if known is None and self.store.has(reference.digest):
            with contextlib.suppress(StoreError):  # a damaged one is fetched again
                known = stored_manifest(self.store, reference.digest, "store")
        return known

    def _remember(self, reference: Reference, found: Manifest) -> None:
        if reference.digest is None:
            pinned = self._pins.setdefault(str(reference), [])
            if found not in pinned:
                pinned.append(found)
        # The type as it was served: a manifest need not say it, and an index of Docker's looks like one of OCI.
        self._types[found.digest] = found

    def _find(self, reference: Reference, accept: Sequence[str]) -> Manifest:
        problems: list[SlipwayError] = []
        for source in self.sources:
            try:
                found = source.manifest(reference, accept)
            except SlipwayError as failed:
                problems.append(failed)
                continue
            if found is not None:
                return found
        raise _joined(problems) or RemoteError(f"{reference}: no source has it", status=404, code="MANIFEST_UNKNOWN")

    def blob(self, reference: Reference, digest: str, size: int | None = None) -> BlobContent:
        """A blob of that image, which is in the store or on its way there; ``size`` in bytes where a manifest states it."""
        with self._lock:
            self.check_open()
            running = self._transfers.get(digest)
            if running:
                return running
            if self.store.has(digest):
                return Stored(self.store.path(digest), self.store.size(digest))
            transfer = self._transfers[digest] = BlobDownload(self, reference, digest, size)
            transfer.thread.start()
            return transfer

    def open(self, reference: Reference, digest: str, size: int | None) -> Stream:
        """The first source's stream of that blob."""
        problems: list[SlipwayError] = []
        for source in self.sources:
            try:
                stream = source.blob(reference, digest, size)
            except SlipwayError as failed:
                problems.append(failed)
                continue
            if stream is not None:
                return stream
        raise _joined(problems) or RemoteError(f"{reference}: no source has blob {digest}", status=404, code="BLOB_UNKNOWN")

    def forget(self, transfer: BlobDownload) -> None:
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
