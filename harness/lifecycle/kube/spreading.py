"""The name servers of a cluster on different nodes.

kubeadm's deployment only prefers that, and pods stay where they are: a node that is Ready before all others may get every one of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from harness import log
from harness.errors import CommandError
from harness.lifecycle.kube import readiness
from harness.lifecycle.kube.readiness import KubectlRunner, Resource

_LABEL, _DNS = "k8s-app", "kube-dns"
_NAMESPACE = "kube-system"


def spread(kubectl: KubectlRunner, items: Iterable[Resource]) -> bool:
    """Delete one of the name servers when all are on one node and another node can take it; return whether that was done.

    The others answer meanwhile, and the scheduler, which knows all nodes now, chooses the place of the new one.
    """
    name = crowded(items)
    if name is None:
        return False
    try:
        kubectl.run("delete", "pod", name, f"--namespace={_NAMESPACE}", "--wait=false")
    except CommandError as error:
        log.debug(f"{name} not moved: {error.message}")
        return False
    return True


def crowded(items: Iterable[Resource]) -> str | None:
    """The name of a name server that another node can take, while all are on one; None when there is none, or a single one."""
    resources = tuple(items)
    pods = [pod for pod in readiness.of_kind(resources, "Pod") if _is_server(pod)]
    places = {pod["spec"].get("nodeName") for pod in pods}
    # One without a place is the scheduler's to place.
    if len(pods) < 2 or len(places) > 1 or None in places:
        return None
    others = [node for node in readiness.of_kind(resources, "Node") if node["metadata"]["name"] not in places]
    if not any(_takes(node, pods[0]) for node in others):
        return None
    # One that does not answer yet is missed least.
    return str(min(pods, key=lambda pod: readiness.pod_problem(pod) is None)["metadata"]["name"])


def _is_server(pod: Resource) -> bool:
    meta = pod["metadata"]
    labelled = (meta.get("labels") or {}).get(_LABEL) == _DNS and meta.get("namespace") == _NAMESPACE
    # One without an owner would not come back.
    return labelled and not meta.get("deletionTimestamp") and readiness.controller(pod) is not None


def _takes(node: Resource, pod: Resource) -> bool:
    """Return True for a node on which the scheduler may place a pod, as far as its state and its taints say."""
    if readiness.node_problem(node) is not None or node["spec"].get("unschedulable"):
        return False
    taints = [taint for taint in node["spec"].get("taints") or () if taint.get("effect") != "PreferNoSchedule"]
    return all(any(_tolerates(one, taint) for one in pod["spec"].get("tolerations") or ()) for taint in taints)


def _tolerates(toleration: Resource, taint: Resource) -> bool:
    key, effect = toleration.get("key"), toleration.get("effect")
    if (key and key != taint.get("key")) or (effect and effect != taint.get("effect")):
        return False
    return toleration.get("operator") == "Exists" or (bool(key) and (toleration.get("value") or "") == (taint.get("value") or ""))
