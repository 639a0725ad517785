"""A cluster of kubeadm's, by whatever hand, as a Clusterfile. The cluster is what kubectl would say."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.clusterfile import SshSettings, Taint
from harness.clusterfile.parse import parse
from harness.errors import CheckError
from harness.lifecycle import adopt
from harness.process import ProcessResult
from tests.unit.lifecycle.standin import StandIn

ROLE = "node-role.kubernetes.io/"
KUBEADM = """apiServer:
  certSANs: [api.example.com, 10.0.0.1, 127.0.0.1]
clusterName: kubernetes
kubernetesVersion: v1.36.3
networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}
"""


def node(name: str, address: str | None, labels: dict[str, str], *taints: dict[str, str]) -> dict[str, Any]:
    own = {"kubernetes.io/hostname": name, "beta.kubernetes.io/os": "linux"}
    addresses = [{"type": "Hostname", "address": name}, *([{"type": "InternalIP", "address": address}] if address else [])]
    status = {"addresses": addresses, "nodeInfo": {"kubeletVersion": "v1.36.3"}}
    return {"metadata": {"name": name, "labels": {**own, **labels}}, "spec": {"taints": list(taints)}, "status": status}


NODES = [
    node("w1", "10.0.0.5", {"disk": "ssd"}, {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}),
    node("w2", "10.0.0.6", {"disk": "ssd"}),
    node("w3", "10.0.0.7", {f"{ROLE}storage": ""}, {"key": "db", "value": "yes", "effect": "NoExecute"}),
    node("m1", "10.0.0.1", {f"{ROLE}control-plane": ""}, {"key": f"{ROLE}control-plane", "effect": "NoSchedule"}),
]


class ControlPlaneNode(StandIn):
    def __init__(self, nodes: list[dict[str, Any]] | None = None, configuration: str | None = KUBEADM) -> None:
        super().__init__("10.0.0.1", "m1")
        self.nodes, self.configuration = nodes, configuration

    def run(self, command: str, **_: Any) -> ProcessResult:
        if "get nodes" in command:
            return (
                ProcessResult((), 0, json.dumps({"items": self.nodes}), "")
                if self.nodes
                else ProcessResult((), 1, "", "connection refused")
            )
        if self.configuration is None:
            return ProcessResult((), 1, "", "NotFound")
        return ProcessResult((), 0, json.dumps({"data": {"ClusterConfiguration": self.configuration}}), "")


def test_adopt_kubeadm_cluster_gives_clusterfile_that_parses_back() -> None:
    taken = adopt.read(ControlPlaneNode(NODES), None, SshSettings(user="ops", port=22))
    cluster = parse(taken.text, "Clusterfile").cluster
    assert cluster is not None
    assert (cluster.name, cluster.image, taken.kubernetes) == ("default", "kubernetes:v1.36.3", "v1.36.3")
    assert (cluster.control_plane, cluster.workers) == (("10.0.0.1",), ("10.0.0.5", "10.0.0.6", "10.0.0.7"))
    assert (cluster.pod_cidr, cluster.svc_cidr) == ("10.244.0.0/16", "10.96.0.0/12")
    assert cluster.cert_sans == ("api.example.com",)
    assert [(host.ips, host.roles) for host in cluster.hosts] == [
        (("10.0.0.1",), ("control-plane",)),
        (("10.0.0.5", "10.0.0.6"), ("worker",)),
        (("10.0.0.7",), ("worker", "storage")),
    ]
    assert cluster.hosts[1].labels == {"disk": "ssd"}
    # What Kubernetes puts there and takes away by itself is nobody's wish.
    assert [host.taints for host in cluster.hosts] == [(), (), (Taint("db", "yes", "NoExecute"),)]


def test_adopt_given_name_and_image_replace_defaults() -> None:
    cluster = adopt.read(ControlPlaneNode(NODES), "shop", SshSettings(), "shop:1").clusterfile.cluster
    assert cluster is not None
    assert (cluster.name, cluster.image) == ("shop", "shop:1")


def test_adopt_unreachable_foreign_or_addressless_cluster_raises_check_error() -> None:
    with pytest.raises(CheckError, match="no cluster answers"):
        adopt.read(ControlPlaneNode(), None, SshSettings())
    with pytest.raises(CheckError, match="was not made by kubeadm"):
        adopt.read(ControlPlaneNode(NODES, None), None, SshSettings())
    with pytest.raises(CheckError, match="node w9 has no internal address"):
        adopt.read(ControlPlaneNode([node("w9", None, {})]), None, SshSettings())
