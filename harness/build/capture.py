"""The capture proxy: serves the images of every registry, and records what a cluster pulls.

The containerd of a throw-away cluster sends all pulls to it (``hosts.toml`` in ``_default``, with the registry's name as ``?ns=``).
Each image is fetched once from the first source that has it, verified, kept in the store byte for byte, and recorded under the name
that was pulled. ``image_set.collect`` turns that record into the image set of a CloudImage.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Self

from harness import log
from harness.build.pull_record import PulledImage, PullRecord
from harness.build.registry_requests import accepted, byte_range, reference_of, status_phrase
from harness.errors import BuildError, SlipwayError
from harness.oci.reference import Reference
from harness.oci.registry.download import BlobContent
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.sources import Source
from harness.oci.store import Store

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<target>[^/]+)")
_CODES = frozenset(
    {"BLOB_UNKNOWN", "DENIED", "DIGEST_INVALID", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID"}
    | {"TOOMANYREQUESTS", "UNAUTHORIZED", "UNAVAILABLE", "UNSUPPORTED"}
)
"""Error codes of the distribution specification; a registry's own are not passed on."""


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
        self._server: _CaptureServer | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.store.shared_lease())
            try:
                server = _CaptureServer(self._address, self.fetcher, self.record, self._client_patience, self.secret)
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


class _CaptureServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
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
        super().__init__(address, _CaptureHandler)

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


class _CaptureHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "slipway"
    sys_version = ""
    disable_nagle_algorithm = True
    server: _CaptureServer

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
