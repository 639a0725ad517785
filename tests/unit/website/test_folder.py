"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cloudimage.site_index import SiteIndex
from harness.errors import StoreError, UsageError
from harness.website import folder


def put(target: Path, text: str) -> None:
    with folder.replacing(target) as site:
        folder.write(site, "index.json", SiteIndex(text, ()).data())
        folder.write(site, "images/a.html", text.encode())


def names(place: Path) -> list[str]:
    return [path.name for path in place.iterdir()]


def test_replacing_swaps_in_new_site_without_leftovers(tmp_path: Path) -> None:
    for text in ("one", "two"):
        put(tmp_path / "new/site", text)
        assert (tmp_path / "new/site/images/a.html").read_text() == text
    assert names(tmp_path / "new") == ["site"]
    assert (tmp_path / "new/site").stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_replacing_without_rename_exchange_swaps_in_new_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "site", "one")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    put(tmp_path / "site", "two")
    assert (tmp_path / "site/images/a.html").read_text() == "two"
    assert names(tmp_path) == ["site"]


def test_replacing_failed_block_keeps_former_site_only(tmp_path: Path) -> None:
    put(tmp_path / "site", "one")

    def fail() -> None:
        with folder.replacing(tmp_path / "site") as site:
            folder.write(site, "index.html", b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "site/images/a.html").read_text() == "one"
    assert names(tmp_path) == ["site"]


def test_replacing_removes_leftover_of_killed_process(tmp_path: Path) -> None:
    left = tmp_path / ".site.slipway-1-abc/site"
    left.mkdir(parents=True)
    put(tmp_path / "site", "one")
    assert names(tmp_path) == ["site"]


def test_replacing_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    put(tmp_path / "site", "an empty folder is taken")
    other = tmp_path / "other"
    other.mkdir()
    for name, text in (("thesis.txt", "x"), ("index.json", '{"kind": "other"}')):
        (other / name).write_text(text)
        with pytest.raises(UsageError, match="other files"):
            put(other, "one")
    assert (other / "thesis.txt").read_text() == "x"
    (tmp_path / "link").symlink_to(tmp_path / "site")
    (tmp_path / "file").write_text("")
    for name in ("link", "file", "file/below"):
        with pytest.raises((UsageError, StoreError)):
            put(tmp_path / name, "one")
