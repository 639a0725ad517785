"""How a cluster is told as data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from harness.errors import NodeError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster.access import Access, Known
from harness.lifecycle.cluster.change import DONE, RUNNING, Move, Version
from harness.lifecycle.status import gather
from harness.nodes import Machine
from harness.nodes.ssh import SshConnections
from tests.unit.lifecycle.standin import StandIn


def node(name: str, *, ready: bool = True, role: str | None = None, cordoned: bool = False) -> dict[str, Any]:
    labels = {f"node-role.kubernetes.io/{role}": ""} if role else {}
    return {
        "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": labels},
        "spec": {"unschedulable": True} if cordoned else {},
        "status": {
            "conditions": [{"type": "Ready", "status": "True" if ready else "False", "message": "no network"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
            "nodeInfo": {"kubeletVersion": "v1.36.3", "containerRuntimeVersion": "containerd://2.4.2"},
        },
    }


def deployment(name: str, available: int) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "web", "uid": name, "generation": 1},
        "spec": {"replicas": 1},
        "status": {"observedGeneration": 1, "updatedReplicas": 1, "availableReplicas": available},
    }


def cluster(tmp_path: Path, items: list[dict[str, Any]], *, registry: str = "active", gone: tuple[str, ...] = ()) -> Access:
    node = StandIn("10.0.0.1", "one")
    record = {"data": {"image": "web:1", "digest": "sha256:1", "Clusterfile": "{}"}}
    node.answers = {
        "configmap slipway-upgrade": "",
        "get configmap": json.dumps(record),
        "/version": json.dumps({"gitVersion": "v1.36.3"}),
        "get events": json.dumps({"items": []}),
        "--output=json": json.dumps({"items": items}),
        "is-active slipway-registry": registry,
    }
    known = Known(ClusterState.of("lab", tmp_path), (Machine("10.0.0.1"),), ())
    unreachable = {address: NodeError(f"{address}: no answer") for address in gone}
    control_plane: Any = (node,)
    return Access(known, SshConnections(tmp_path / "c", known.control_plane), control_plane, (), unreachable)


def test_status_healthy_cluster_reports_nodes_workloads_and_registry(tmp_path: Path) -> None:
    found = gather(cluster(tmp_path, [node("one", role="control-plane"), node("two", cordoned=True), deployment("nginx", 1)]))
    assert found["healthy"] is True
    assert (found["name"], found["image"], found["digest"], found["kubernetes"]) == ("lab", "web:1", "sha256:1", "v1.36.3")
    assert [entry["roles"] for entry in found["nodes"]] == [["control-plane"], ["worker"]]
    assert [entry["schedulable"] for entry in found["nodes"]] == [True, False]
    assert found["workloads"] == {"Deployment": {"ready": 1, "total": 1}}
    assert found["registry"] == [{"node": "one", "address": "10.0.0.1", "active": True}]


def test_status_legacy_role_labels_are_reported_as_current_roles(tmp_path: Path) -> None:
    one = node("one", role="control-plane")
    one["metadata"]["labels"]["node-role.kubernetes.io/master"] = ""
    two = node("two", role="node")
    assert [entry["roles"] for entry in gather(cluster(tmp_path, [one, two]))["nodes"]] == [["control-plane"], ["worker"]]


def test_status_interrupted_upgrade_is_reported_with_target(tmp_path: Path) -> None:
    half, whole = (
        Move("1", "upgrade", Version("web:1", "1", "v1.36.3"), Version("web:2", "2", "v1.36.4"), state) for state in (RUNNING, DONE)
    )
    there = cluster(tmp_path, [node("one")])
    for move, told in ((half, "web:2 (Kubernetes v1.36.4)"), (whole, None)):
        text = json.dumps({"data": {"move": json.dumps(dataclasses.asdict(move))}})
        there.control_plane[0].answers["configmap slipway-upgrade"] = text  # type: ignore[attr-defined]
        assert (gather(there)["change"] or {}).get("to") == told


def test_status_unready_objects_are_reported_with_reason(tmp_path: Path) -> None:
    found = gather(cluster(tmp_path, [node("one", ready=False), deployment("nginx", 0)]))
    assert found["healthy"] is False
    assert found["nodes"][0]["ready"] is False
    assert "no network" in found["nodes"][0]["reason"]
    assert found["workloads"] == {"Deployment": {"ready": 0, "total": 1}}
    assert [problem["object"] for problem in found["notReady"]] == ["Node one", "Deployment web/nginx"]


def test_status_failed_registry_or_unreachable_machine_is_unhealthy(tmp_path: Path) -> None:
    assert gather(cluster(tmp_path, [node("one")], registry="failed"))["healthy"] is False
    found = gather(cluster(tmp_path, [node("one")], gone=("10.0.0.9",)))
    assert found["healthy"] is False
    assert found["unreachable"] == [{"address": "10.0.0.9", "reason": "10.0.0.9: no answer"}]


def test_status_api_without_answer_is_reported_as_unhealthy(tmp_path: Path) -> None:
    broken = cluster(tmp_path, [])
    broken.control_plane[0].broken = {"kubectl"}  # type: ignore[attr-defined]
    found = gather(broken)
    assert found["healthy"] is False
    assert "does not answer" in found["notReady"][0]["reason"]
    json.dumps(found)


def test_status_unreadable_record_is_reported_and_hides_nothing_else(tmp_path: Path) -> None:
    broken = cluster(tmp_path, [node("one")])
    answers = broken.control_plane[0].answers  # type: ignore[attr-defined]
    good = answers["get configmap"]
    answers["get configmap"] = json.dumps({"data": {"image": "web:1", "digest": "sha256:1", "Clusterfile": "a: [1"}})
    answers["configmap slipway-upgrade"] = ""
    found = gather(broken)
    assert (found["healthy"], found["image"], [entry["name"] for entry in found["nodes"]]) == (False, None, ["one"])
    assert [(problem["object"], problem["cause"]) for problem in found["notReady"]] == [("the record of the cluster", "Unreadable")]
    answers["get configmap"] = good
    answers["configmap slipway-upgrade"] = json.dumps({"data": {"move": "no JSON"}})
    found = gather(broken)
    assert (found["healthy"], found["image"], found["digest"], found["change"]) == (False, "web:1", "sha256:1", None)
    assert [problem["object"] for problem in found["notReady"]] == ["the record of its last change"]


def test_status_failed_ipvs_balancer_is_unhealthy(tmp_path: Path) -> None:
    def found(active: str) -> dict[str, Any]:
        led = StandIn("10.0.0.2", "two")
        led.answers = {"is-active slipway-balancer": f"active {active}\nkind ipvs\nserver 10.0.0.1:6443\n"}
        nodes: Any = (led,)
        return gather(dataclasses.replace(cluster(tmp_path, [node("one"), node("two")]), workers=nodes))

    good = found("active")
    assert good["balancers"] == [{"node": "two", "address": "10.0.0.2", "kind": "ipvs", "active": True, "servers": ["10.0.0.1:6443"]}]
    assert good["healthy"] is True
    assert found("failed")["healthy"] is False
