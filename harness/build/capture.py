"""The capture proxy: serves the images of every registry, and records what a cluster pulls.

The containerd of a throw-away cluster sends all pulls to it (``hosts.toml`` in ``_default``, with the registry's name as ``?ns=``).
Each image is fetched once from the first source that has it, verified, kept in the store byte for byte, and recorded under the name
that was pulled. ``collect`` turns that record into the image set of a CloudImage.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hmac
import http.server
import json
import os
import re
import secrets
import socket
import socketserver
import struct
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol, Self, TypeVar

from harness import log
from harness.cloudimage import Blob, EmbeddedImage, ImageSet
from harness.errors import BuildError, SlipwayError
from harness.oci.graph import DEEPEST_INDEX, child_for, descriptors
from harness.oci.model import DOCKER_CONFIG, INDEXES, MANIFESTS, OCI_CONFIG, Descriptor, Platform
from harness.oci.reference import Reference, as_asked
from harness.oci.registry.download import BlobContent
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.manifest import ACCEPT, Manifest
from harness.oci.registry.sources import Source
from harness.oci.store import Store

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<target>[^/]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CODES = frozenset(
    {"BLOB_UNKNOWN", "DENIED", "DIGEST_INVALID", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID"}
    | {"TOOMANYREQUESTS", "UNAUTHORIZED", "UNAVAILABLE", "UNSUPPORTED"}
)
"""Error codes of the distribution specification; a registry's own are not passed on."""
_T = TypeVar("_T")
_MOST_AT_ONCE = 4


@dataclasses.dataclass(frozen=True)
class PulledImage:
    """An image that a client pulled, under the name it used: ``docker.io/library/nginx:1.25`` or ``...@sha256:...``."""

    reference: str
    digest: str
    """Empty when only the name is known: an image that a run for another platform pulled."""
    media_type: str
    source: str
    """Origin: a registry's host, or the label of a LayoutSource."""
    times: int = 1
    clients: tuple[str, ...] = ()
    """Addresses, sorted."""


