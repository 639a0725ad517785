"""How a cluster is found again: by the cache of this machine, or by what the user names."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import NodeError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.ssh import SshConnections, SshNode


def remember(home: Path, name: str = "lab") -> None:
    entry = {"address": "10.0.0.1", "name": "one", "user": "ops", "port": 2222, "key": "/keys/id"}
    ClusterState.of(name, home).remember({"controlPlane": [entry], "workers": [{**entry, "address": "10.0.0.2", "key": None}]})


def test_known_cached_cluster_returns_machines_with_logins(tmp_path: Path) -> None:
    remember(tmp_path)
    found = access.known("lab", home=tmp_path)
    assert found.control_plane == (Machine("10.0.0.1", Login("ops", 2222, Path("/keys/id"))),)
    assert found.workers == (Machine("10.0.0.2", Login("ops", 2222)),)


def test_known_given_login_replaces_cached_parts(tmp_path: Path) -> None:
    remember(tmp_path)
    access.give(access.GivenLogin(password="secret"))
    found = access.known("lab", home=tmp_path)
    assert found.control_plane[0].login == Login("ops", 2222, Path("/keys/id"), "secret")
    assert "secret" not in repr(access.GivenLogin(password="secret"))
    access.give(access.GivenLogin("root", 22, Path("/keys/new")))
    found = access.known("lab", home=tmp_path)
    assert {machine.login for machine in (*found.control_plane, *found.workers)} == {Login("root", 22, Path("/keys/new"))}


def test_known_named_machines_override_cache(tmp_path: Path) -> None:
    remember(tmp_path)
    found = access.known("lab", [Machine("10.9.9.9")], home=tmp_path)
    assert [machine.address for machine in found.control_plane] == ["10.9.9.9"]
    assert found.workers == ()


def test_known_misspelled_cluster_name_is_refused_with_suggestion(tmp_path: Path) -> None:
    remember(tmp_path, "production")
    with pytest.raises(UsageError, match="nothing is known of a cluster prodution") as caught:
        access.known("prodution", home=tmp_path)
    assert caught.value.hint == "did you mean production?"
    with pytest.raises(UsageError) as caught:
        access.known("other", home=tmp_path)
    assert "known here: production" in str(caught.value.hint)


def test_access_first_without_reachable_control_plane_raises_node_error(tmp_path: Path) -> None:
    remember(tmp_path)
    found = access.known("lab", home=tmp_path)
    gone = access.Access(found, SshConnections(tmp_path / "c", found.control_plane), (), (), {"10.0.0.1": NodeError("10.0.0.1: no answer")})
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: no answer"):
        _ = gone.first


def test_remember_stores_jump_host_image_and_node_names(tmp_path: Path) -> None:
    jump = JumpHost("bastion.example.com", "ops", 2200, Path("/keys/jump"))
    node = SshConnections(tmp_path, [Machine("10.0.0.1", Login(jump=jump))]).nodes[0]
    state = ClusterState.of("lab", tmp_path)
    access.remember(state, [node], [], image={"image": "web:1", "digest": "sha256:1"}, names={"10.0.0.1": "one"})
    assert access.known("lab", home=tmp_path).control_plane == (Machine("10.0.0.1", Login(jump=jump)),)
    cached = state.read()
    assert (cached["name"], cached["image"], cached["digest"], cached["controlPlane"][0]["name"]) == ("lab", "web:1", "sha256:1", "one")
    access.remember(state, [], [node])
    assert (state.read()["image"], state.read()["workers"][0]["name"]) == ("web:1", "10.0.0.1")


def test_remember_keeps_name_of_machine_and_leaves_its_login_to_ssh_config(tmp_path: Path) -> None:
    machine = Machine("10.0.0.1", Login(), "cp1")
    state = ClusterState.of("lab", tmp_path)
    access.remember(state, SshConnections(tmp_path, [machine]).nodes, [])
    assert access.known("lab", home=tmp_path).control_plane == (machine,)


@pytest.mark.parametrize(("workers", "addresses"), [(True, ["10.0.0.1", "10.0.0.2"]), (False, ["10.0.0.1"])])
def test_opened_without_workers_connects_to_control_plane_nodes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: bool, addresses: list[str]
) -> None:
    remember(tmp_path)
    connected: list[str] = []
    prepared: list[int] = []
    monkeypatch.setattr(SshConnections, "prepare", lambda ssh: prepared.append(len(ssh.machines)))
    monkeypatch.setattr(SshNode, "connect", lambda node: connected.append(node.address))
    monkeypatch.setattr(SshNode, "disconnect", lambda _: None)
    with access.opened(access.known("lab", home=tmp_path), workers=workers) as cluster:
        assert [node.address for node in (*cluster.control_plane, *cluster.workers)] == addresses
    assert sorted(connected) == addresses
    # The user's ssh_config has all machines in either case.
    assert prepared == [2]
