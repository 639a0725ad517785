"""Tar files from a build context: every compression is read, and none takes more than its size allows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.layer import compression
from harness.oci.layer.tarball import extract, is_tarball, open_tarball

COMPRESSIONS: list[Callable[[bytes], bytes]] = [bytes, gzip.compress, bz2.compress, lzma.compress]


def packed(*members: tuple[str, bytes, int, bytes | str]) -> bytes:
    """A tar of (name, type, mode, content or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, mode, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            if isinstance(content, str):
                info.linkname = content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "a.tar"


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_extract_every_compression_restores_files_and_modes(tmp_path: Path, archive: Path, compress: Callable[[bytes], bytes]) -> None:
    archive.write_bytes(compress(packed(("d/file", tarfile.REGTYPE, 0o6777, b"x" * 300_000), ("/d/abs", tarfile.REGTYPE, 0o600, b"1"))))
    assert is_tarball(archive)
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out/d/file").read_bytes() == b"x" * 300_000
    assert (tmp_path / "out/d/file").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out/d/abs").stat().st_mode & 0o7777 == 0o600


def test_extract_multi_stream_xz_restores_file(tmp_path: Path, archive: Path) -> None:
    tar = packed(("file", tarfile.REGTYPE, 0o644, b"x" * 5000))
    archive.write_bytes(lzma.compress(tar[:1000]) + bytes(8) + lzma.compress(tar[1000:]))
    (tmp_path / "out").mkdir()
    extract(archive, tmp_path / "out")
    assert (tmp_path / "out/file").read_bytes() == b"x" * 5000


@pytest.mark.parametrize(
    "member",
    [
        ("../x", tarfile.REGTYPE, 0o644, b""),
        ("x", tarfile.SYMTYPE, 0o777, "../../x"),
        ("x", tarfile.CHRTYPE, 0o644, ""),
        ("d/.wh.x", tarfile.REGTYPE, 0o644, b""),
    ],
)
def test_extract_entry_that_reaches_out_is_refused(tmp_path: Path, archive: Path, member: tuple[str, bytes, int, bytes | str]) -> None:
    archive.write_bytes(packed(member))
    (tmp_path / "out").mkdir()
    with pytest.raises(StoreError, match=r"a\.tar"):
        extract(archive, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]


@pytest.mark.parametrize("compress", COMPRESSIONS[1:])
def test_open_tarball_keeps_a_ceiling(archive: Path, monkeypatch: pytest.MonkeyPatch, compress: Callable[[bytes], bytes]) -> None:
    monkeypatch.setattr(compression, "SLACK", 0)
    archive.write_bytes(compress(packed(("zeros", tarfile.REGTYPE, 0o644, bytes(8 << 20)))))
    with pytest.raises(StoreError, match="is larger than"), open_tarball(archive) as tar:
        for _ in tar:
            pass


@pytest.mark.parametrize("data", [b"text", gzip.compress(b"text", mtime=0), b"BZh9 no", b"\xfd7zXZ\0 no", b"\xfd7zXZ\0", bytes(100)])
def test_is_tarball_other_data_returns_false(archive: Path, data: bytes) -> None:
    archive.write_bytes(data)
    assert not is_tarball(archive)


def test_is_tarball_empty_file_returns_true(archive: Path) -> None:
    # A tar without entries and without end mark; a build takes an empty file for a file (kubefile.context).
    archive.write_bytes(b"")
    assert is_tarball(archive)


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_is_tarball_huge_header_returns_false(archive: Path, compress: Callable[[bytes], bytes]) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 300 << 20
    archive.write_bytes(compress(info.tobuf()))
    assert not is_tarball(archive)
