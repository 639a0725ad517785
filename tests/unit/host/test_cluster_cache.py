"""What this machine remembers of clusters."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.host.cluster_cache import ClusterState, known, unpin
from harness.untrusted import KubeIdentity


def test_cluster_state_remember_merges_keys_and_files_are_private(tmp_path: Path) -> None:
    state = ClusterState.of("lab", tmp_path)
    assert state.read() == {}
    state.remember({"image": "web", "controlPlane": []})
    state.remember({"image": "web:2"})
    assert state.read() == {"image": "web:2", "controlPlane": []}
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.write("kubeconfig", "secret").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", "Lab", "a/b", "..", "a b", "-a", "a" * 64])
def test_cluster_state_invalid_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a cluster"):
        ClusterState.of(name, tmp_path)


def test_cluster_state_keys_of_old_release_are_read_and_renamed(tmp_path: Path) -> None:
    state = ClusterState.of("lab", tmp_path)
    state.write("cluster.json", json.dumps({"image": "web", "masters": [{"address": "10.0.0.1"}], "nodes": [{"address": "10.0.0.2"}]}))
    assert state.read() == {"image": "web", "controlPlane": [{"address": "10.0.0.1"}], "workers": [{"address": "10.0.0.2"}]}
    state.remember({"workers": []})
    assert json.loads((state.folder / "cluster.json").read_text()) == {
        "image": "web",
        "controlPlane": [{"address": "10.0.0.1"}],
        "workers": [],
    }


def test_cluster_state_damaged_file_reads_as_empty(tmp_path: Path) -> None:
    state = ClusterState.of("lab", tmp_path)
    state.write("cluster.json", "{")
    assert state.read() == {}


def test_known_lists_clusters_with_state_until_forgotten(tmp_path: Path) -> None:
    for name in ("b", "a"):
        ClusterState.of(name, tmp_path).remember({"image": "x"})
    (tmp_path / "clusters/begun").mkdir()
    assert [state.name for state in known(tmp_path)] == ["a", "b"]
    ClusterState.of("a", tmp_path).forget()
    assert [state.name for state in known(tmp_path)] == ["b"]
    assert known(tmp_path / "nosuch") == ()


def test_cluster_state_lock_refuses_second_command(tmp_path: Path) -> None:
    state = ClusterState.of("lab", tmp_path)
    with state.lock(), pytest.raises(UsageError, match="another command is changing the cluster lab"), state.lock():
        pass
    with state.lock(), ClusterState.of("other", tmp_path).lock():
        pass
    with state.lock():
        pass


def test_unpin_removes_host_keys_from_all_clusters(tmp_path: Path) -> None:
    for name in ("a", "b"):
        ClusterState.of(name, tmp_path).write("known_hosts", "10.0.0.1 ssh-ed25519 A\n10.0.0.11 ssh-ed25519 B\n")
    unpin(["10.0.0.1"], tmp_path)
    for name in ("a", "b"):
        assert ClusterState.of(name, tmp_path).known_hosts.read_text() == "10.0.0.11 ssh-ed25519 B\n"
    unpin(["10.0.0.1"], tmp_path / "nosuch")


def test_cluster_state_authority_is_read_from_kubeconfig(tmp_path: Path) -> None:
    state = ClusterState.of("lab", tmp_path)
    assert state.authority() is None
    pem = b"-----BEGIN %b-----\nAAAA\n-----END %b-----\n"
    certificate, key = pem % (b"CERTIFICATE", b"CERTIFICATE"), pem % (b"PRIVATE KEY", b"PRIVATE KEY")
    state.write("kubeconfig", KubeIdentity(certificate, certificate, key).kubeconfig(server="https://10.0.0.1:6443", cluster="lab"))
    assert state.authority() == certificate
    state.write("kubeconfig", "users: [{user: {exec: {command: sh}}}]")
    assert state.authority() is None