class PullRecord:
    """Requests and their outcome. Thread-safe.

    containerd pulls a tag in two steps: HEAD by tag, then GET by the digest of the answer; a digest-only name starts
    with HEAD by digest. So a GET by digest is a new image only when this client did not get that digest for a tag of the
    repository, and when no recorded image of the repository has it as a part.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: dict[str, PulledImage] = {}
        self._told: dict[tuple[str, str, str], Reference] = {}
        self._owners: dict[tuple[str, str], tuple[Reference, Descriptor]] = {}
        self._failures: dict[str, dict[str, str]] = {}
        self._served = 0

    @property
    def pulled(self) -> list[PulledImage]:
        with self._lock:
            return sorted(self._images.values(), key=lambda image: image.reference)

    @property
    def failures(self) -> dict[str, str]:
        with self._lock:
            return {name: "; ".join(reasons.values()) for name, reasons in sorted(self._failures.items())}

    @property
    def served_bytes(self) -> int:
        with self._lock:
            return self._served

    def add_bytes(self, count: int) -> None:
        with self._lock:
            self._served += count

    def owner(self, reference: Reference, digest: str, client: str) -> tuple[Reference, int | None]:
        """Image that a digest belongs to, and its size where a manifest states it; the reference itself when no image has the digest."""
        with self._lock:
            owned = self._owners.get((reference.repository, digest))
            if owned:
                return owned[0], owned[1].size
            return self._told.get((client, reference.repository, digest), reference), None

    def manifest(self, reference: Reference, manifest: Manifest, client: str, *, head: bool) -> None:
        """Note a manifest that is served to ``client``."""
        owner, _ = self.owner(reference, manifest.digest, client)
        with self._lock:
            if reference.tag is not None and reference.digest is None:
                self._told[client, reference.repository, manifest.digest] = reference
                owner = reference
            by_name = reference.digest is None or head or owner == reference
            if by_name:
                owner = reference
                self._add(str(reference), manifest, client)
            for part in descriptors(manifest.data):
                self._owners.setdefault((reference.repository, part.digest), (owner, part))
            self._forgive(str(owner), manifest.digest)
            self._forgive(str(reference), manifest.digest)

    def _add(self, name: str, manifest: Manifest, client: str) -> None:
        known = self._images.get(name)
        if known is None:
            self._images[name] = PulledImage(name, manifest.digest, manifest.media_type, manifest.source, 1, (client,))
            return
        clients = tuple(sorted({*known.clients, client}))
        # Of a name served in two forms (to a client that knows no indexes) the index stays: it leads to both.
        better = manifest if manifest.is_index and known.media_type not in INDEXES else known
        self._images[name] = dataclasses.replace(
            known, digest=better.digest, media_type=better.media_type, source=better.source, times=known.times + 1, clients=clients
        )

    def failed(self, reference: Reference, part: str, reason: str) -> None:
        """Note that ``part`` (a digest, or nothing for the name itself) could not be served."""
        with self._lock:
            self._failures.setdefault(str(reference), {})[part] = reason

    def blob(self, reference: Reference, digest: str) -> None:
        """Note a blob that was served whole: an earlier failure of it is past."""
        with self._lock:
            self._forgive(str(reference), digest)

    def _forgive(self, name: str, part: str) -> None:
        reasons = self._failures.get(name, {})
        reasons.pop(part, None)
        reasons.pop("", None)
        if not reasons:
            self._failures.pop(name, None)


class Proxy:
    """A read-only registry on ``host:port`` (0: any free port) that serves every image of ``sources`` and records each pull.

    Use it as a context manager. It holds the store's lease, so that garbage collection keeps its blobs. Only clients that send
    ``secret`` as the first part of every path are served; empty: all clients. The default is a new random secret, which ``hosts_toml``
    contains. Bind it to an address that only the nodes reach. Raises BuildError when it cannot listen.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        store: Store,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        client_patience: float = 60.0,
        secret: str | None = None,
    ) -> None:
        self.store = store
        self.fetcher = Fetcher(sources, store)
        self.record = PullRecord()
        self.secret = secrets.token_urlsafe(24) if secret is None else secret
        log.hide(self.secret)
        self._address = (host, port)
        self._client_patience = client_patience
        self._stack = contextlib.ExitStack()
        self._server: _Server | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.store.shared_lease())
            try:
                server = _Server(self._address, self.fetcher, self.record, self._client_patience, self.secret)
            except OSError as refused:
                where = f"{self._address[0]} port {self._address[1]}"
                raise BuildError(f"the capture proxy cannot listen on {where}: {refused.strerror or refused}") from refused
            stack.callback(server.stop)
            stack.callback(self.fetcher.close)
            server.start()
            self._server = server
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def pulled(self) -> list[PulledImage]:
        """Every image that was pulled by name, sorted by name."""
        return self.record.pulled

    @property
    def failures(self) -> dict[str, str]:
        """Images that could not be served, and were not served by a later request: reference -> reason."""
        return self.record.failures

    @property
    def served_bytes(self) -> int:
        """Bytes of bodies that went to clients."""
        return self.record.served_bytes

    @property
    def port(self) -> int:
        assert self._server is not None, "the proxy is not running"
        return int(self._server.server_address[1])

    def url(self, host: str | None = None) -> str:
        """Its URL, with the secret, for clients that reach this machine as ``host``; by default the address it is bound to."""
        name = host or {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self._address[0], self._address[0])  # noqa: S104 - a comparison
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}{f'/{self.secret}' if self.secret else ''}"

    def hosts_toml(self, host: str | None = None) -> str:
        """Content of containerd's ``certs.d/_default/hosts.toml`` on nodes that reach this machine as ``host``.

        The proxy is ``server`` too: otherwise containerd asks the real registry, unrecorded, for what the proxy refuses.
        Without the ``host`` table containerd 1.6 ignores the file.
        """
        url = self.url(host)
        return f'server = "{url}"\n\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], fetcher: Fetcher, record: PullRecord, client_patience: float, secret: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.fetcher = fetcher
        self.record = record
        self.client_patience = client_patience
        self.prefix = f"/{secret}" if secret else ""
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._loop = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="capture proxy", daemon=True)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks the name server for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def start(self) -> None:
        self._loop.start()

    def stop(self, patience: float = 5.0) -> None:
        """Accept no more connections, close the open ones, wait for their threads."""
        if self._loop.is_alive():
            self.shutdown()
        self.server_close()
        with self._lock:
            self._stopping = True
            running = dict(self._connections)
        for connection in running:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in running.values():
            thread.join(patience / len(running))

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections[request] = threading.current_thread()
            late = self._stopping
        try:
            if late:
                self.shutdown_request(request)
            else:
                super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                del self._connections[request]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - as socketserver calls it
        problem = sys.exc_info()[1]
        if isinstance(problem, OSError):
            log.debug(f"capture: {client_address[0]} went away: {problem}")
        else:
            log.warning(f"capture proxy: {client_address[0]}: {problem!r}")


