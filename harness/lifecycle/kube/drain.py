"""Drain a node: evict its pods through the API, so that PodDisruptionBudgets are honoured."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from harness import log, untrusted
from harness.errors import CheckError, CommandError, NodeError
from harness.lifecycle.kube import objects, readiness
from harness.lifecycle.kube.readiness import Resource
from harness.nodes import Node
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes.kubeadm import KUBECTL

TIMEOUT = 120
"""Seconds after which a drain is given up, with a report of the pods that still run."""
_PING = 5
"""Seconds between checks that the drained node still answers."""

_ANSWER = 60
"""Seconds for that answer; a dead connection ends by itself before."""

_AT_ONCE = 50
"""Pods whose eviction one command requests: Linux takes 128 KiB as one argument, and each takes half a KiB at least."""

_MIRROR = "kubernetes.io/config.mirror"


@dataclasses.dataclass(frozen=True)
class Pods:
    """The pods of a node that a drain evicts."""

    evict: tuple[Resource, ...]
    alone: tuple[Resource, ...]
    """Pods of ``evict`` that no controller starts again on another node."""
    local: tuple[Resource, ...]
    """Pods of ``evict`` whose emptyDir volumes are lost."""


def sort(pods: Iterable[Resource]) -> Pods:
    """Sort the pods of a node. Pods of DaemonSets and static pods stay: they end with the node."""
    evict = [pod for pod in pods if not _stays(pod)]
    alone = [pod for pod in evict if readiness.controller(pod) is None and not _finished(pod)]
    local = [pod for pod in evict if not _finished(pod) and _keeps_data(pod)]
    return Pods(tuple(evict), tuple(alone), tuple(local))


def _stays(pod: Resource) -> bool:
    owner = readiness.controller(pod)
    return _MIRROR in (pod["metadata"].get("annotations") or {}) or (owner is not None and owner["kind"] in ("DaemonSet", "Node"))


def _finished(pod: Resource) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _keeps_data(pod: Resource) -> bool:
    volumes = pod["spec"].get("volumes") or ()
    return any("emptyDir" in volume and (volume["emptyDir"] or {}).get("medium") != "Memory" for volume in volumes)


def _name(pod: Resource) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def minor(version: str) -> int:
    """The minor version: 36 of ``v1.36.3``."""
    match = re.match(r"v?[0-9]{1,4}\.([0-9]{1,4})", version)
    if not match:
        raise CheckError(f"{untrusted.shown(version)[:60]!r} is not a version of Kubernetes")
    return int(match[1])


class Api:
    """The API calls of a drain, through a control-plane node."""

    def __init__(self, node: Node) -> None:
        self.control_plane_node = node
        self.kubectl = NodeKubectl(node)

    def node(self, name: str) -> Resource | None:
        """The Node object; None when it does not exist."""
        text = self.kubectl.run("get", "node", name, "--ignore-not-found", "--output=json")
        return objects.an_object(text, where=self.kubectl.where) if text.strip() else None

    def pods(self, node: str) -> tuple[Resource, ...]:
        text = self.kubectl.run("get", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={node}", "--output=json")
        return tuple(objects.objects(text, where=self.kubectl.where))

    def all_pods(self) -> tuple[Resource, ...]:
        return readiness.get(self.kubectl, "pods")

    def cordon(self, node: str) -> None:
        self.kubectl.run("cordon", node)

    def uncordon(self, node: str) -> None:
        self.kubectl.run("uncordon", node)

    def evict(self, pods: Sequence[Resource]) -> dict[str, str]:
        """Request the eviction of pods in parallel; return the reasons of refusals, by pod."""
        return {
            pod: reason for begin in range(0, len(pods), _AT_ONCE) for pod, reason in self._evict(pods[begin : begin + _AT_ONCE]).items()
        }

    def _evict(self, pods: Sequence[Resource]) -> dict[str, str]:
        script = ["work=$(mktemp -d) || exit 1", "trap 'rm -rf \"$work\"' EXIT"]
        for index, pod in enumerate(pods):
            meta = pod["metadata"]
            place = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta["name"], "namespace": meta["namespace"]}}
            script.append(
                f"( printf '%s' {shlex.quote(json.dumps(body))} | {KUBECTL} create --raw {shlex.quote(place)} -f - > $work/{index} 2>&1"
                f" && rm $work/{index} ) &"
            )
            # A few at a time: each starts a process.
            if index % 8 == 7:
                script.append("wait")
        script += ["wait", 'cd "$work"; for file in *; do [ -e "$file" ] && echo "$file $(tr "\\n" " " < "$file")"; done; true']
        refused = {}
        for line in self.control_plane_node.run("\n".join(script), timeout=120).stdout.splitlines():
            number, _, message = line.partition(" ")
            position = untrusted.number(number, maximum=len(pods) - 1)
            if position is not None and "NotFound" not in message:
                refused[_name(pods[position])] = _reason(message)
        return refused

    def delete_pods(self, node: str, pods: Sequence[Resource]) -> None:
        """Delete pods without waiting for their node, which is gone or leaves."""
        by_namespace: dict[str, list[str]] = {}
        for pod in pods:
            by_namespace.setdefault(pod["metadata"]["namespace"], []).append(pod["metadata"]["name"])
        for namespace, names in by_namespace.items():
            words = ("--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
            self.kubectl.run("delete", "pod", f"--namespace={namespace}", *words, *names)
        log.debug(f"{node}: {len(pods)} pods deleted")

    def delete_node(self, node: str) -> None:
        self.kubectl.run("delete", "node", node, "--ignore-not-found", "--wait=false")

    def budgets(self) -> tuple[Resource, ...]:
        text = self.kubectl.run("get", "poddisruptionbudgets", "--all-namespaces", "--output=json")
        return tuple(objects.objects(text, where=self.kubectl.where))


def _reason(message: str) -> str:
    return " ".join(message.split()).removeprefix("Error from server (TooManyRequests): ").removesuffix(".") or "refused without a reason"


def last_ones(
    pods: Iterable[Resource], everywhere: Iterable[Resource], leaving: Collection[str], several: set[str]
) -> tuple[Resource, ...]:
    """Pods whose eviction is postponed: without them no pod of their owner would be ready.

    That is one pod of each owner with several, while none is ready on a node other than the ``leaving`` ones. ``several`` remembers
    the uids of such owners: between the end of one pod and the start of the next they may have fewer.
    """
    by_owner: dict[str, list[Resource]] = {}
    for pod in everywhere:
        controller = readiness.controller(pod)
        if controller is not None and not _finished(pod):
            by_owner.setdefault(str(controller.get("uid")), []).append(pod)
    several |= {owner for owner, owned in by_owner.items() if len(owned) > 1}
    candidates = {_name(pod): pod for pod in pods}
    last = []
    for owner, owned in by_owner.items():
        ready = [pod for pod in owned if _ready(pod) and not pod["metadata"].get("deletionTimestamp")]
        if owner in several and ready and all(pod["spec"].get("nodeName") in leaving for pod in ready):
            # The same pod at every call, for each of the nodes.
            last.append(min(map(_name, ready)))
    return tuple(candidates[name] for name in last if name in candidates)


def _ready(pod: Resource) -> bool:
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in pod.get("status", {}).get("conditions") or ())


def drain(
    api: Api,
    node: str,
    *,
    force: bool = False,
    leaving: Collection[str] | None = None,
    machine: Node | None = None,
    timeout: float = TIMEOUT,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Cordon a node that answers and wait until its pods are gone; return their number.

    With ``force``, pods that are left after ``timeout`` seconds are deleted, and pods that no controller starts again are evicted too.
    With ``leaving``, all nodes that are drained now, the last ready pod of an owner with several waits for another one elsewhere.
    Raises CheckError with everything that blocks the drain; the node stays cordoned. Raises NodeError when ``machine``, on which the
    pods end, stops answering: they never would.
    """
    if api.node(node) is None:
        return 0
    sorted_pods = sort(api.pods(node))
    if sorted_pods.alone and not force:
        names = ", ".join(_name(pod) for pod in sorted_pods.alone)
        raise CheckError(f"{node} runs pods that no controller would start again elsewhere: {names}", hint="delete them, or use --force")
    api.cordon(node)
    for pod in sorted_pods.local:
        log.warning(f"{node}: {_name(pod)} has data in an emptyDir, which is lost")
    return _evict_all(api, node, force, leaving, machine, clock() + timeout, timeout, clock, sleep)


