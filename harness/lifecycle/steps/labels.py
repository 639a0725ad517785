"""Labels, roles and taints of nodes as the Clusterfile has them. What others have put onto a node stays."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from harness.clusterfile import ClusterDocument, Clusterfile, Host, Taint
from harness.lifecycle.kube import objects
from harness.lifecycle.plan import Step, digest
from harness.lifecycle.steps.context import ClusterContext
from harness.nodes import Node
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes import Member
from harness.runtimes.kubeadm import KUBECTL

ROLE = "node-role.kubernetes.io/"
_RENAMED = {f"{ROLE}master": f"{ROLE}control-plane"}
"""Taints that Kubernetes calls otherwise by now."""


def wanted(host: Host) -> dict[str, str]:
    """The labels of a host, those of its roles included."""
    return {**{f"{ROLE}{role}": "" for role in host.roles[1:]}, **host.labels}


def commands(member: Member, cluster: ClusterDocument, before: Clusterfile | None) -> list[str]:
    """The kubectl commands that give a node what the Clusterfile says, and remove what it said before and does not say any more."""
    host = cluster.host(member.address) or Host((), (member.role,))
    old = before.cluster.host(member.address) if before and before.cluster else None
    new_labels, old_labels = wanted(host), wanted(old) if old else {}
    label_commands = []
    gone = [key for key in old_labels if key not in new_labels]
    if new_labels or gone:
        label_commands.append(label(member.name, new_labels, gone))
    kept = {(taint.key, taint.effect) for taint in host.taints}
    lost = [Taint(taint.key, effect=taint.effect, remove=True) for taint in (old.taints if old else ()) if not taint.remove]
    taints = [*(taint for taint in lost if (taint.key, taint.effect) not in kept), *host.taints]
    return [*label_commands, *(taint(member.name, one) for one in taints)]


def step(context: ClusterContext, after: str) -> list[Step]:
    """One step for all nodes, run on the first control-plane node; none when nothing is asked for."""
    cluster, previous = context.spec.clusterfile.cluster, context.spec.previous
    before = previous.cluster if previous else None
    hosts = [*(cluster.hosts if cluster else ()), *(before.hosts if before else ())]
    if cluster is None or not any(host.labels or host.taints or host.roles[1:] for host in hosts):
        return []

    def all_commands() -> list[str]:
        return [command for member in context.resolved.cluster.members for command in commands(member, cluster, previous)]

    def action(node: Node) -> None:
        node.run(script(all_commands()), timeout=300)

    where = (context.spec.first,)
    return [Step("label-nodes", "label the nodes", action, where, after_all=(after,), inputs=lambda _: digest(sorted(all_commands())))]


def label(name: str, labels: Mapping[str, str], gone: Iterable[str] = ()) -> str:
    """The command that gives a node labels and takes others away."""
    words = [*(f"{key}={value}" for key, value in labels.items()), *(f"{key}-" for key in gone)]
    return f"{KUBECTL} label node {shlex.quote(name)} --overwrite {shlex.join(words)}"


def taint(name: str, change: Taint) -> str:
    """The command for one taint; to take one away that is not there is no fault."""
    key = _RENAMED.get(change.key, change.key)
    word = f"{key}{f':{change.effect}' if change.effect else ''}-" if change.remove else f"{key}={change.value}:{change.effect}"
    command = f"{KUBECTL} taint node {shlex.quote(name)} --overwrite {shlex.quote(word)}"
    if not change.remove:
        return command
    return f"{{ said=$({command} 2>&1) || case $said in *'not found'*) ;; *) echo \"$said\" >&2; exit 1 ;; esac; }}"


def script(lines: Iterable[str]) -> str:
    return "\n".join(["set -e", *lines])


def of_node(kubectl: NodeKubectl, name: str) -> dict[str, str]:
    """The labels that a node has in the cluster."""
    return dict(objects.an_object(kubectl.run("get", "node", name, "--output=json"), where=kubectl.where)["metadata"].get("labels") or {})
