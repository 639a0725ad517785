"""What scripts for nodes replace stays until its replacement is whole: run by the shell of this machine in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import assets, process
from harness.errors import CommandError
from harness.nodes.files import received
from harness.nodes.local import LocalNode

CTR = """#!/bin/sh
case "$*" in
*"images ls"*) echo IMAGE ;;
*run*) mkdir -p "$WORK/data/member"; cp "$WORK/snapshot.db" "$WORK/data/member/db" ;;
esac
"""


def shell(script: str, **env: str) -> None:
    process.run(["sh", "-c", script], env=env)


def test_certificates_before_a_failed_renewal_stay_when_it_is_repeated(tmp_path: Path) -> None:
    live, before = tmp_path / "kubernetes", tmp_path / "before"
    (live / "pki/etcd").mkdir(parents=True)
    save = assets.script("save_certificates", before=str(before), kubernetes=str(live))

    def renew(number: int, *, finished: bool = False) -> None:
        shell(save)
        for path in (live / "pki/apiserver.crt", live / "pki/etcd/peer.key", live / "admin.conf"):
            path.write_text(f"renewal {number}")
        if finished:
            (before / "unfinished").unlink()

    for path in (live / "pki/apiserver.crt", live / "pki/etcd/peer.key", live / "admin.conf"):
        path.write_text("old")
    renew(1)
    renew(2)
    (tmp_path / "before.part").mkdir()
    renew(3, finished=True)
    assert {path.read_text() for path in before.rglob("*") if path.is_file()} == {"old"}
    assert (tmp_path / "before-again/admin.conf").read_text() == "renewal 2"
    renew(4, finished=True)
    assert {path.read_text() for path in before.rglob("*") if path.is_file()} == {"renewal 3"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "kubernetes"]
    assert before.stat().st_mode & 0o777 == 0o700


def test_data_before_a_failed_restore_stays_when_it_is_repeated(tmp_path: Path) -> None:
    data, replaced, rootfs = tmp_path / "etcd", tmp_path / "etcd/replaced", tmp_path / "rootfs"
    (rootfs / "bin").mkdir(parents=True)
    (rootfs / "bin/ctr").write_text(CTR)
    (rootfs / "bin/ctr").chmod(0o755)
    (data / "member").mkdir(parents=True)
    (data / "member/db").write_text("old")

    def restore(number: int, *, finished: bool = False) -> None:
        work = data / "work"
        work.mkdir()
        (work / "snapshot.db").write_text(f"restore {number}")
        script = assets.script("restore_etcd", data=str(data), image="IMAGE", replaced=str(replaced), rootfs=str(rootfs), work=str(work))
        shell(script, WORK=str(work), PATH=f"{rootfs}/bin:{os.environ['PATH']}")
        if finished:
            (data / "replaced-unfinished").unlink()

    restore(1)
    restore(2)
    restore(3, finished=True)
    assert [(path / "db").read_text() for path in (data / "member", replaced, data / "replaced-again")] == ["restore 3", "old", "restore 2"]
    restore(4, finished=True)
    assert [(path / "db").read_text() for path in (data / "member", replaced)] == ["restore 4", "restore 3"]
    assert not (data / "replaced-again").exists()


@pytest.mark.parametrize("arrived", [b"", b"new d", b"new data and more"])
def test_file_that_does_not_arrive_whole_replaces_nothing(tmp_path: Path, arrived: bytes) -> None:
    target = tmp_path / "a file"
    target.write_text("old")
    with pytest.raises(CommandError) as caught:
        LocalNode().run(received(str(target), len(b"new data")), input=arrived)
    assert "did not arrive whole" in (caught.value.details or "")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    LocalNode().run(received(str(target), len(b"new data"), 0o640), input=b"new data")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new data"]
    assert target.stat().st_mode & 0o777 == 0o640


def test_registry_keeps_its_files_when_the_list_of_those_that_stay_is_cut_off(tmp_path: Path) -> None:
    state, storage = tmp_path / "state", tmp_path / "registry"
    files = [f"docker/registry/v2/blobs/sha256/{digest}/data" for digest in ("aa", "bb", "cc")]
    for file in files:
        (storage / file).parent.mkdir(parents=True)
        (storage / file).write_text(file)
    state.mkdir()
    script = assets.script("registry_prune", state=str(state), storage=str(storage))
    listed = "".join(f"{line}\n" for line in (*files[:2], "end"))
    for length in (0, len(files[0]) + 1, len(listed) - 5):
        with pytest.raises(CommandError):
            LocalNode().run(script, input=listed[:length])
        assert all((storage / file).exists() for file in files)
    assert LocalNode().run(script, input=listed).stdout.splitlines() == files[2:]
    assert [(storage / file).exists() for file in files] == [True, True, False]


def stub(folder: Path, name: str, text: str) -> dict[str, str]:
    """An environment in which a program is another one."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_former_files_are_kept_until_all_of_them_are_back(tmp_path: Path) -> None:
    state, target = tmp_path / "state", tmp_path / "etc/config"
    (state / f"saved{target}").parent.mkdir(parents=True)
    (state / f"saved{target}").write_text("before")
    (state / "placed").write_text(f"{target}\n")
    target.parent.mkdir()
    target.write_text("of the cluster")
    script = assets.script("unplace", state=str(state))
    with pytest.raises(CommandError) as caught:
        shell(script, **stub(tmp_path / "full", "cp", "echo 'No space left on device' >&2; exit 1"))
    assert "could not be brought back" in (caught.value.details or "")
    assert (state / f"saved{target}").read_text() == "before"
    shell(script)
    assert target.read_text() == "before"
    assert not (state / "saved").exists()


HOSTS = "127.0.0.1 localhost\n10.0.0.1 old # slipway\n\n::1 ip6-localhost\n"


def test_hosts_file_gets_and_loses_lines_of_the_cluster_only(tmp_path: Path) -> None:
    hosts, state = tmp_path / "hosts", tmp_path / "state"
    state.mkdir()
    (state / "hosts").write_text("10.0.0.2 api # slipway\n")
    hosts.write_text(HOSTS)
    places = {"hosts": str(hosts), "mark": "# slipway", "state": str(state)}
    for _ in range(2):
        shell(assets.script("keep_hosts", **places))
        assert hosts.read_text() == "127.0.0.1 localhost\n\n::1 ip6-localhost\n10.0.0.2 api # slipway\n"
    silent = stub(tmp_path / "silent", "systemctl", "exit 0")
    stub(tmp_path / "full", "systemctl", "exit 0")
    full = stub(tmp_path / "full", "grep", "exit 2")
    before = hosts.read_text()
    for script in (assets.script("keep_hosts", **places), assets.script("restore", folders="", **places)):
        with pytest.raises(CommandError):
            shell(script, **full)
        assert hosts.read_text() == before
    shell(assets.script("restore", folders="", **places), **silent)
    assert hosts.read_text() == "127.0.0.1 localhost\n\n::1 ip6-localhost\n"
    assert not state.exists()


def test_hosts_file_with_lines_of_the_cluster_only_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("10.0.0.1 old # slipway\n")
    state = tmp_path / "state"
    state.mkdir()
    (state / "hosts").write_text("10.0.0.2 api # slipway\n")
    shell(assets.script("keep_hosts", hosts=str(tmp_path / "hosts"), mark="# slipway", state=str(state)))
    assert (tmp_path / "hosts").read_text() == "10.0.0.2 api # slipway\n"
