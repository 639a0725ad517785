"""Blobs from a registry, over connections that break. The registry is a stand-in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import pytest
import urllib3

from harness.oci.model import digest_of
from harness.oci.reference import Reference
from harness.oci.registry.blob_stream import BlobStream, body_range
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError, TroubleError
from tests.unit.oci.standin import HOST, Asked, Registry, Spoilt, answer

DATA = bytes(range(256)) * 1000
DIGEST = digest_of(DATA)
IMAGE = Reference.parse(f"{HOST}/team/web:1")


@pytest.fixture
def registry() -> Registry:
    registry = Registry()
    registry.blobs["team/web", DIGEST] = DATA
    return registry


class _Breaking:
    """The body of a response whose connection ends after some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, amount: int = -1) -> bytes:
        if not self._data:
            raise ConnectionResetError("reset by peer")
        piece, self._data = self._data[:amount], self._data[amount:]
        return piece


def breaks(after: int) -> Spoilt:
    """A response of which ``after`` bytes arrive."""

    def spoilt(asked: Asked) -> urllib3.BaseHTTPResponse:
        start = int(asked.headers.get("Range", "bytes=0-")[6:-1])
        headers = {"Content-Length": str(len(DATA) - start), "Content-Range": f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"}
        body: Any = _Breaking(DATA[start : start + after])
        return urllib3.HTTPResponse(body, headers, 206 if start else 200, preload_content=False)

    return spoilt


def read(stream: BlobStream) -> bytes:
    data = b"".join(iter(lambda: stream.read(1 << 20), b""))
    stream.close()
    return data


def test_blob_is_read_from_its_begin_or_from_a_byte_on(registry: Registry, remote: Client) -> None:
    assert read(remote.blob(IMAGE, DIGEST, len(DATA))) == DATA
    assert read(remote.blob(IMAGE, DIGEST)) == DATA
    stream = remote.blob(IMAGE, DIGEST, len(DATA), start=1000)
    assert stream.source == HOST
    assert read(stream) == DATA[1000:]
    assert registry.asked[-1].headers["Range"] == "bytes=1000-"


def test_blob_resumes_where_the_connection_broke(registry: Registry, remote: Client) -> None:
    registry.spoil("GET", "/blobs/", breaks(100_000), breaks(50_000))
    assert read(remote.blob(IMAGE, DIGEST, len(DATA))) == DATA
    assert [asked.headers.get("Range") for asked in registry.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_blob_registry_without_ranges_starts_again_unseen(registry: Registry, remote: Client) -> None:
    registry.spoil("GET", "/blobs/", breaks(100_000), lambda _: answer(200, DATA))
    assert read(remote.blob(IMAGE, DIGEST, len(DATA))) == DATA


def test_blob_that_makes_no_progress_raises(registry: Registry, remote: Client) -> None:
    registry.spoil("GET", "/blobs/", *[breaks(0)] * 20)
    with pytest.raises(RemoteError, match=f"blob {DIGEST} broke 4 times at about byte 0"):
        read(remote.blob(IMAGE, DIGEST, len(DATA)))


def test_blob_longer_than_its_manifest_says_raises(registry: Registry, remote: Client) -> None:
    with pytest.raises(RemoteError, match=f"has {len(DATA)} bytes there, not 7"):
        remote.blob(IMAGE, DIGEST, 7)
    registry.spoil("GET", "/blobs/", lambda _: urllib3.HTTPResponse(io.BytesIO(DATA), {}, 200, preload_content=False))
    stream = remote.blob(IMAGE, DIGEST, 1000)
    with pytest.raises(RemoteError, match="is longer than the 1000 bytes it should have"):
        read(stream)


def test_blob_aborted_read_raises(registry: Registry, remote: Client) -> None:
    registry.spoil("GET", "/blobs/", breaks(100))
    stream = remote.blob(IMAGE, DIGEST, len(DATA))
    assert stream.read(100) == DATA[:100]
    stream.abort()
    with pytest.raises(RemoteError, match="was stopped"):
        stream.read(100)


@pytest.mark.parametrize("header", ["", "bytes */5", "bytes 1-x/5"])
def test_body_range_partial_response_without_its_range_raises(header: str) -> None:
    headers: Mapping[str, str] = {"Content-Range": header}
    with pytest.raises(TroubleError, match="a range without saying which"):
        body_range(206, headers)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"Content-Length": "10"}, (0, 10)),
        (200, {}, (0, None)),
        (206, {"Content-Range": "bytes 4-9/10"}, (4, 10)),
        (206, {"Content-Range": "bytes 4-9/*"}, (4, None)),
    ],
)
def test_body_range_full_or_partial_response_gives_start_and_size(
    status: int, headers: dict[str, str], expected: tuple[int, int | None]
) -> None:
    assert body_range(status, headers) == expected