class _GoneError(Exception):
    """The response was cut short; the connection must be closed so that the client notices."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "slipway"
    sys_version = ""
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        # The kernel's own timeout, for sendfile needs a blocking socket: a client that takes nothing must not hold a thread for ever.
        seconds = self.server.client_patience
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000)))

    def version_string(self) -> str:
        return self.server_version

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _refuse_method(self) -> None:
        self.close_connection = True  # a body may follow, and is not read
        self._error(405, "UNSUPPORTED", "the capture proxy only serves pulls")

    do_PUT = do_POST = do_PATCH = do_DELETE = _refuse_method  # noqa: N815 - http.server calls them by these names

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002 - as http.server calls it
        self.close_connection = True
        self._error(code, "UNSUPPORTED", message or HTTPStatus(code).phrase)

    def log_message(self, format: str, *args: Any) -> None:
        """Every request is logged by _serve, with its outcome."""

    def _serve(self) -> None:
        started = time.monotonic()
        self.sent = 0
        self.status = 0
        try:
            self._route()
        except _GoneError as gone:
            self.close_connection = True
            log.debug(f"capture: {self.path}: {gone}")
        finally:
            self.server.record.add_bytes(self.sent)
            took = time.monotonic() - started
            log.debug(f"capture: {self.client_address[0]} {self.command} {self.path} {self.status} {self.sent} bytes {took:.2f} s")

    def _route(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        # Compared as a whole and in constant time; a client that does not know it learns nothing.
        prefix = self.server.prefix
        if not hmac.compare_digest(parts.path[: len(prefix)].encode(), prefix.encode()):
            self._error(404, "UNSUPPORTED", "not found")
            return
        path = parts.path[len(prefix) :]
        if path in ("/v2", "/v2/"):
            self._answer(200, b"{}", "application/json")
            return
        match = _PATH.fullmatch(urllib.parse.unquote(path))
        if not match:
            self._error(404, "UNSUPPORTED", "the capture proxy serves manifests and blobs")
            return
        namespaces = urllib.parse.parse_qs(parts.query).get("ns", [""])
        try:
            reference = reference_of(match["name"], match["target"], namespaces[0])
        except ValueError as wrong:
            self._error(400, "NAME_INVALID", str(wrong))
            return
        if match["kind"] == "manifests":
            self._manifest(reference)
        elif reference.digest:
            self._blob(reference, reference.digest)
        else:
            self._error(400, "DIGEST_INVALID", f"{match['target']!r} is not a sha256 digest")

    def _manifest(self, reference: Reference) -> None:
        record, client = self.server.record, self.client_address[0]
        try:
            manifest = self.server.fetcher.manifest(reference, accepted(self.headers.get_all("Accept", [])))
        except SlipwayError as failed:
            owner, _ = record.owner(reference, reference.digest or "", client)
            self._failed(owner, reference.digest or "", failed)
            return
        record.manifest(reference, manifest, client, head=self.command == "HEAD")
        self._answer(200, manifest.data, manifest.media_type, {"Docker-Content-Digest": manifest.digest, "ETag": f'"{manifest.digest}"'})

    def _blob(self, reference: Reference, digest: str) -> None:
        # Asked for as part of its image: a mirror may be for tags only, and a failure is the image's.
        owner, size = self.server.record.owner(reference, digest, self.client_address[0])
        try:
            content = self.server.fetcher.blob(owner, digest, size)
            total = content.size
            span = byte_range(self.headers.get("Range"), total)
            if span is not None and self.command == "GET":
                content.available(span[0])  # before the headers: a failure up to here can still be reported
        except SlipwayError as failed:
            self._failed(owner, digest, failed)
            return
        headers = {
            "Docker-Content-Digest": digest,
            "ETag": f'"{digest}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if span is None:
            self._headers(416, 0, {**headers, "Content-Range": f"bytes */{total}"})
            return
        start, end = span
        if end - start < total:
            self._headers(206, end - start, {**headers, "Content-Range": f"bytes {start}-{end - 1}/{total}"})
        else:
            self._headers(200, total, headers)
        if self.command == "GET":
            self._send_content(owner, digest, content, start, end)

    def _send_content(self, owner: Reference, digest: str, content: BlobContent, start: int, end: int) -> None:
        offset = start
        out = self.connection.fileno()
        try:
            with content.open() as file:
                while offset < end:
                    limit = min(content.available(offset), end)
                    while offset < limit:
                        sent = os.sendfile(out, file, offset, limit - offset)
                        if not sent:
                            raise _GoneError(f"{digest} is shorter than it was")
                        offset += sent
        except SlipwayError as failed:
            self.server.record.failed(owner, digest, failed.message)
            raise _GoneError(f"broke off at byte {offset}: {failed.message}") from failed
        except OSError as gone:
            raise _GoneError(f"broke off at byte {offset}: {gone}") from gone
        finally:
            self.sent += offset - start
        self.server.record.blob(owner, digest)

    def _failed(self, owner: Reference, part: str, failed: SlipwayError) -> None:
        self.server.record.failed(owner, part, failed.message)
        status, code = (failed.status, failed.code) if isinstance(failed, RemoteError) else (500, "UNKNOWN")
        # The registry's own message is left out: through it the client could read what only this machine reaches.
        self._error(status, code if code in _CODES else "UNKNOWN", f"{owner} cannot be fetched ({status}); the build output has the reason")

    def _error(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        # In the status line too: an answer to HEAD has no body, and containerd shows this line to the user.
        self._answer(status, body, "application/json", phrase=status_phrase(status, message))

    def _answer(
        self, status: int, body: bytes, content_type: str, headers: Mapping[str, str] | None = None, *, phrase: str | None = None
    ) -> None:
        self._headers(status, len(body), {"Content-Type": content_type, **(headers or {})}, phrase=phrase)
        if self.command != "HEAD":
            self.wfile.write(body)
            self.sent = len(body)

    def _headers(self, status: int, length: int, headers: Mapping[str, str], *, phrase: str | None = None) -> None:
        self.status = status
        self.send_response(status, phrase)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def reference_of(name: str, target: str, namespace: str) -> Reference:
    """Reference that a request is for: ``/v2/<name>/.../<target>?ns=<namespace>``, or the registry as first part of ``name``.

    Raises ValueError.
    """
    digest = target if _DIGEST.fullmatch(target) else None
    if ":" in target and digest is None:
        raise ValueError(f"{target!r} is neither a tag nor a sha256 digest")
    domain = Reference.parse(f"{namespace}/x").domain if namespace else ""
    if namespace and domain != namespace and namespace not in ("index.docker.io", "registry-1.docker.io"):
        raise ValueError(f"ns={namespace!r} is not a registry")
    if namespace == "registry-1.docker.io":
        domain = "docker.io"
    # Some clients are configured to send both.
    path = f"{domain}/{name.removeprefix(f'{domain}/')}" if domain else name
    return Reference.parse(f"{path}@{digest}" if digest else f"{path}:{target}")


def accepted(headers: Iterable[str]) -> tuple[str, ...]:
    """Media types of Accept headers, in order; slipway's own list when the client names no manifest type."""
    types = [part.partition(";")[0].strip().lower() for header in headers for part in header.split(",")]
    media_types = tuple(dict.fromkeys(name for name in types if name))
    return media_types if any(name in (*INDEXES, *MANIFESTS) for name in media_types) else ACCEPT


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end (exclusive) of a range; the whole without a range or for one that may be ignored; None: not satisfiable."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if not match or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        last = int(match[2])
        return (max(0, size - last), size) if last and size else None
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return 0, size
    return (start, end) if start < size else None


