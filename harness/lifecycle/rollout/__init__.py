"""A rollout: nodes go to another image, one after the other. The state that all parts of it share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.clusterfile import Hook
from harness.lifecycle.apps import records
from harness.lifecycle.cluster.change import Move
from harness.lifecycle.kube import drain, objects, readiness
from harness.lifecycle.provision import rootfs_update
from harness.lifecycle.steps.context import MemberChange
from harness.nodes import Node
from harness.nodes.files import STATE, Files, read_files
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode

BACKUP = f"{STATE}/before-upgrade.backup"
"""On every control-plane node: what ``slipway restore`` takes, of before the last upgrade. There is one for the last rollback, too."""

# Parts of a node that are restarted when they change.
CONTAINERD, KUBELET, CONTROL_PLANE, REGISTRY, BALANCER = "containerd", "kubelet", "control-plane", "registry", "balancer"


def kubernetes(kubectl: NodeKubectl) -> Mapping[str, Any]:
    """kubeadm's ClusterConfiguration as the cluster keeps it."""
    text = kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json")
    return objects.configuration(objects.config_map(text, where=kubectl.where), kubectl.where)


@dataclasses.dataclass
class RolloutWork(MemberChange):
    """State that the steps of an upgrade or rollback share."""

    hooks: tuple[Hook, ...]
    launch: tuple[str, ...]
    move: Move
    resumed: bool
    """An earlier command began this change, or the one that it takes back, and did not finish it."""
    versions: Mapping[str, str]
    """Of the kubelets, by address, as they are now."""
    apps: tuple[records.Installed, ...] = ()
    batch: int = 1
    force: bool = False
    drain_timeout: float = drain.TIMEOUT
    deltas: dict[str, rootfs_update.Delta] = dataclasses.field(default_factory=dict)
    """By address, once the nodes have told what they have."""

    @property
    def kubectl(self) -> NodeKubectl:
        """By way of any control-plane node whose API answers."""
        return NodeKubectl(self.found.first, tuple(node for node in self.found.control_plane if node is not self.found.first))

    @property
    def worker_batches(self) -> tuple[tuple[SshNode, ...], ...]:
        """The workers in batches: those of one are changed together."""
        workers = self.context.spec.workers
        return tuple(workers[start : start + self.batch] for start in range(0, len(workers), self.batch))

    def name(self, node: Node) -> str:
        return self.found.name(node)

    def beside(self, node: Node) -> SshNode:
        """A control-plane node whose API is there while ``node`` is changed; itself when it is the only one."""
        return next((other for other in (self.found.first, *self.found.control_plane) if other is not node), self.found.first)


def moves(work: RolloutWork, node: Node) -> bool:
    """Return True when the kubelet of a node still has another version than the one to come."""
    return work.versions.get(node.address) != work.move.after.kubernetes


def takes_pods(node: readiness.Resource) -> bool:
    """Return True when a Node object takes new pods without a toleration."""
    closed = any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints") or ())
    return not closed and not node["spec"].get("unschedulable") and readiness.node_problem(node) is None


def changed_files(node: Node, files: Files) -> frozenset[str]:
    """Paths outside the rootfs where other files will stand; links lead to programs, which are looked at by themselves."""
    contents = read_files(node, [path for path, file in files.items() if file.link is None])
    # Where overlays do not work, containerd's configuration has been changed for it.
    comparable = {path: data.replace(b'snapshotter = "native"', b'snapshotter = "overlayfs"') for path, data in contents.items()}
    return frozenset(path for path, file in files.items() if file.link is None and comparable.get(path) != file.data)
