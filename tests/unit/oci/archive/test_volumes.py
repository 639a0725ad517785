from __future__ import annotations

import fcntl
import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import StoreError, UsageError
from harness.oci.archive import volumes
from harness.oci.archive.save import save
from harness.oci.layer.compression import Compression
from harness.oci.model import digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import load, put_index, put_manifest

LAYERS = (os.urandom(150_000), os.urandom(90_000), b"small")
LIMIT = 50_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.tag("web:1", put_index(store, put_manifest(store, *LAYERS)))
    return store


@pytest.fixture
def stick(tmp_path: Path, store: Store) -> Path:
    """A folder with the volumes ``web.tar.001`` to ``web.tar.005`` and their sums."""
    folder = tmp_path / "stick"
    folder.mkdir()
    save(store, ["web:1"], folder / "web.tar", volume_size=LIMIT)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


NUMBERED = [f"web.tar.{number:03d}" for number in range(1, 6)]


def test_save_volumes_concatenate_to_plain_archive(store: Store, stick: Path, tmp_path: Path) -> None:
    assert names(stick) == [*NUMBERED, "web.tar.sums"]
    assert [(stick / name).stat().st_size for name in NUMBERED[:-1]] == [LIMIT] * 4
    save(store, ["web:1"], tmp_path / "web.tar")
    assert b"".join((stick / name).read_bytes() for name in NUMBERED) == (tmp_path / "web.tar").read_bytes()


def test_save_volume_sums_have_sha256sum_format(stick: Path) -> None:
    comment, *lines = (stick / "web.tar.sums").read_text().splitlines()
    assert comment.startswith("# ")
    assert lines == [f"{hashlib.sha256((stick / name).read_bytes()).hexdigest()}  {name}" for name in NUMBERED]


@pytest.mark.parametrize("given", ["web.tar.001", "web.tar"])
@pytest.mark.parametrize("with_sums", [True, False])
def test_load_volumes_by_first_file_or_base_name_restores_images(
    store: Store, other: Store, stick: Path, given: str, with_sums: bool
) -> None:
    if not with_sums:
        (stick / "web.tar.sums").unlink()
    assert load(other, stick / given).names == store.names()


@pytest.mark.parametrize("compress", ["gzip", "zstd"])
def test_save_and_load_compressed_renamed_volumes_restore_images(
    store: Store, other: Store, stick: Path, tmp_path: Path, compress: Compression
) -> None:
    saved = save(store, ["web:1"], stick / "web.tar", volume_size=100_000, compress=compress)
    assert [path.name for path in saved.files] == NUMBERED[:3]
    assert names(stick) == [*NUMBERED[:3], "web.tar.sums"], "volumes of the archive before are gone"
    for name in names(stick):
        (stick / name).rename(stick / name.replace("web.tar", "to[the].customer"))
    assert load(other, stick / "to[the].customer").names == store.names()


def test_save_archive_below_volume_size_writes_one_volume(store: Store, other: Store, stick: Path) -> None:
    save(store, ["web:1"], stick / "web.tar", volume_size=1_000_000)
    assert names(stick) == ["web.tar.001", "web.tar.sums"]
    assert load(other, stick / "web.tar").names == store.names()


def remove(*numbers: int) -> Callable[[Path], None]:
    def change(stick: Path) -> None:
        for number in numbers:
            (stick / f"web.tar.{number:03d}").unlink()

    return change


def cut(number: int, by: int) -> Callable[[Path], None]:
    def change(stick: Path) -> None:
        path = stick / f"web.tar.{number:03d}"
        path.write_bytes(path.read_bytes()[:-by])

    return change


def flip(number: int, place: int = 25_000) -> Callable[[Path], None]:
    def change(stick: Path) -> None:
        data = bytearray((stick / f"web.tar.{number:03d}").read_bytes())
        data[place] ^= 1
        (stick / f"web.tar.{number:03d}").write_bytes(data)

    return change


def swap(stick: Path) -> None:
    (stick / "web.tar.002").rename(stick / "x")
    (stick / "web.tar.003").rename(stick / "web.tar.002")
    (stick / "x").rename(stick / "web.tar.003")