def _evict_all(
    api: Api,
    node: str,
    force: bool,
    leaving: Collection[str] | None,
    machine: Node | None,
    deadline: float,
    timeout: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> int:
    evicted: set[str] = set()
    several: set[str] = set()
    refused: dict[str, str] = {}
    checked = clock()
    while True:
        pods = sort(api.pods(node)).evict
        evicted |= {_name(pod) for pod in pods}
        if not pods:
            return len(evicted)
        if machine is not None and clock() - checked >= _PING:
            _ping(machine, node, len(pods))
            checked = clock()
        if clock() > deadline:
            if not force:
                raise _blocked(api, node, pods, refused, timeout)
            log.warning(f"{node}: {', '.join(_name(pod) for pod in pods)} deleted by force")
            api.delete_pods(node, pods)
            return len(evicted)
        candidates = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        kept = {_name(pod) for pod in last_ones(candidates, api.all_pods(), leaving, several)} if leaving and candidates else set()
        candidates = [pod for pod in candidates if _name(pod) not in kept]
        refused = dict.fromkeys(kept, "no other pod of its owner is ready yet")
        if candidates:
            refused |= api.evict(candidates)
        # Refused pods wait for others to become ready elsewhere; evicted ones end within moments.
        sleep(1 if refused else 0.3)


def _ping(machine: Node, node: str, pods: int) -> None:
    """Raises NodeError when a node does not answer. One that is only slow may still end its pods."""
    try:
        machine.run("true", timeout=_ANSWER)
    except CommandError as slow:
        log.debug(slow.message)
    except NodeError as lost:
        raise NodeError(
            f"{node} was lost while its pods were moved: {lost.message}",
            hint=f"{pods} of them were left. Start the machine and run the same command again, or remove it with slipway remove",
        ) from lost


def _blocked(api: Api, node: str, pods: Sequence[Resource], refused: Mapping[str, str], timeout: float) -> CheckError:
    try:
        budgets = api.budgets()
    except (CommandError, NodeError):
        budgets = ()
    lines = []
    for pod in pods:
        reason = refused.get(_name(pod)) or "was evicted and has not ended"
        limits = [budget["metadata"]["name"] for budget in budgets if _covers(budget, pod)] if _name(pod) in refused else []
        lines.append(f"{_name(pod)}: {reason}" + (f" (PodDisruptionBudget {', '.join(limits)})" if limits else ""))
    return CheckError(
        f"{node} still runs {len(pods)} pod{'s' if len(pods) > 1 else ''} after {timeout:.0f} s; it stays cordoned",
        hint=f"let them become ready elsewhere and run the same command again, or use --force; kubectl uncordon {node} reverts",
        details="\n".join(lines),
    )


def _covers(budget: Resource, pod: Resource) -> bool:
    selector: Mapping[str, Any] = budget["spec"].get("selector") or {}
    labels = pod["metadata"].get("labels") or {}
    return budget["metadata"]["namespace"] == pod["metadata"]["namespace"] and all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    )


def let_go(api: Api, node: str) -> int:
    """Delete the pods of a node that does not answer, so that they start elsewhere at once; return their number."""
    pods = api.pods(node)
    api.delete_pods(node, pods)
    return len(sort(pods).evict)


def forget(api: Api, node: str) -> None:
    """Delete the Node object, then its remaining pods: the cluster would keep these for a minute."""
    api.delete_node(node)
    api.delete_pods(node, api.pods(node))


def names(items: Iterable[Resource]) -> dict[str, str]:
    """The names of nodes by address."""
    nodes = readiness.of_kind(items, "Node")
    return {address: node["metadata"]["name"] for node in nodes for address in objects.internal_addresses(node)}
