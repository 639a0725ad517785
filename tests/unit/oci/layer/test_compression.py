from __future__ import annotations

import gzip
import io
import os
import random

import pytest
import zstandard

from harness.oci.layer.compression import BROKEN, Compression, ZstdReader, compression_of, reader, writer

DATA = os.urandom(300_000) + b"a" * 3_000_000 + os.urandom(1000) + b"hello " * 100_000


def packed(data: bytes, how: Compression) -> bytes:
    result = bytearray()
    with writer(result.extend, how) as file:
        for start in range(0, len(data), 70_000):
            file.write(data[start : start + 70_000])
    return bytes(result)


def content(data: bytes, how: Compression = "zstd", size: int = 50_000) -> bytes:
    file = reader(io.BytesIO(data), how)
    return b"".join(iter(lambda: file.read(size), b""))


@pytest.mark.parametrize("how", ["none", "gzip", "zstd"])
def test_writer_output_is_detected_and_restored_by_reader(how: Compression) -> None:
    assert compression_of(packed(DATA, how)[:4]) == how
    assert content(packed(DATA, how), how) == DATA
    assert packed(DATA, how) == packed(DATA, how)


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_writer_output_is_independent_of_processor_count(how: Compression, monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for count in (1, 2, 7, 100, None):
        monkeypatch.setattr("os.cpu_count", lambda count=count: count)
        found.add(packed(DATA * 2, how))
    assert len(found) == 1


def test_writer_output_is_readable_by_gzip_and_zstandard() -> None:
    assert gzip.decompress(packed(DATA, "gzip")) == DATA
    assert zstandard.ZstdDecompressor().decompressobj().decompress(packed(DATA, "zstd")) == DATA


FRAMES = {
    "level 19": zstandard.ZstdCompressor(level=19).compress(DATA),
    "with checksum": zstandard.ZstdCompressor(write_checksum=True).compress(DATA),
    "no content size": zstandard.ZstdCompressor(write_content_size=False).compress(DATA),
    "small": zstandard.compress(b"abc"),
    "empty": zstandard.compress(b""),
    "skippable": (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"12345" + zstandard.compress(b"abc"),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_reader_zstd_frames_are_read_alone_and_concatenated(frame: bytes) -> None:
    once = content(frame)
    assert once in (DATA, b"abc", b"")
    assert content(frame + FRAMES["small"] + frame + bytes(100)) == once + b"abc" + once


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_reader_truncated_zstd_frame_raises_eof_error(frame: bytes) -> None:
    lengths = {1, len(frame) - 1, *random.Random(2).choices(range(1, len(frame)), k=30)} - {13 if frame == FRAMES["skippable"] else 0}
    for length in lengths:
        with pytest.raises(EOFError):
            content(frame[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
        FRAMES["small"] + b"tail",
        b"text",
        FRAMES["with checksum"][:-1] + bytes([FRAMES["with checksum"][-1] ^ 1]),
    ],
)
def test_reader_damaged_zstd_stream_raises_declared_errors(data: bytes) -> None:
    with pytest.raises(BROKEN):
        content(data)


def test_zstd_reader_bomb_is_returned_in_bounded_pieces() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(200 << 20))
    assert len(bomb) < 10_000
    file = ZstdReader(io.BytesIO(bomb))
    sizes = [len(piece) for piece in iter(lambda: file.read(10 << 20), b"")]
    assert sum(sizes) == 200 << 20
    assert max(sizes) <= 128 << 10


def test_reader_zstd_window_over_memory_limit_is_refused() -> None:
    greedy = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=30)).compressobj()
    with pytest.raises(zstandard.ZstdError, match="memory"):
        content(greedy.compress(DATA) + greedy.flush())
