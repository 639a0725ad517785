"""Connections to registries: which proxy and certificates they use, and answers that are cut or slow. No socket is opened."""

from __future__ import annotations

import http.client
import io
import ssl
import threading
from pathlib import Path
from typing import Any, cast

import pytest
import urllib3

from harness.oci.registry import transport
from harness.oci.registry.config import Certificates, Registries
from harness.oci.registry.errors import RetryPolicy, TroubleError
from harness.oci.registry.transport import SlowError, Transport, pool


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("base", "proxy"),
    [
        ("https://ghcr.io", "http://proxy.test:3128/"),
        ("http://ghcr.io", None),
        ("https://localhost:5000", None),
        ("https://127.0.0.1:5000", None),
        ("https://[::1]:5000", None),
        ("https://inner.example.com", None),
        ("https://10.0.0.1", "http://proxy.test:3128/"),
    ],
)
def test_pool_proxy_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, base: str, proxy: str | None) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.test:3128/")
    monkeypatch.setenv("no_proxy", "example.com")
    found = pool(base, Registries(), insecure=False).proxy
    assert (found.url if found else None) == proxy


def test_pool_login_of_the_proxy_is_sent_as_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://us%40er:pa%3Ass@proxy.test:3128")
    manager = pool("https://ghcr.io", Registries(), insecure=False)
    assert isinstance(manager, urllib3.ProxyManager)
    assert manager.proxy_headers == urllib3.make_headers(proxy_basic_auth="us@er:pa:ss")
    assert "pa" not in str(manager.proxy.url if manager.proxy else "").replace("http://proxy.test:3128/", "")


def test_pool_verifies_certificates_by_default() -> None:
    careful = pool("https://ghcr.io", Registries(), insecure=False).connection_pool_kw["ssl_context"]
    assert (careful.verify_mode, careful.check_hostname) == (ssl.CERT_REQUIRED, True)
    careless = pool("https://ghcr.io", Registries(), insecure=True).connection_pool_kw["ssl_context"]
    assert (careless.verify_mode, careless.check_hostname) == (ssl.CERT_NONE, False)
    assert "ssl_context" not in pool("http://ghcr.io", Registries(), insecure=False).connection_pool_kw


def test_pool_certificate_that_cannot_be_used_raises_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "none.pem"):
        registries = Registries(extra=Certificates((path,), ()))
        with pytest.raises(TroubleError, match="its certificates here cannot be used") as broken:
            pool("https://ghcr.io", registries, insecure=False)
        assert str(path) in str(broken.value.hint)


class _Clock:
    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def paced(data: bytes, *, seconds: float, **limits: float) -> io.BufferedReader:
    """A body of which each read takes so many seconds."""
    settings: dict[str, Any] = {"rate_window": 60.0, "least_rate": 100.0, **limits}
    raw = transport._Paced(cast("io.RawIOBase", io.BytesIO(data)), RetryPolicy(**settings), _Clock(seconds))
    return io.BufferedReader(raw, 10)


def test_paced_body_that_comes_fast_enough_is_read() -> None:
    assert paced(bytes(1000), seconds=0.01).read() == bytes(1000)


def test_paced_body_that_trickles_raises() -> None:
    body = paced(bytes(1000), seconds=7)
    with pytest.raises(SlowError, match=r"only \d+ bytes in 63 s"):
        list(iter(lambda: body.read(10), b""))


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Len", b"HTTP/1.1 200 OK\r\nDocker-Content-Digest: sha256:0", b"HTTP"])
def test_heads_cut_header_is_not_taken_for_a_whole_one(head: bytes) -> None:
    file = transport._Heads(io.BytesIO(head))
    with pytest.raises(http.client.RemoteDisconnected, match="ended in its head"):
        list(iter(lambda: file.readline(65537), b""))


def test_heads_whole_header_is_read_line_by_line() -> None:
    file = transport._Heads(io.BytesIO(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert [file.readline(65537), file.readline(65537)] == [b"HTTP/1.1 200 OK\r\n", b"\r\n"]


def test_transport_sends_once_and_asks_for_bytes_as_they_are() -> None:
    class Manager(urllib3.PoolManager):
        asked: dict[str, Any]

        def urlopen(self, method: str, url: str, **settings: Any) -> Any:  # type: ignore[override]
            self.asked = {"method": method, "url": url, **settings}
            return "answer"

    manager = Manager()
    found: Any = Transport(manager, RetryPolicy(connect=3, read=5)).send("GET", "https://ghcr.io/v2/", {"Accept": "x"})
    assert found == "answer"
    asked = manager.asked
    assert asked["headers"] == {"User-Agent": "slipway", "Accept-Encoding": "identity", "Accept": "x"}
    assert (asked["redirect"], asked["preload_content"], asked["decode_content"]) == (False, False, False)
    assert asked["retries"].total == 0
    assert (asked["timeout"].connect_timeout, asked["timeout"].read_timeout) == (3, 5)


def test_transport_closed_lets_no_connection_come_about(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = urllib3.PoolManager()
    there = Transport(manager, RetryPolicy())
    connection = manager.connection_from_url("https://ghcr.io")._new_conn()
    there.close()
    closed = threading.Event()
    monkeypatch.setattr(urllib3.connection.HTTPSConnection, "connect", lambda _: None)
    monkeypatch.setattr(urllib3.connection.HTTPSConnection, "close", lambda _: closed.set())
    with pytest.raises(ConnectionAbortedError, match="cancelled"):
        connection.connect()
    assert closed.is_set()