def status_phrase(status: int, message: str) -> str:
    """A reason that is valid in a status line: one short line of ASCII."""
    plain = " ".join(message.encode("ascii", "replace").decode().split())
    text = "".join(character for character in plain if character.isprintable())
    return f"{HTTPStatus(status).phrase} ({text[:300]})" if status in set(HTTPStatus) else text[:300]


# Collecting


class NamedImage(Protocol):
    """An image that a file names, with its place: ``manifests/app.yaml:12``."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...


@dataclasses.dataclass
class _Request:
    """One image to put into the set."""

    reference: Reference
    digest: str | None = None
    source: str = ""
    found_by: set[str] = dataclasses.field(default_factory=set)
    requested_by: set[str] = dataclasses.field(default_factory=set)

    @property
    def origin(self) -> str:
        return ", ".join(sorted(self.requested_by)) or "pulled by the cluster"


@dataclasses.dataclass(frozen=True)
class _ResolvedImage:
    """An image whose manifests (and config) are in the store."""

    request: _Request
    top: Manifest
    blobs: tuple[Descriptor, ...]


def collect(
    pulled: Iterable[PulledImage],
    declared: Iterable[NamedImage] = (),
    *,
    listed: Iterable[NamedImage] = (),
    store: Store,
    sources: Sequence[Source],
    platform: Platform,
) -> ImageSet:
    """Return the image set of all these images for one platform, with every blob in the store; missing ones are fetched, 4 at a time.

    An index is included whole, and of its children the one for ``platform``. Raises BuildError that lists every image that is
    not available, with its reason and where it is named. Hold ``store.shared_lease()`` until the set is written and tagged.
    """
    requests, faults = _requests(pulled, declared, listed)
    fetcher = Fetcher(sources, store)
    pool = concurrent.futures.ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="collect")
    try:
        with log.step("collect images") as step:
            resolving = {pool.submit(_resolve, fetcher, image, platform): image for image in requests}
            resolved = [
                image_or_none for image_or_none in (_outcome(future, image, faults) for future, image in resolving.items()) if image_or_none
            ]
            _raise(faults)  # before gigabytes are fetched for a set that cannot be whole
            owners = {blob.digest: (image.request, blob) for image in reversed(resolved) for blob in image.blobs}
            missing = [owner for digest, owner in sorted(owners.items()) if not store.has(digest)]
            fetching = {pool.submit(_fetch, fetcher, image.reference, blob): image for image, blob in missing}
            for done, future in enumerate(concurrent.futures.as_completed(fetching), 1):
                _outcome(future, fetching[future], faults)
                step.note = f"{done} of {len(fetching)} blobs"
            _raise(faults)
            step.note = f"{len(resolved)} images, {len(owners)} blobs, {log.size(sum(blob.size for _, blob in owners.values()))}"
    finally:
        # On Ctrl-C the threads are in the middle of a transfer: it must end before they can.
        fetcher.close()
        pool.shutdown(cancel_futures=True)
    images = tuple(sorted((_embedded(image) for image in resolved), key=lambda image: image.name))
    blobs = tuple(Blob(digest, blob.media_type, blob.size) for digest, (_, blob) in sorted(owners.items()))
    return ImageSet(images, blobs)


_Faults = dict[tuple[str, str], str]


def _requests(
    pulled: Iterable[PulledImage], declared: Iterable[NamedImage], listed: Iterable[NamedImage]
) -> tuple[list[_Request], _Faults]:
    """All images, each once, in the order of their names."""
    requests: dict[str, _Request] = {}
    faults: _Faults = {}
    for image in pulled:
        request = requests.setdefault(image.reference, _Request(Reference.parse(image.reference)))
        request.digest = image.digest or None
        request.found_by.add("pulled")
    for how, images in (("declared", declared), ("listed", listed)):
        for item in images:
            try:
                reference = Reference.parse(item.name)
            except ValueError as wrong:
                faults[item.name, item.where] = str(wrong)
                continue
            reference = as_asked(reference)
            request = requests.setdefault(str(reference), _Request(reference))
            request.found_by.add(how)
            request.requested_by.add(item.where)
    return [request for _, request in sorted(requests.items())], faults


def _raise(faults: _Faults) -> None:
    if not faults:
        return
    lines = [f"{name} ({origin}): {reason}" for (name, origin), reason in sorted(faults.items())]
    hint = "check the names, registries.conf and `slipway login`; images that you built must be in the local store"
    raise BuildError(f"{len(lines)} image{'s' if len(lines) > 1 else ''} cannot be fetched:\n  " + "\n  ".join(lines), hint=hint)


def _outcome(future: concurrent.futures.Future[_T], image: _Request, faults: _Faults) -> _T | None:
    """Result of a job; a failure is recorded for the image."""
    try:
        return future.result()
    except SlipwayError as failed:
        faults[str(image.reference), image.origin] = failed.message.removeprefix(f"{image.reference}: ")
        return None


def _resolve(fetcher: Fetcher, image: _Request, platform: Platform) -> _ResolvedImage:
    """Get the manifests of an image, from the top down to the platform's, and its config."""
    asked = image.reference if image.digest is None else dataclasses.replace(image.reference, digest=image.digest)
    chain = [fetcher.manifest(asked)]
    while chain[-1].is_index:
        if len(chain) > DEEPEST_INDEX:
            raise BuildError(f"its indexes nest more than {DEEPEST_INDEX} deep")
        child = child_for(chain[-1].data, platform)
        chain.append(fetcher.manifest(dataclasses.replace(image.reference, digest=child.digest)))
    config, *layers = descriptors(chain[-1].data)
    if config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
        _fetch(fetcher, image.reference, config)
        _check_platform(fetcher.store.json(config.digest), platform)
    manifests = [Descriptor(manifest.media_type, manifest.digest, len(manifest.data)) for manifest in chain]
    return _ResolvedImage(image, chain[0], (*manifests, config, *layers))


def _check_platform(config: Mapping[str, Any], platform: Platform) -> None:
    """Raises BuildError when an image without index is for another platform; containerd would refuse it on the node."""
    actual = Platform.from_json(config)
    if actual.os and actual.architecture and not actual.matches(platform):
        raise BuildError(f"does not exist for {platform}, only for {actual.normal()}")


def _fetch(fetcher: Fetcher, reference: Reference, blob: Descriptor) -> None:
    fetcher.blob(reference, blob.digest, blob.size).result()


def _embedded(image: _ResolvedImage) -> EmbeddedImage:
    request, top = image.request, image.top
    # Not the clients' addresses: they differ from build to build, and the digest of the image set must not.
    by, at = tuple(sorted(request.found_by)), tuple(sorted(request.requested_by))
    return EmbeddedImage(str(request.reference), top.digest, top.media_type, len(top.data), by, at)
