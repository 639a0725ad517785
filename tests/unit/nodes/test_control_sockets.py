"""Folders for control sockets: short, of this user only, and gone with the process that held them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.nodes import control_sockets


@pytest.fixture(autouse=True)
def runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short path, as XDG_RUNTIME_DIR is: a longer one is not used."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    return tmp_path / "run"


def test_held_removes_folders_whose_owner_has_ended(runtime_folder: Path) -> None:
    first = control_sockets.held()
    first.path.joinpath("config").touch()
    abandoned = runtime_folder / "slipway/9-abcdef"
    abandoned.mkdir()
    second = control_sockets.held()
    assert first.path != second.path
    assert first.path.exists()
    assert not abandoned.exists()
    for folder in (first, second):
        folder.remove()
        assert not folder.path.exists()


def test_lasting_gives_one_folder_for_one_name() -> None:
    folder = control_sockets.lasting("0a1b2c3d")
    assert control_sockets.lasting("0a1b2c3d") == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_held_removes_lasting_folder_whose_cluster_folder_is_gone(runtime_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    kept, unlinked = control_sockets.lasting("0a1b2c3d", tmp_path / "clusters"), control_sockets.lasting("11111111")
    gone = control_sockets.lasting("22222222", tmp_path / "gone")
    (gone / "socket").touch()
    control_sockets.held().remove()
    assert kept.exists()
    assert unlinked.exists()
    assert not gone.exists()
    assert (tmp_path / "clusters").exists()
    assert not list((runtime_folder / "slipway").glob("*-*"))


def test_held_ends_connections_of_lasting_folder_before_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[list[str]] = []

    def note(folder: Path) -> None:
        ended.append(sorted(path.name for path in folder.iterdir()))

    monkeypatch.setattr(control_sockets, "_end_connections", note)
    (control_sockets.lasting("22222222", tmp_path / "gone") / "socket").touch()
    control_sockets.held().remove()
    assert ended == [["cluster", "socket"]]


def test_held_keeps_lasting_folder_whose_cluster_is_made_again_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = tmp_path / "lab"
    folder = control_sockets.lasting("22222222", cluster)
    looked = control_sockets._is_orphan

    def then_made(path: Path) -> bool:
        answer = looked(path)
        cluster.mkdir(exist_ok=True)
        return answer

    monkeypatch.setattr(control_sockets, "_is_orphan", then_made)
    control_sockets.held().remove()
    assert folder.exists()


def test_lasting_beside_removal_of_same_folder_makes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = tmp_path / "lab"
    folder = control_sockets.lasting("22222222", cluster)
    entered, made = threading.Event(), []

    def make() -> None:
        entered.set()
        made.append(control_sockets.lasting("22222222", cluster))

    maker = threading.Thread(target=make)

    def end(_: Path) -> None:
        # The other process finds the folder, and waits for it.
        cluster.mkdir()
        maker.start()
        assert entered.wait(10)

    monkeypatch.setattr(control_sockets, "_end_connections", end)
    control_sockets.held().remove()
    maker.join(10)
    assert made == [folder]
    assert (folder / "cluster").readlink() == cluster


def test_lasting_folder_writable_by_other_users_raises_usage_error(runtime_folder: Path) -> None:
    (runtime_folder / "slipway").mkdir()
    (runtime_folder / "slipway").chmod(0o770)
    with pytest.raises(UsageError, match="is not a folder that only this user can change"):
        control_sockets.lasting("x")


def test_lasting_link_in_place_of_folder_raises_usage_error(runtime_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (runtime_folder / "slipway").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is not a folder that only this user can change"):
        control_sockets.lasting("x")


@pytest.mark.parametrize("folder", [None, "a-runtime-folder-with-a-long-name", "none"])
def test_lasting_unsuitable_runtime_folder_falls_back_to_tmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str | None) -> None:
    (tmp_path / "a-runtime-folder-with-a-long-name").mkdir()
    made: list[Path] = []
    monkeypatch.setattr(Path, "mkdir", lambda path, **_: made.append(path))
    monkeypatch.setattr(Path, "lstat", lambda _: os.stat_result((0o40700, 0, 0, 0, os.getuid(), 0, 0, 0, 0, 0)))
    if folder is None:
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    else:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
    assert control_sockets.lasting("x") == Path(f"/tmp/slipway-{os.getuid()}/x")
    assert made == [Path(f"/tmp/slipway-{os.getuid()}"), Path(f"/tmp/slipway-{os.getuid()}/x")]
