"""HTTP to one registry, with certificates, proxies and limits: one call sends one request.

What comes back is for harness.oci.registry.session to judge: nothing here signs in, follows a redirect or tries again. ``oras`` does all
three by itself, and reads and sends whole files; so it is the other client of the integration tests, and not the one here.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

import urllib3
import urllib3.connection
from urllib3.exceptions import InsecureRequestWarning

from harness.oci.registry.config import Registries
from harness.oci.registry.errors import RetryPolicy, TroubleError

_BLOCK = 256 << 10
"""Bytes of a body that are read and sent at a time."""

CONNECTIONS = 16
"""Connections to one host that are kept."""

_ONCE = urllib3.Retry(0, read=False)
"""No second try; what fails is raised as it is, or in a MaxRetryError."""


class Transport:
    """One registry. Safe for many threads."""

    def __init__(self, pool: urllib3.PoolManager, retry: RetryPolicy) -> None:
        self._stopped = threading.Event()
        # Also a thread that asks for its pool only after close() finds it stopped.
        pool_classes: Any = {
            scheme: functools.partial(kind, stopped=self._stopped, retry=retry)
            for scheme, kind in {"http": _Pool, "https": _TlsPool}.items()
        }
        pool.pool_classes_by_scheme = pool_classes
        self._pool = pool
        self._timeout = urllib3.Timeout(connect=retry.connect, read=retry.read)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes] | None = None) -> urllib3.BaseHTTPResponse:
        """Ask; the answer's body is not read yet. A body that is a file needs a Content-Length in ``headers``.

        Raises what urllib3 raises.
        """
        # Compression on the way would change the bytes whose digest is checked.
        plain = {"User-Agent": "slipway", "Accept-Encoding": "identity", **headers}
        return self._pool.urlopen(
            method, url, body=body, headers=plain, redirect=False, retries=_ONCE, timeout=self._timeout, preload_content=False,
            decode_content=False,
        )  # fmt: skip

    def close(self) -> None:
        """Drop all connections, those in use too, and open no new one."""
        self._stopped.set()
        pools = self._pool.pools
        for key in pools.keys():  # noqa: SIM118 -- it has no other way to be looked at
            connection_pool = pools.get(key)
            if isinstance(connection_pool, _Pool):
                connection_pool.abort()
        self._pool.clear()


class _Heads:
    """Reader of a response's header. http.client accepts a truncated header as a complete one with fewer fields."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def readline(self, limit: int = -1) -> bytes:
        line = self._file.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:
            raise http.client.RemoteDisconnected("the answer ended in its head")
        return line


class _Paced(io.RawIOBase):
    """Bytes from a socket, which must not only come but come at a rate. Raises TimeoutError when they do not."""

    def __init__(self, raw: io.RawIOBase, retry: RetryPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._raw, self._retry, self._clock = raw, retry, clock
        self._waited, self._bytes = 0.0, 0

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any, /) -> int | None:
        began = self._clock()
        count: int | None = self._raw.readinto(buffer)  # typeshed leaves it out
        self._waited += self._clock() - began
        self._bytes += count or 0
        if self._waited >= self._retry.rate_window:
            if self._bytes < self._retry.least_rate * self._waited:
                raise SlowError(f"only {self._bytes} bytes in {self._waited:.0f} s")
            self._waited, self._bytes = 0.0, 0
        return count

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class SlowError(OSError):
    """A registry that sends, but next to nothing."""


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *arguments: Any, retry: RetryPolicy, **settings: Any) -> None:
        super().__init__(sock, *arguments, **settings)
        self.fp = io.BufferedReader(_Paced(cast("io.RawIOBase", cast("Any", self.fp).detach()), retry))

    def begin(self) -> None:
        file = self.fp
        self.fp = cast("Any", _Heads(file))
        try:
            super().begin()
        finally:
            self.fp = file


class _Connection(urllib3.connection.HTTPConnection):
    stopped: threading.Event

    def connect(self) -> None:
        super().connect()
        _go_on(self)


class _TlsConnection(urllib3.connection.HTTPSConnection):
    stopped: threading.Event

    def connect(self) -> None:
        super().connect()
        _go_on(self)


def _go_on(connection: _Connection | _TlsConnection) -> None:
    """A connection that came about while all others were dropped is dropped too."""
    if connection.stopped.is_set():
        connection.close()
        raise ConnectionAbortedError("cancelled")


class _Pool(urllib3.HTTPConnectionPool):
    """Knows also the connections that are in use."""

    ConnectionCls: Any = _Connection

    def __init__(self, *arguments: Any, stopped: threading.Event, retry: RetryPolicy, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._retry = retry
        self._lock = threading.Lock()
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._stopped = stopped

    def _new_conn(self) -> Any:
        connection: Any = super()._new_conn()
        connection.stopped = self._stopped
        connection.response_class = functools.partial(_Answer, retry=self._retry)
        with self._lock:
            self._made.add(connection)
        return connection

    def abort(self) -> None:
        """From another thread: make every waiting send or receive fail now, and open no new connection."""
        with self._lock:
            connections = tuple(self._made)
        for connection in connections:
            if isinstance(connection.sock, socket.socket):
                with contextlib.suppress(OSError):
                    # Below TLS, which would wait for the other side.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


class _TlsPool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _TlsConnection


def pool(base: str, registries: Registries, *, insecure: bool) -> urllib3.PoolManager:
    """Connections to one host: through the proxy that the environment names, with the certificates of registries.conf.

    Raises TroubleError when a certificate file cannot be used.
    """
    parts = urllib.parse.urlsplit(base)
    settings: dict[str, Any] = {"maxsize": CONNECTIONS, "blocksize": _BLOCK}
    if parts.scheme == "https" or insecure:
        settings["ssl_context"] = _tls(parts.netloc, registries, insecure=insecure)
    return _manager(_proxy(parts), settings)


def _manager(proxy: str | None, settings: Mapping[str, Any]) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager(**settings)
    address = urllib.parse.urlsplit(proxy)
    user = f"{urllib.parse.unquote(address.username)}:{urllib.parse.unquote(address.password or '')}" if address.username else None
    bare = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
    return urllib3.ProxyManager(bare, proxy_headers=urllib3.make_headers(proxy_basic_auth=user), **settings)


def _tls(host: str, registries: Registries, *, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    certificates = registries.certificates(host)
    try:
        for authority in certificates.authorities:
            context.load_verify_locations(cafile=authority)
        for certificate, key in certificates.clients:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as broken:
        files = [*certificates.authorities, *(path for pair in certificates.clients for path in pair)]
        names = ", ".join(str(path) for path in files)
        raise TroubleError(f"its certificates here cannot be used: {broken}", hint=f"look at {names}") from broken
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        urllib3.disable_warnings(InsecureRequestWarning)  # the file asks for it
    return context


def _proxy(parts: urllib.parse.SplitResult) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for; never for this machine itself."""
    host = parts.hostname or ""
    if host == "localhost" or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme) or None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
