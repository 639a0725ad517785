"""ADD of a URL, from a real server."""

from __future__ import annotations

import hashlib
import http.server
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build import layers
from harness.errors import BuildError
from tests.integration.registry import serving

CONTENT = b"content" * 1000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("path", ["file", "moved"])
def test_download_file_with_or_without_redirect_is_verified(server: str, tmp_path: Path, path: str) -> None:
    assert layers.download(f"{server}/{path}", tmp_path / "f", DIGEST).read_bytes() == CONTENT


def test_download_wrong_digest_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"has digest {DIGEST}, not sha256:0"):
        layers.download(f"{server}/file", tmp_path / "f", f"sha256:{'0' * 64}")


def test_download_redirect_to_file_url_is_refused(server: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="the server redirects to file:///etc/passwd"):
        layers.download(f"{server}/away", tmp_path / "f")


def test_download_over_size_limit_is_refused(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "DOWNLOAD_LIMIT", 10)
    with pytest.raises(BuildError, match="the file is larger than 10 B"):
        layers.download(f"{server}/file", tmp_path / "f")
