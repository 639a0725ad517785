"""Standard input of commands: its bytes are counted, and a writer ends with its reader."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import pytest

from harness.nodes import Input
from harness.nodes.standard_input import opened


def read(source: Input) -> tuple[bytes | str | None, int]:
    """All that a command would read, and the count of its bytes."""
    counts: list[int] = []
    with opened(source, counts.append) as stream:
        data = stream if stream is None or isinstance(stream, str | bytes) else stream.read()
    return data, sum(counts)


def test_opened_text_and_bytes_are_handed_on() -> None:
    assert read("text") == ("text", 4)
    assert read(b"bytes") == (b"bytes", 5)
    assert read(None) == (None, 0)


def test_opened_file_counts_what_is_left_of_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        file.seek(4)
        assert read(file) == (b"456789", 6)


def test_opened_stream_without_a_size_is_not_counted() -> None:
    assert read(io.BytesIO(b"data")) == (b"data", 0)


def test_opened_writer_is_read_to_its_end() -> None:
    def write(stream: BinaryIO) -> None:
        stream.writelines(b"x" * 100_000 for _ in range(20))

    assert read(write) == (b"x" * 2_000_000, 2_000_000)


def test_opened_writer_that_fails_raises() -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"begun")
        raise ValueError("the source is gone")

    with pytest.raises(ValueError, match="the source is gone"):
        read(write)


def test_opened_writer_ends_when_its_reader_stops() -> None:
    written: list[int] = []

    def write(stream: BinaryIO) -> None:
        for _ in range(1000):
            stream.write(b"x" * 100_000)
            written.append(1)

    with opened(write, lambda _: None) as stream:
        assert stream is not None
        assert not isinstance(stream, str | bytes)
        stream.read(10)
    assert len(written) < 1000
