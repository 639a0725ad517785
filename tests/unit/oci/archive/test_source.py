"""An archive as a stream: what it may be, and how much it may become."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import BinaryIO

import pytest

from harness.errors import StoreError
from harness.oci.archive.source import blob_of, opened, read_index, safe_name
from harness.oci.archive.volumes import DamagedError
from harness.oci.layer import compression
from tests.unit.oci.layouts import member, packed

FILES = {"oci-layout": b"{}", "blobs/sha256/" + "a" * 64: b"x" * 1000}


def names(archive: Path | BinaryIO, *, declared: int = 0) -> list[str]:
    """Read an archive to its end; the names of its entries, each of which must be safe."""
    with opened(archive) as source:
        source.declared = declared
        found = []
        for entry in source.tar:
            found.append(safe_name(entry))
            while source.tar.read(1 << 20):
                pass
        return found


def test_opened_file_and_stream_give_the_same_entries(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(packed(FILES).getvalue())
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(packed(FILES).getvalue()))
    for place in (tmp_path / "a.tar", tmp_path / "a.tar.gz", packed(FILES)):
        with opened(place) as source:
            assert source.size == (place.stat().st_size if isinstance(place, Path) else 0)
            assert {entry.name: b"".join(iter(source.tar.read, b"")) for entry in source.tar} == FILES


def test_opened_file_that_is_not_archive_raises_error_with_path(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "xz").write_bytes(b"\xfd7zXZ\x00" + bytes(600))
    (tmp_path / "text").write_bytes(b"not a tar " * 100)
    for name, reason in (("empty", "is empty"), ("xz", "is compressed with xz"), ("text", "is not a readable OCI archive")):
        with pytest.raises(StoreError, match=f"{tmp_path / name} {reason}"):
            names(tmp_path / name)


def test_source_read_beyond_declared_size_raises_damaged_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "RATIO", 1)
    monkeypatch.setattr(compression, "SLACK", 1 << 20)
    content = bytes(compression.SLACK + (1 << 20))
    bomb = gzip.compress(packed({"a": content}).getvalue())
    with pytest.raises(DamagedError, match="of which no manifest speaks"):
        names(io.BytesIO(bomb))
    assert names(io.BytesIO(bomb), declared=len(content)) == ["a"]


@pytest.mark.parametrize(
    "entry",
    [
        member("blobs/x", tarfile.SYMTYPE, "/etc/passwd"),
        member("blobs/x", tarfile.LNKTYPE, "y"),
        member("dev", tarfile.CHRTYPE),
        member("/etc/x", tarfile.DIRTYPE),
        member("blobs/../../x", tarfile.DIRTYPE),
    ],
)
def test_safe_name_entry_that_reaches_out_raises(entry: tarfile.TarInfo) -> None:
    with pytest.raises(DamagedError, match="the archive is refused: its entry"):
        names(packed({}, entry))


def test_blob_of_reads_the_digest_of_a_name() -> None:
    assert blob_of("blobs/sha256/" + "a" * 64) == "sha256:" + "a" * 64
    for name in ("blobs/sha256/" + "a" * 63, "blobs/sha512/" + "a" * 64, "index.json", "x/blobs/sha256/" + "a" * 64):
        assert blob_of(name) is None


def test_read_index_over_the_limit_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.oci.archive.index.LARGEST", 10)
    with opened(packed({"index.json": bytes(11)})) as source:
        entry = next(iter(source.tar))
        with pytest.raises(DamagedError, match=r"its index\.json has"):
            read_index(source, entry)
