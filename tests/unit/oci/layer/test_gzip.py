"""gzip streams: the same bytes on any machine, read in pieces, and damaged ones noticed."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import zlib

import pytest

from harness.oci.layer.gzip import GzipReader, GzipWriter

TEXT = b"".join(f"line {number} of a text\n".encode() for number in range(200_000))


def packed(*pieces: bytes) -> bytes:
    parts: list[bytes] = []
    with GzipWriter(parts.append) as writer:
        for piece in pieces:
            assert writer.write(piece) == len(piece)
    return b"".join(parts)


def unpacked(data: bytes, size: int = 1 << 20) -> bytes:
    reader = GzipReader(io.BytesIO(data))
    parts = list(iter(lambda: reader.read(size), b""))
    assert all(len(part) <= size for part in parts)
    return b"".join(parts)


@pytest.mark.parametrize("data", [b"", b"x", TEXT, os.urandom(1 << 20), bytes(3 << 20)], ids=["empty", "byte", "text", "random", "zeros"])
def test_writer_makes_what_gzip_reads(data: bytes) -> None:
    stream = packed(data)
    assert gzip.decompress(stream) == data
    assert unpacked(stream) == data


def test_writer_bytes_depend_neither_on_pieces_nor_on_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed(TEXT)
    assert packed(*(TEXT[start : start + 70_001] for start in range(0, len(TEXT), 70_001))) == whole
    for count in (1, 3, None):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert packed(TEXT) == whole
    # No time and no name.
    assert whole[:10] == b"\x1f\x8b\x08" + bytes(6) + b"\xff"


def test_writer_failure_ends_no_stream() -> None:
    parts: list[bytes] = []
    with contextlib.suppress(ValueError), GzipWriter(parts.append) as writer:
        writer.write(b"data")
        raise ValueError("the source failed")
    with pytest.raises(EOFError):
        unpacked(b"".join(parts))


def test_reader_takes_several_members_and_padding() -> None:
    stream = gzip.compress(b"one ") + packed(b"two ") + gzip.compress(b"three")
    assert unpacked(stream) == b"one two three"
    assert unpacked(stream + bytes(1000)) == b"one two three"
    assert unpacked(stream, 3) == b"one two three"


@pytest.mark.parametrize("length", [0, 5, 10, 500, -1, -8])
def test_reader_cut_stream_raises(length: int) -> None:
    with pytest.raises(EOFError, match="ends too early"):
        unpacked(packed(TEXT)[:length])


def test_reader_damaged_stream_raises() -> None:
    stream = bytearray(packed(TEXT))
    stream[-8] ^= 1
    with pytest.raises(zlib.error):
        unpacked(bytes(stream))
    with pytest.raises(zlib.error):
        unpacked(gzip.compress(b"one") + b"garbage")
