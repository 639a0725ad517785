"""Which way a backup is brought back, onto what, and in which order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import CheckError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster.access import Access, Known
from harness.lifecycle.cluster.backup import Contents
from harness.lifecycle.restore import _holds_it, _machines, _Source, forget_others, on_hosts, put_data, restart_watchers
from harness.nodes import Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections
from tests.unit.lifecycle.standin import StandIn

MARK = "lab 0123456789abcdef"


def contents(**more: Any) -> Contents:
    front = {
        "cluster": "lab",
        "identity": "0123456789abcdef",
        "controlPlane": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
        "workers": ["10.0.0.4"],
        "files": {"etcd/snapshot.db": {"sha256": "ab" * 32, "size": 4}},
        **more,
    }
    return Contents(front, {}, "", {})


def cluster(tmp_path: Path, *marks: str, begun: str = "") -> Access:
    control_plane = []
    for number, mark in enumerate(marks, 1):
        control_plane.append(StandIn(f"10.0.0.{number}", f"host-{number}"))
        control_plane[-1].answers = {"/cluster": mark, "restore-begun": begun if number == 1 else ""}
    known = Known(ClusterState.of("lab", tmp_path), tuple(Machine(one.address) for one in control_plane), ())
    found: Any = tuple(control_plane)
    return Access(known, SshConnections(tmp_path / "c", known.control_plane), found, (), {})


def test_restore_on_control_plane_of_same_cluster_is_in_place(tmp_path: Path) -> None:
    assert _holds_it(cluster(tmp_path, MARK, f"{MARK}\n"), contents()) is True


def test_restore_private_keys_have_mode_600_and_include_encryption_key(tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    file.write_bytes(b"data")
    keys = {"ca.crt": b"1", "ca.key": b"2", "sa.pub": b"3", "secrets-encryption.yaml": b"4"}
    with file.open("rb") as snapshot:
        found = _Source(dataclasses.replace(contents(), keys=keys), snapshot).keys
    assert {path.removeprefix("/etc/kubernetes/pki/"): (one.data, one.mode) for path, one in found.items()} == {
        "ca.crt": (b"1", 0o644),
        "ca.key": (b"2", 0o600),
        "sa.pub": (b"3", 0o644),
        "secrets-encryption.yaml": (b"4", 0o600),
    }


def test_restore_on_empty_or_partly_restored_machines_is_not_in_place(tmp_path: Path) -> None:
    assert _holds_it(cluster(tmp_path, "", ""), contents()) is False
    # A restore that was killed on its way is not done in place the next time: not all of it may be there yet.
    assert _holds_it(cluster(tmp_path, MARK, MARK, begun="2026-01-01T00:00:00"), contents()) is False
    # One of three was made anew: the others are finished like it.
    assert _holds_it(cluster(tmp_path, MARK, ""), contents()) is False


@pytest.mark.parametrize("other", ["mine 0123456789abcdef", "lab fedcba9876543210"])
def test_restore_over_other_cluster_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(CheckError, match="another cluster") as refused:
        _holds_it(cluster(tmp_path, MARK, other), contents())
    assert f"host-2: belongs to {other}" in (refused.value.details or "")


def test_restore_machines_are_named_else_known_else_from_backup(tmp_path: Path) -> None:
    named = _machines(contents(), (Machine("10.1.0.1"),), (), None, tmp_path)
    assert [one.address for one in named.control_plane] == ["10.1.0.1"]
    login = Login(user="ops", port=2222)
    listed = _machines(contents(), (), (), login, tmp_path)
    assert [(one.address, one.login) for one in listed.workers] == [("10.0.0.4", login)]
    ClusterState.of("lab", tmp_path).remember({"controlPlane": [{"address": "10.2.0.1"}]})
    assert [one.address for one in _machines(contents(), (), (), login, tmp_path).control_plane] == ["10.2.0.1"]
    with pytest.raises(UsageError, match="no control-plane node"):
        _machines(contents(), (), (Machine("10.1.0.1"),), None, tmp_path)


def test_put_data_restores_snapshot_as_named_member_and_replaces_old_data_last(tmp_path: Path) -> None:
    peers = {"one": "10.0.0.1", "two": "fd00::2"}
    node = StandIn("fd00::2", "two")
    file = tmp_path / "snapshot"
    file.write_bytes(b"data")
    with file.open("rb") as snapshot:
        put_data(node, _Source(contents(), snapshot), "registry.k8s.io/etcd:3.6.8-0", peers)
    script = node.commands[-1]
    assert "--name two " in script
    assert "--initial-cluster one=https://10.0.0.1:2380,two=https://[fd00::2]:2380" in script.replace("'", "")
    # Whoever watches must notice that what came after the backup never was.
    assert "--bump-revision 1000000000 --mark-compacted" in script
    assert "etcdctl" not in script
    assert "\nset -- snapshot restore " in script
    # What was there is kept until the new data is whole.
    assert script.index('etcdutl "$@"') < script.index("mv $DATA/member $to") < script.index("data/member $DATA/member")
    assert node.tars[0][1] == {"snapshot.db": b"data"}


def pod(name: str, node: str, space: str = "kube-system", *, static: bool = False) -> dict[str, Any]:
    annotations = {"kubernetes.io/config.mirror": "x"} if static else {}
    return {"metadata": {"name": name, "namespace": space, "annotations": annotations}, "spec": {"nodeName": node}}


def test_forget_others_deletes_absent_nodes_and_their_pods() -> None:
    node = StandIn("10.0.0.1", "new")
    node.answers = {
        "get nodes": json.dumps({"items": [{"metadata": {"name": name}} for name in ("old", "new")]}),
        "get pods": json.dumps({"items": [pod("a", "old", "web"), pod("b", "new", "web"), pod("c", "old")]}),
    }
    assert forget_others(NodeKubectl(node), ["new"]) == "old"
    deleted = [command.partition("kubectl ")[2] for command in node.commands if " delete " in command]
    assert deleted[0] == "delete nodes --wait=false old"
    assert {command.split()[-1] for command in deleted[1:]} == {"a", "c"}


def test_forget_others_with_all_nodes_present_deletes_nothing() -> None:
    node = StandIn()
    node.answers = {"get nodes": json.dumps({"items": [{"metadata": {"name": "new"}}]})}
    assert forget_others(NodeKubectl(node), ["new"]) == "none"
    assert not any("delete" in command for command in node.commands)


def test_restart_watchers_does_not_delete_static_pods() -> None:
    node = StandIn()
    node.answers = {"get pods": json.dumps({"items": [pod("etcd-one", "one", static=True), pod("dns", "one")]})}
    assert restart_watchers(NodeKubectl(node)) == "1 pods"
    assert node.commands[-1].endswith(" dns")


def test_on_hosts_replaces_hosts_and_keeps_rest_of_clusterfile() -> None:
    text = "kind: Cluster\nspec:\n  image: web\n  hosts: [{ips: [10.9.9.9], roles: [master]}]\n---\nkind: Config\nspec: {path: x}\n"
    found = list(yaml.safe_load_all(on_hosts(text, [{"ips": ["10.0.0.1"], "roles": ["control-plane"]}])))
    assert found[0]["spec"] == {"image": "web", "hosts": [{"ips": ["10.0.0.1"], "roles": ["control-plane"]}]}
    assert found[1] == {"kind": "Config", "spec": {"path": "x"}}
    assert on_hosts("", []) == ""
