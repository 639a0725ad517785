"""Small files on a full disk and before a power cut."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from harness import log
from harness.errors import StoreError
from harness.host import durable, liveness
from harness.host.cluster_cache import ClusterState
from harness.oci.registry.credentials import CredentialStore
from harness.oci.registry.errors import RetryPolicy
from harness.oci.registry.transport import SlowError, _Paced
from harness.oci.store import Store


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes names, and no content."""

    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.mark.usefixtures("full")
def test_write_full_disk_keeps_old_file_and_no_partial_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(StoreError, match="file cannot be written: No space left on device") as caught:
        durable.write(target, "secret")
    assert "df -h" in str(caught.value.hint)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


@pytest.mark.usefixtures("full")
def test_write_full_disk_leaves_no_kubeconfig_or_credentials(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        ClusterState.of("lab", tmp_path).write("kubeconfig", "client-key-data: secret")
    with pytest.raises(StoreError):
        CredentialStore(tmp_path / "docker").store("registry.example.org", "user", "secret")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_write_into_missing_folder_raises_with_hint(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written") as caught:
        durable.write(tmp_path / "missing/file", "x")
    assert "ls -ld" in str(caught.value.hint)


def test_write_into_unwritable_folder_raises_with_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    target = tmp_path / "file"
    target.write_text("old")
    # Root may write everywhere: the refusal is a stand-in.
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError) as caught:
        durable.write(target, "secret")
    assert caught.value.message == f"{target} cannot be written: Permission denied"
    assert caught.value.hint == f"see ls -ld {tmp_path}, and run the same command again"
    assert target.read_text() == "old"


class Order:
    """What was synced and renamed, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        rename = Path.replace

        def note(descriptor: int) -> None:
            self.seen.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name.strip('.').partition('.')[0]}")

        def replace(path: Path, target: Path) -> Path:
            self.seen.append(f"name {Path(target).name}")
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", note)
        monkeypatch.setattr(Path, "replace", replace)


def test_write_syncs_content_before_rename_and_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    order = Order(monkeypatch)
    durable.write(folder / "file", "x", mode=0o640)
    assert order.seen == ["sync file", "name file", "sync folder"]
    assert (folder / "file").stat().st_mode & 0o777 == 0o640


def test_replacing_failed_block_keeps_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(TypeError), durable.replacing(target) as file:
        file.write(b"secret" + cast("Any", "text"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_replacing_without_overwrite_keeps_existing_file(tmp_path: Path) -> None:
    for _ in range(2):
        with contextlib.suppress(FileExistsError), durable.replacing(tmp_path / "file", overwrite=False) as file:
            file.write(b"second" if (tmp_path / "file").exists() else b"first")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "first"}


def test_replacing_without_mode_follows_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for mode, expected in ((None, 0o640), (0o604, 0o604), (0o600, 0o600)):
            with durable.replacing(tmp_path / "file", mode=mode) as file:
                file.write(b"x")
            assert (tmp_path / "file").stat().st_mode & 0o777 == expected
    finally:
        os.umask(before)


def test_store_keep_syncs_blob_names_before_record_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    blobs = store.path("sha256:" + "0" * 64).parent.name
    order = Order(monkeypatch)
    digest = store.put(b"{}")[0]
    # Many blobs share one wait for the disk, before the first name that needs them.
    assert order.seen[-1] == f"name {digest.removeprefix('sha256:')}"
    store.keep("step", "one", {"layer": digest})
    named = [order.seen.index(f"name {name}") for name in (digest.removeprefix("sha256:"), "one.json")]
    assert f"sync {blobs}" in order.seen[named[0] : named[1]]
    assert order.seen[-1] == "sync step"


def test_lock_long_wait_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    monkeypatch.setattr(liveness, "_SAY_AFTER", 0.0)
    told = threading.Event()
    info: Callable[[str], None] = log.info

    def note(text: str) -> None:
        info(text)
        told.set()

    monkeypatch.setattr(log, "info", note)
    path = tmp_path / "lock"
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    fcntl.flock(first, fcntl.LOCK_EX)
    waiting = threading.Thread(target=liveness.lock, args=(second, fcntl.LOCK_EX, path), daemon=True)
    waiting.start()
    assert told.wait(120)
    os.close(first)
    waiting.join(120)
    assert not waiting.is_alive()
    os.close(second)
    assert capsys.readouterr().err.count(f"waiting for another process that holds {path}") == 1


def test_lock_free_is_taken_without_timer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "Timer", None)
    descriptor = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    liveness.lock(descriptor, fcntl.LOCK_EX, tmp_path / "lock")
    os.close(descriptor)


class Dribble(io.RawIOBase):
    """A registry that gives ``count`` bytes each ``pause`` seconds, by the clock that it moves."""

    def __init__(self, count: int, pause: float) -> None:
        self.count, self.pause, self.now = count, pause, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self.now += self.pause
        buffer[: self.count] = bytes(self.count)
        return self.count


def test_paced_stream_of_one_byte_per_29_seconds_raises_slow_error() -> None:
    line = Dribble(1, 29)
    with pytest.raises(SlowError, match="only 3 bytes in 87 s"):
        io.BufferedReader(_Paced(line, RetryPolicy(), lambda: line.now)).read(1000)


def test_paced_stream_slow_line_and_slow_reader_are_tolerated() -> None:
    line = Dribble(4096, 20)
    stream = io.BufferedReader(_Paced(line, RetryPolicy(), lambda: line.now))
    for _ in range(100):
        assert stream.read(4096) == bytes(4096)
        # The disk takes its time.
        line.now += 1000
