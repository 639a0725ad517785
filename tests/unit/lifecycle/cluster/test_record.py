"""The record of a cluster: what is read from it, and how it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from harness.errors import CheckError, CommandError, InputError, NodeError
from harness.lifecycle.cluster import record
from harness.lifecycle.cluster.record import ELSEWHERE, ClusterRecord
from harness.nodes.kubectl import NodeKubectl
from tests.unit.lifecycle.standin import StandIn

CLUSTERFILE = """
spec:
  hosts:
  - {ips: [10.0.0.1, 10.0.0.2, 10.0.0.3], roles: [master, storage]}
  - {ips: [10.0.0.4], roles: [node]}
"""


def stored(**data: str) -> NodeKubectl:
    node = StandIn()
    node.answers = {"get configmap": json.dumps({"metadata": {"resourceVersion": "7"}, "data": data})}
    return NodeKubectl(node)


def test_read_a_record_returns_its_fields() -> None:
    found = record.read(stored(image="web:1", digest="sha256:1", Clusterfile=CLUSTERFILE, registry="elsewhere", left="10.0.0.9 nine"))
    assert (found.image, found.digest, found.registry, found.version) == ("web:1", "sha256:1", ELSEWHERE, "7")
    assert found.left == {"10.0.0.9", "nine"}
    assert found.addresses("control-plane") == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}
    assert found.addresses("storage") == found.addresses("control-plane")


def test_read_a_record_without_fields_returns_their_defaults() -> None:
    found = ClusterRecord.of('{"data": {"Clusterfile": "{}", "unknown": "1"}}', "one")
    assert found == ClusterRecord(text="{}")
    assert (found.registry, found.unready_workloads(), found.addresses("control-plane")) == ("own", None, frozenset())


def test_read_a_text_of_another_version_still_returns_addresses() -> None:
    text = "kind: Config\nspec: {path: etc/a}\n---\nkind: Cluster\nspec: {newer: 1, hosts: [{ips: [10.0.0.9], roles: [master]}, odd]}\n"
    found = record.read(stored(Clusterfile=text))
    assert found.addresses("control-plane") == {"10.0.0.9"}
    with pytest.raises(InputError, match="the stored Clusterfile"):
        _ = found.clusterfile


@pytest.mark.parametrize("text", ["spec: [1]", "spec: {hosts: 1}", "spec: {hosts: [{ips: 1, roles: 2}]}", "[]", ""])
def test_addresses_of_malformed_clusterfile_are_empty(text: str) -> None:
    assert record.read(stored(Clusterfile=text)).addresses("control-plane") == frozenset()


def test_read_a_text_that_is_not_yaml_is_refused() -> None:
    with pytest.raises(CheckError, match="the stored Clusterfile"):
        record.read(stored(Clusterfile="{"))


def test_read_missing_record_and_refused_connection_raise_different_errors() -> None:
    class Failing(StandIn):
        details = ""

        def run(self, command: str, **_: Any) -> Any:
            raise CommandError("kubectl: exit code 1", details=self.details)

    node = Failing()
    node.details = 'Error from server (NotFound): configmaps "slipway-clusterfile" not found'
    with pytest.raises(CheckError, match="no record of slipway"):
        record.read(NodeKubectl(node))
    node.details = "The connection was refused"
    with pytest.raises(CommandError):
        record.read(NodeKubectl(node))


def test_unready_workloads_that_are_not_json_are_refused() -> None:
    assert ClusterRecord(unready='["Deployment web/nginx"]').unready_workloads() == ["Deployment web/nginx"]
    assert ClusterRecord(unready="{}").unready_workloads() == []
    with pytest.raises(NodeError, match="ailing in slipway-clusterfile"):
        ClusterRecord(unready="[").unready_workloads()


@pytest.mark.parametrize("unready", [None, ""])
def test_apply_writes_the_fields_that_clusters_have(unready: str | None) -> None:
    documents: list[Any] = []

    class ControlPlaneNode(StandIn):
        def run(self, command: str, **options: Any) -> Any:
            documents.append((command, yaml.safe_load(options["input"])))
            return super().run(command)

    record.apply(ControlPlaneNode(), ClusterRecord("web:1", "sha256:1", "text", left=frozenset({"x"}), unready=unready), "kubectl")
    ((command, document),) = documents
    assert command == "kubectl apply --validate=false -f -"
    assert document["metadata"] == {"name": "slipway-clusterfile", "namespace": "kube-system"}
    fields = {"Clusterfile": "text", "digest": "sha256:1", "image": "web:1", "registry": "own"}
    assert document["data"] == ({**fields, "ailing": ""} if unready is not None else fields)


def test_replace_names_the_version_that_was_read() -> None:
    files: dict[str, Any] = {}

    class ControlPlaneNode(StandIn):
        def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
            files[path] = (json.loads(data), mode)

    record.replace(ControlPlaneNode(), ClusterRecord("web:1", "sha256:1", "text", left=frozenset({"b", "a"}), version="7"))
    patch = {"metadata": {"resourceVersion": "7"}, "data": {"Clusterfile": "text", "left": "a b"}}
    assert files == {"/var/lib/slipway/record.json": (patch, 0o600)}
