"""A registry that misbehaves on purpose: each path answers with what a test put there, one answer a request, the last one for ever.

Before a real registry (``upstream``) it passes on what no test asked it to spoil.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import http.client
import http.server
import json
import re
import socket
import ssl
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.oci.model import OCI_MANIFEST
from tests.integration.registry import serving
from tests.waiting import HANG

Answer = Callable[["Handler"], None]

_TLS_HANDSHAKE = b"\x16"
_BLOCK = 256 << 10


@dataclasses.dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """By lower-case name."""


class Faulty:
    """``on`` says what a path answers; ``requests`` is what came. ``host`` is ``127.0.0.1:port``."""

    def __init__(self) -> None:
        self.host = ""
        self.scheme = "http"
        self.requests: list[Request] = []
        self.ended = threading.Event()
        self.upstream = ""
        self._answers: dict[str, list[Answer]] = {}
        self._spoilt: list[tuple[str, str, list[Answer]]] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def on(self, path: str, *answers: Answer) -> None:
        with self._lock:
            self._answers[path] = list(answers)

    def spoil(self, method: str, pattern: str, *answers: Answer) -> None:
        """The next requests that match (regular expressions) get these, one each; then the upstream answers again."""
        with self._lock:
            self._spoilt.append((method, pattern, list(answers)))

    def heal(self) -> None:
        with self._lock:
            self._spoilt.clear()

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def next(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            for method, pattern, due in self._spoilt:
                if due and re.fullmatch(method, request.method) and re.search(pattern, request.path):
                    return due.pop(0)
            if self.upstream and request.path not in self._answers:
                return passed_on
            answers = self._answers.get(request.path, [status(404, "NAME_UNKNOWN", "nothing is here")])
            return answers.pop(0) if len(answers) > 1 else answers[0]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faulty: Faulty
    left = 0
    """Bytes of the request's body that were not read yet."""

    def handle(self) -> None:
        if self.faulty.scheme == "http" and self.connection.recv(1, socket.MSG_PEEK) == _TLS_HANDSHAKE:
            return  # as a server does that speaks no TLS
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        request = Request(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        self.left = int(self.headers.get("Content-Length", 0))
        self.faulty.next(request)(self)
        # What nobody wanted of the request's body would be taken for the next request.
        while self.left and not self.close_connection and self.take(_BLOCK):
            pass

    def take(self, amount: int) -> bytes:
        """More of the request's body; nothing at its end."""
        data = self.rfile.read(min(amount, self.left))
        self.left = self.left - len(data) if data else 0
        return data

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server calls it by this name

    def send(self, code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self) -> None:
        """Break the connection the hard way (RST), once all that was written has arrived."""
        while _unsent(self.connection):
            time.sleep(0.001)
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None: ...


def _unsent(connection: socket.socket) -> int:
    """Bytes that the other end has not acknowledged (SIOCOUTQ)."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def passed_on(handler: Handler) -> None:
    """What the upstream answers. It learns from Host where its clients think it is, so uploads come by here too."""
    connection = http.client.HTTPConnection(handler.faulty.upstream, timeout=HANG)
    with contextlib.closing(connection):
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        while data := handler.take(_BLOCK):
            connection.send(data)
        answer = connection.getresponse()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("date", "server", "connection"):
                handler.send_header(name, value)
        handler.end_headers()
        while data := answer.read(_BLOCK):
            handler.wfile.write(data)


def body(data: bytes, content_type: str = OCI_MANIFEST, *, code: int = 200, **headers: str) -> Answer:
    """A good answer, whatever is asked."""
    return lambda handler: handler.send(code, {"Content-Type": content_type, **_headers(headers)}, data)


def ranged(data: bytes) -> Answer:
    """A good blob; obeys ``Range: bytes=N-``."""

    def answer(handler: Handler) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if not found:
            handler.send(200, {}, data)
            return
        start = int(found[1])
        handler.send(206, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, data[start:])

    return answer


def status(code: int, error: str = "UNKNOWN", message: str = "no", **headers: str) -> Answer:
    """A refusal in the words of the distribution specification."""
    data = json.dumps({"errors": [{"code": error, "message": message}]}).encode()
    return body(data, "application/json", code=code, **headers)


def redirect(url: str) -> Answer:
    return body(b"", code=307, location=url)


def hang(handler: Handler) -> None:
    """Say nothing until the server ends."""
    handler.faulty.ended.wait(2 * HANG)
    handler.close_connection = True


def broken(data: bytes, after: int) -> Answer:
    """A blob whose connection is reset after so many bytes of the body; ranges are obeyed, and broken again."""

    def answer(handler: Handler) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(found[1]) if found else 0
        handler.send_response(206 if found else 200)
        if found:
            handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + after])
        handler.reset()

    return answer


def broken_without_ranges(data: bytes, after: int) -> Answer:
    """The same of a server that knows no ranges: it begins anew every time."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:after])
        handler.reset()

    return answer


def stalled(data: bytes, after: int) -> Answer:
    """A blob that stops after so many bytes without closing the connection."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[:after])
        hang(handler)

    return answer


def endless(handler: Handler) -> None:
    """A body without length that never ends."""
    handler.close_connection = True
    handler.send_response(200)
    handler.send_header("Content-Type", OCI_MANIFEST)
    handler.send_header("Connection", "close")
    handler.end_headers()
    piece = b'{"schemaVersion":2,' + b" " * 65536
    while not handler.faulty.ended.is_set():
        handler.wfile.write(piece)


def _headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-").title(): value for name, value in headers.items()}


@contextlib.contextmanager
def faulty(tls: ssl.SSLContext | None = None, upstream: str = "") -> Iterator[Faulty]:
    """Run one; over TLS when a context is given; before the registry ``upstream`` (``host:port``) when there is one."""
    state = Faulty()
    state.upstream = upstream
    state.scheme = "https" if tls else "http"
    handler = type("BoundHandler", (Handler,), {"faulty": state})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that go away are the point here
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        state.host = f"127.0.0.1:{port}"
        try:
            yield state
        finally:
            state.ended.set()
