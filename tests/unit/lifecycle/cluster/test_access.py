"""How a cluster is found again: by what is remembered, by what it keeps itself, or by what the user names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, CommandError, NodeError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access
from harness.lifecycle.cluster.record import access_entry
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections
from tests.unit.lifecycle.standin import StandIn


def remember(home: Path, name: str = "lab") -> None:
    entry = {"address": "10.0.0.1", "name": "one", "user": "ops", "port": 2222, "key": "/keys/id"}
    ClusterState.of(name, home).remember({"masters": [entry], "nodes": [{**entry, "address": "10.0.0.2", "key": None}]})


def test_a_remembered_cluster_is_found_with_the_ways_into_its_machines(tmp_path: Path) -> None:
    remember(tmp_path)
    found = access.known("lab", home=tmp_path)
    assert found.masters == (Machine("10.0.0.1", Login("ops", 2222, Path("/keys/id"))),)
    assert found.nodes == (Machine("10.0.0.2", Login("ops", 2222)),)


def test_machines_that_are_named_win_over_memory(tmp_path: Path) -> None:
    remember(tmp_path)
    found = access.known("lab", [Machine("10.9.9.9")], home=tmp_path)
    assert [machine.address for machine in found.masters] == ["10.9.9.9"]
    assert found.nodes == ()


def test_an_unknown_cluster_names_the_nearest_that_is_known(tmp_path: Path) -> None:
    remember(tmp_path, "production")
    with pytest.raises(UsageError, match="nothing is known of a cluster prodution") as caught:
        access.known("prodution", home=tmp_path)
    assert caught.value.hint == "did you mean production?"
    with pytest.raises(UsageError) as caught:
        access.known("other", home=tmp_path)
    assert "known here: production" in str(caught.value.hint)


def test_a_cluster_without_a_master_that_answers_tells_why(tmp_path: Path) -> None:
    remember(tmp_path)
    found = access.known("lab", home=tmp_path)
    gone = access.Access(found, SshConnections(tmp_path / "c", found.masters), (), (), {"10.0.0.1": NodeError("10.0.0.1: no answer")})
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: no answer"):
        _ = gone.first


def recorded(**data: str) -> NodeKubectl:
    node = StandIn()
    node.answers = {"get configmap": json.dumps({"data": data})}
    return NodeKubectl(node)


CLUSTERFILE = """
spec:
  hosts:
  - {ips: [10.0.0.1, 10.0.0.2, 10.0.0.3], roles: [master, storage]}
  - {ips: [10.0.0.4], roles: [node]}
"""


def test_a_cluster_knows_its_own_machines_when_this_one_has_forgotten_them() -> None:
    record = access.recorded(recorded(image="web:1", digest="sha256:1", Clusterfile=CLUSTERFILE))
    assert (record["image"], record["digest"]) == ("web:1", "sha256:1")
    masters, nodes = access.members(record, Login("ops"))
    assert [machine.address for machine in masters] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert nodes == (Machine("10.0.0.4", Login("ops")),)


def test_a_cluster_of_another_tool_is_told_from_one_that_does_not_answer() -> None:
    class Failing(StandIn):
        said = ""

        def run(self, command: str, **_: Any) -> Any:
            raise CommandError("kubectl: exit code 1", details=self.said)

    node = Failing()
    node.said = 'Error from server (NotFound): configmaps "slipway-clusterfile" not found'
    with pytest.raises(CheckError, match="no record of slipway"):
        access.recorded(NodeKubectl(node))
    node.said = "The connection was refused"
    with pytest.raises(CommandError):
        access.recorded(NodeKubectl(node))


def test_the_stored_clusterfile_may_have_more_documents_than_the_cluster() -> None:
    text = "kind: Config\nspec: {path: etc/a}\n---\nkind: Cluster\nspec: {hosts: [{ips: [10.0.0.9], roles: [master]}]}\n"
    record = access.recorded(recorded(image="web:1", digest="sha256:1", Clusterfile=text, registry="elsewhere"))
    assert record["Clusterfile"]["kind"] == "Cluster"
    assert (record["text"], record["registry"]) == (text, "elsewhere")
    assert [machine.address for machine in access.members(record, Login())[0]] == ["10.0.0.9"]


def test_the_machine_in_between_is_remembered(tmp_path: Path) -> None:
    jump = JumpHost("bastion.example.com", "ops", 2200, Path("/keys/jump"))
    node = SshConnections(tmp_path, [Machine("10.0.0.1", Login(jump=jump))]).nodes[0]
    ClusterState.of("lab", tmp_path).remember({"masters": [json.loads(json.dumps(access_entry(node)))]})
    assert access.known("lab", home=tmp_path).masters == (Machine("10.0.0.1", Login(jump=jump)),)
