"""Files of other tools that are given as a Clusterfile: whose they are, and what to write instead."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from harness.clusterfile.yaml_nodes import YamlNode


@dataclasses.dataclass(frozen=True)
class ForeignTool:
    """Another tool: how its documents are recognized, and how their content is written in a Clusterfile."""

    name: str
    instead: str
    groups: tuple[str, ...] = ()
    """API groups of its documents; a group below one of them counts as well."""
    keys: tuple[frozenset[str], ...] = ()
    """Keys of documents without apiVersion and kind: all of one of these sets must be there."""


_HOSTS = "hosts: [{ips: [10.0.0.1], roles: [control-plane]}, ...]"
TOOLS = (
    ForeignTool(
        "sealos",
        f"{_HOSTS}; an address has no port there: ssh: {{port: 22}}; image: takes a name or a list",
        ("sealos.io",),
    ),
    ForeignTool("k0sctl", f"{_HOSTS}; the roles are control-plane for a controller, worker for a worker", ("k0sctl.k0sproject.io",)),
    ForeignTool("k0s", "documents of kubeadm have its settings: ClusterConfiguration, KubeletConfiguration", ("k0s.k0sproject.io",)),
    ForeignTool("KubeKey", f"{_HOSTS} in place of hosts and roleGroups; spec.image says what runs there", ("kubekey.kubesphere.io",)),
    ForeignTool(
        "kind", "slipway nodes up --workers 1 makes containers; a Clusterfile has their addresses in hosts", ("kind.x-k8s.io",)
    ),
    ForeignTool("k3d", "slipway nodes up --workers 1 makes containers; a Clusterfile has their addresses in hosts", ("k3d.io",)),
    ForeignTool("Cluster API", f"{_HOSTS}: slipway takes machines that exist, and makes none", ("cluster.x-k8s.io",)),
    ForeignTool("Rancher", f"{_HOSTS}: slipway reaches machines over SSH", ("cattle.io",)),
    ForeignTool("eksctl", f"{_HOSTS}: slipway takes machines that exist, and makes none", ("eksctl.io",)),
    ForeignTool("kOps", f"{_HOSTS}: slipway takes machines that exist, and makes none", ("kops.k8s.io",)),
    ForeignTool("KubeOne", f"{_HOSTS} in place of controlPlane.hosts and staticWorkers.hosts", ("kubeone.k8c.io", "kubeone.io")),
    ForeignTool("Talos", f"{_HOSTS}: slipway needs machines with SSH", keys=(frozenset({"machine", "cluster", "version"}),)),
    ForeignTool("RKE", f"{_HOSTS} in place of nodes", keys=(frozenset({"nodes", "services"}), frozenset({"nodes", "kubernetes_version"}))),
    ForeignTool(
        "RKE2 or k3s",
        f"{_HOSTS}; certSANS has what tls-san has, labels and taints of a host what node-label and node-taint have",
        keys=tuple(
            frozenset(keys)
            for keys in (
                {"tls-san"}, {"write-kubeconfig-mode"}, {"cluster-init"}, {"node-label"}, {"node-taint"}, {"agent-token"},
                {"token", "server"}, {"token", "cni"}, {"kubelet-arg"}, {"kube-apiserver-arg"}, {"system-default-registry"},
            )
        ),
    ),
    ForeignTool("Ansible", f"{_HOSTS} in place of an inventory", keys=(frozenset({"all"}),)),
)  # fmt: skip


def tool_of(nodes: Iterable[YamlNode]) -> tuple[ForeignTool, YamlNode] | None:
    """The tool whose file the documents are, and its first document; None for a Clusterfile, however faulty."""
    for node in nodes:
        if isinstance(node.content, dict):
            for tool in TOOLS:
                if _is_of(tool, node.content):
                    return tool, node
    return None


def _is_of(tool: ForeignTool, content: dict[str, YamlNode]) -> bool:
    version, kind = content.get("apiVersion"), content.get("kind")
    if version is None and kind is None:
        return any(keys <= content.keys() for keys in tool.keys)
    written = version.content if version is not None else ""
    group = re.sub(r"/[^/]*$", "", written) if isinstance(written, str) else ""
    return any(group == each or group.endswith(f".{each}") for each in tool.groups)
