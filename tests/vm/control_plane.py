"""Stand-ins for control-plane nodes: servers that speak TLS as an API server and a registry do, on addresses of their own, and may die."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import process
from harness.runtimes import API_PORT, REGISTRY_PORT
from harness.runtimes.pki import Authority


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/hold":
            self.send_response(200)
            self.end_headers()
            self.wfile.flush()
            self.server.held.append(self.client_address[0])
            self.server.ended.wait()
            return
        body = f"{self.server.server_address[0]!s} {self.client_address[0]}\n".encode()
        self.send_response(200 if self.path in ("/readyz", "/", "/who") else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: str, port: int, context: ssl.SSLContext) -> None:
        self.held: list[str] = []
        self.ended = threading.Event()
        super().__init__((address, port), _Handler)
        # Each connection shakes hands in its own thread.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *_: Any) -> None:
        """Somebody hung up: here that is the test."""


class ControlPlaneNode:
    """Serves API and images on one address, which lies on our end of a machine's wire."""

    def __init__(self, address: str, link: str, context: ssl.SSLContext) -> None:
        self.address, self._link, self._context = address, link, context
        self._servers: list[_Server] = []

    def start(self) -> None:
        for port in (API_PORT, REGISTRY_PORT):
            server = _Server(self.address, port, self._context)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self._servers.append(server)

    def stop(self) -> None:
        """Its servers end: who connects is refused."""
        for server in self._servers:
            server.ended.set()
            server.shutdown()
            server.server_close()
        self._servers = []

    @property
    def held(self) -> int:
        """Connections that wait for an end."""
        return sum(len(server.held) for server in self._servers)

    def appear(self) -> None:
        process.run(["ip", "addr", "add", f"{self.address}/32", "dev", self._link])

    def vanish(self) -> None:
        """The whole machine is gone: nobody answers, not even with a refusal."""
        process.run(["ip", "addr", "del", f"{self.address}/32", "dev", self._link])


@contextlib.contextmanager
def serving(folder: Path, link: str, addresses: tuple[str, ...], authority: Authority, virtual_ip: str) -> Iterator[list[ControlPlaneNode]]:
    """Control-plane nodes at work, with certificates of ``authority`` that hold for all of them and for the virtual address."""
    pair = authority.issue("kube-apiserver", hosts=(*addresses, virtual_ip), server=True)
    (folder / "server.pem").write_bytes(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    control_plane = [ControlPlaneNode(address, link, context) for address in addresses]
    try:
        for node in control_plane:
            node.appear()
            node.start()
        yield control_plane
    finally:
        for node in control_plane:
            node.stop()
