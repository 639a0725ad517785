"""Locks of compiles, each taken in this process by another open file, as another process would."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import CommandError
from harness.host import go_caches, liveness

FIRST, SECOND = ".compile.lock", ".compile-2.lock"


class WaitError(Exception):
    """A lock would be waited for."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Go's caches, on a machine with memory for two compiles, in a process of ordinary priority that never waits."""
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 2 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    flock = fcntl.flock

    def attempt(file: int, how: int) -> None:
        try:
            flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if how & fcntl.LOCK_NB:
                raise
            raise WaitError from None

    monkeypatch.setattr(fcntl, "flock", attempt)
    (tmp_path / "cache/go").mkdir(parents=True)
    return tmp_path / "cache/go"


@contextlib.contextmanager
def held(*files: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.enter_context(liveness.locked(file, fcntl.LOCK_EX))
        yield


def is_free(file: Path) -> bool:
    try:
        with liveness.locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return True
    except BlockingIOError:
        return False


def test_turn_takes_one_place(cache: Path) -> None:
    with go_caches.turn():
        assert (is_free(cache / FIRST), is_free(cache / SECOND)) == (False, True)
    assert is_free(cache / FIRST)


def test_turn_does_not_wait_for_one_other_compile(cache: Path) -> None:
    with held(cache / FIRST), go_caches.turn():
        assert not is_free(cache / SECOND)


def test_turn_with_both_places_taken_waits_for_the_one_without_low_priority(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(cache / FIRST, cache / SECOND), pytest.raises(WaitError), go_caches.turn():
        pass
    monkeypatch.setattr(os, "getpriority", lambda *_: 19)
    with held(cache / FIRST), pytest.raises(WaitError), go_caches.turn():
        pass
    with go_caches.turn():
        assert is_free(cache / SECOND)


def test_turn_with_little_memory_is_one_at_a_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}.__getitem__)
    with held(cache / FIRST), pytest.raises(WaitError), go_caches.turn():
        pass


def test_locked_result_is_made_by_one_process(cache: Path) -> None:
    with go_caches.locked(cache / "one"):
        with go_caches.locked(cache / "another"):
            pass
        with pytest.raises(WaitError), go_caches.locked(cache / "one"):
            pass


def test_locked_full_disk_is_reported_with_hint(cache: Path) -> None:
    with pytest.raises(CommandError, match="No space left") as caught, go_caches.locked(cache / "one"):
        raise OSError(28, "No space left on device", str(cache))
    assert "SLIPWAY_CACHE" in str(caught.value.hint)


def test_unused_cache_of_running_compile_is_kept(cache: Path) -> None:
    with go_caches.turn():
        with go_caches.unused("GOCACHE") as unused:
            assert not unused
        with go_caches.turn():
            pass
    with go_caches.unused("GOCACHE") as unused:
        assert unused
        with pytest.raises(WaitError), go_caches.turn():
            pass


def test_unused_cache_that_a_link_leads_to_is_kept(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other/go").mkdir(parents=True)
    (tmp_path / "other/go/build").symlink_to(cache / "build")
    (cache / "build").mkdir()
    with contextlib.ExitStack() as stack:
        monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "other"))
        stack.enter_context(go_caches.turn())
        monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
        assert not stack.enter_context(go_caches.unused("GOCACHE"))


def test_unused_cache_in_environment_of_other_program_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "modules").mkdir()
    monkeypatch.setattr(go_caches, "_environments", lambda: iter([{"HOME": "/root"}, {"GOMODCACHE": str(cache / "modules")}]))
    with go_caches.unused("GOMODCACHE") as unused:
        assert not unused
    with go_caches.unused("GOCACHE") as unused:
        assert unused


def test_environments_have_variables_of_this_process() -> None:
    own = dict(line.partition("=")[::2] for line in Path("/proc/self/environ").read_text(errors="replace").split("\0"))
    assert own in list(go_caches._environments())


def test_large_cache_has_more_bytes_than_the_limit_and_is_no_link(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_caches, "LARGEST", 10)
    (cache / "build/00").mkdir(parents=True)
    (cache / "build/00/entry").write_text("ten bytes.")
    assert not go_caches.large(cache / "build")
    (cache / "build/00/more").write_text("!")
    assert go_caches.large(cache / "build")
    (cache / "link").symlink_to(cache / "build")
    assert not go_caches.large(cache / "link")
