"""Who owns a folder or a label, told without process ids alone: containers that share a disk number their processes anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.build import sandbox
from harness.host import liveness, scratch
from harness.host.docker import LABEL_BUILD


def label(**changes: str) -> str:
    """That of this process, with other parts."""
    parts = dict(zip(("boot", "namespace", "process", "start"), liveness.process_label().split("."), strict=True)) | changes
    return ".".join(parts.values())


def test_has_ended_own_process_is_false() -> None:
    assert not liveness.has_ended(liveness.process_label())
    assert liveness.process_label().split(".")[2] == str(os.getpid())


@pytest.mark.parametrize("changes", [{"start": "1"}, {"process": "4194305"}])
def test_has_ended_dead_process_or_reused_process_id_is_true(changes: dict[str, str]) -> None:
    assert liveness.has_ended(label(**changes))


@pytest.mark.parametrize("changes", [{"namespace": "7"}, {"boot": "f" * 32}])
def test_has_ended_process_of_other_container_or_machine_is_false(changes: dict[str, str]) -> None:
    assert not liveness.has_ended(label(process="4194305", **changes))


@pytest.mark.parametrize("text", ["", "4711", "a.b.c.d", f"{'0' * 32}.0.1.1", "x" * 1000])
def test_has_ended_invalid_label_is_false(text: str) -> None:
    assert not liveness.has_ended(text)


def test_remove_abandoned_held_folder_is_kept_until_released(tmp_path: Path) -> None:
    held = liveness.HeldFolder(tmp_path)
    (held.path / "file").write_text("x")
    assert not liveness.is_abandoned(held.path)
    assert not liveness.remove_abandoned(held.path)
    assert (held.path / "file").exists()
    # As the end of the process does.
    os.close(held._descriptor)
    held._descriptor = -1
    asked: list[bool] = []
    assert liveness.remove_abandoned(held.path, lambda: asked.append(held.path.exists()))
    assert asked == [True]
    assert not held.path.exists()


def test_held_folders_of_one_process_are_distinct(tmp_path: Path) -> None:
    one, two = liveness.HeldFolder(tmp_path), liveness.HeldFolder(tmp_path)
    assert one.path != two.path
    one.remove()
    one.remove()
    assert two.path.is_dir()
    two.remove()


def test_remove_abandoned_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert not liveness.remove_abandoned(tmp_path / "link")
    assert (tmp_path / "target").is_dir()


def test_scratch_cleaned_keeps_folder_of_live_process_in_other_container(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = scratch.folder()
    # Its process is not in /proc here, as seen from another container.
    monkeypatch.setattr(os, "getpid", lambda: 4194305)
    with scratch.cleaned():
        assert mine.is_dir()
        assert scratch.folder() != mine
    assert mine.is_dir()
    assert scratch.abandoned() == ()


def test_scratch_cleaned_removes_folder_of_killed_command() -> None:
    left = scratch.folder().parent / "4711-0badcafe"
    left.mkdir()
    assert scratch.abandoned() == (left,)
    with scratch.cleaned():
        assert not left.exists()


def test_is_dead_build_of_other_container_or_remote_engine_is_false(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    assert sandbox._is_dead({LABEL_BUILD: label(start="1")})
    assert not sandbox._is_dead({LABEL_BUILD: label()})
    assert not sandbox._is_dead({LABEL_BUILD: label(namespace="7", process="4194305")})
    # The engine's machine has restarted since: no build of then is alive. Of an engine elsewhere that says nothing.
    assert sandbox._is_dead({LABEL_BUILD: label(boot="f" * 32)})
    monkeypatch.setenv("DOCKER_HOST", "tcp://build.example.org:2376")
    assert not sandbox._is_dead({LABEL_BUILD: label(boot="f" * 32)})