def from_elsewhere(stick: Path) -> None:
    (stick / "web.tar.004").write_bytes(os.urandom(LIMIT))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (remove(2), r"missing of 5 volumes: web\.tar\.002"),
        (remove(1), r"missing of 5 volumes: web\.tar\.001"),
        (remove(5), r"missing of 5 volumes: web\.tar\.005"),
        (remove(2, 4), r"web\.tar\.002, web\.tar\.004"),
        (cut(3, 1), r"web\.tar\.003 is cut: it has 49999 bytes instead of 50000"),
        (cut(5, 600), r"web\.tar\.005 is cut"),
        (flip(1), r"web\.tar\.001 is damaged"),
        (flip(4), r"web\.tar\.004 is damaged"),
        (flip(5, -1), r"web\.tar\.005 is damaged"),
        (swap, r"mixed up: web\.tar\.002 holds what web\.tar\.003 should"),
        (from_elsewhere, r"web\.tar\.004 is damaged, or not of this archive"),
    ],
    ids=["one gone", "first gone", "last gone", "two gone", "cut", "last cut", "bit in 1", "bit in 4", "bit in 5", "swapped", "foreign"],
)
@pytest.mark.parametrize("given", ["web.tar.001", "web.tar"])
def test_load_faulty_volume_is_named_and_sets_no_names(
    other: Store, stick: Path, change: Callable[[Path], None], why: str, given: str
) -> None:
    change(stick)
    with pytest.raises(StoreError, match=why):
        load(other, stick / given)
    assert not other.names()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (remove(2), r"missing: web\.tar\.002"),
        (remove(5), r"too early.*read up to web\.tar\.004"),
        (cut(3, 512), r"read up to web\.tar\.00"),
        (swap, r"read up to web\.tar\.00"),
        (flip(2), r"read up to web\.tar\.00"),
    ],
    ids=["one gone", "last gone", "cut", "swapped", "a bit"],
)
def test_load_faulty_volumes_without_sums_reports_place_and_sets_no_names(
    other: Store, stick: Path, change: Callable[[Path], None], why: str
) -> None:
    (stick / "web.tar.sums").unlink()
    change(stick)
    with pytest.raises(StoreError, match=why):
        load(other, stick / "web.tar")
    assert not other.names()


def test_load_later_volume_is_refused_with_first_volume_hint(other: Store, stick: Path) -> None:
    with pytest.raises(UsageError, match=r"volume 2 of web\.tar.*\n.*web\.tar\.001"):
        load(other, stick / "web.tar.002")


@pytest.mark.parametrize("again", ["removed", "saved again"])
def test_load_damaged_sums_are_refused_until_removed_or_saved_again(store: Store, other: Store, stick: Path, again: str) -> None:
    sums = stick / "web.tar.sums"
    good = sums.read_text()
    for text in ("", "nonsense\n", good.replace("web.tar.003", "web.tar.004"), good[:200]):
        sums.write_text(text)
        with pytest.raises(StoreError, match=r"web\.tar\.sums is damaged") as caught:
            load(other, stick / "web.tar")
        assert "without it the volumes can be loaded too" in str(caught.value.hint)
        assert not other.names()
    if again == "removed":
        sums.unlink()
    else:
        save(store, ["web:1"], stick / "web.tar", volume_size=LIMIT)
        assert sums.read_text() == good
    assert load(other, stick / "web.tar").names == store.names()


def test_load_file_with_numeric_suffix_is_not_taken_for_volume(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "release.123")
    assert load(other, tmp_path / "release.123").names == store.names()


def test_save_failure_keeps_previous_volumes(store: Store, other: Store, stick: Path) -> None:
    before = {path: path.read_bytes() for path in stick.iterdir()}
    good = store.path(digest_of(LAYERS[1])).read_bytes()
    store.path(digest_of(LAYERS[1])).write_bytes(good[:-1] + b"X")
    with pytest.raises(StoreError, match="damaged"):
        save(store, ["web:1"], stick / "web.tar", volume_size=LIMIT // 2)
    assert {path: path.read_bytes() for path in stick.iterdir()} == before


@pytest.mark.parametrize("compress", ["none", "gzip"])
def test_save_more_than_999_volumes_is_refused_and_leaves_no_file(compress: Compression, store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"more than 999 volumes of 10 B.*\n.*larger --volume-size"):
        save(store, ["web:1"], tmp_path / "web.tar", volume_size=10, compress=compress)
    assert not list(tmp_path.glob("*web.tar*"))


def test_save_more_than_999_volumes_is_refused_before_writing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(volumes.VolumeWriter, "write")
    with pytest.raises(UsageError, match="more than 999 volumes"):
        save(store, ["web:1"], tmp_path / "web.tar", volume_size=100)


@pytest.mark.parametrize("volume_size", [None, LIMIT])
def test_save_overwrites_partial_file_of_killed_save(store: Store, other: Store, stick: Path, volume_size: int | None) -> None:
    for left in (".new.tar.partial", ".new.tar.001.partial"):
        (stick / left).write_bytes(b"left by somebody" * 10_000)
    save(store, ["web:1"], stick / "new.tar", volume_size=volume_size)
    assert load(other, stick / "new.tar").names == store.names()
    assert [name for name in names(stick) if name.startswith(".")] == ([".new.tar.001.partial"] if volume_size is None else [])


@pytest.mark.parametrize("volume_size", [None, LIMIT])
def test_save_to_file_locked_by_another_process_is_refused(store: Store, tmp_path: Path, volume_size: int | None) -> None:
    with (tmp_path / ".web.tar.partial").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"web\.tar is being written by another process"):
            save(store, ["web:1"], tmp_path / "web.tar", volume_size=volume_size)
    save(store, ["web:1"], tmp_path / "web.tar", volume_size=volume_size)


def test_save_link_in_place_of_partial_file_is_refused_and_target_kept(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"mine")
    (tmp_path / ".web.tar.partial").symlink_to("precious")
    with pytest.raises(StoreError, match=re.escape(str(tmp_path / "web.tar"))):
        save(store, ["web:1"], tmp_path / "web.tar")
    assert (tmp_path / "precious").read_bytes() == b"mine"


def test_save_to_stream_reports_no_files(store: Store) -> None:
    stream = io.BytesIO()
    assert save(store, ["web:1"], stream).files == ()
