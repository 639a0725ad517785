"""Taking the pods off a node: evicted one by one through the API, so that whoever limits disruption is heard."""

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
"""Seconds until what still runs on a node is told and the drain given up."""
_LOOK = 5
"""Seconds after which the machine that is drained is asked again whether it is still there."""

_ANSWER = 60
"""Seconds that it may take; a connection that is dead ends by itself before."""

_MIRROR = "kubernetes.io/config.mirror"


@dataclasses.dataclass(frozen=True)
class Pods:
    """The pods of a node, by what becomes of them."""

    evict: tuple[Resource, ...]
    alone: tuple[Resource, ...]
    """Those of ``evict`` that nothing will start again elsewhere."""
    local: tuple[Resource, ...]
    """Those of ``evict`` whose emptyDir volumes are lost."""


def sort(pods: Iterable[Resource]) -> Pods:
    """What is to be done with the pods of a node: those of DaemonSets and of the node itself stay, they go with it."""
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
    """36 of ``v1.36.3``."""
    found = re.match(r"v?[0-9]{1,4}\.([0-9]{1,4})", version)
    if not found:
        raise CheckError(f"{untrusted.shown(version)[:60]!r} is not a version of Kubernetes")
    return int(found[1])


class Api:
    """What a drain asks of the cluster, through a master."""

    def __init__(self, master: Node) -> None:
        self.master = master
        self.kubectl = NodeKubectl(master)

    def node(self, name: str) -> Resource | None:
        """The Node object; None when there is none."""
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
        """Ask for the eviction of pods, all at the same time; why it was refused, by pod."""
        script = ["work=$(mktemp -d) || exit 1", "trap 'rm -rf \"$work\"' EXIT"]
        for index, pod in enumerate(pods):
            meta = pod["metadata"]
            place = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction"
            body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta["name"], "namespace": meta["namespace"]}}
            script.append(
                f"( printf '%s' {shlex.quote(json.dumps(body))} | {KUBECTL} create --raw {shlex.quote(place)} -f - > $work/{index} 2>&1"
                f" && rm $work/{index} ) &"
            )
            # A few at a time: a program each.
            if index % 8 == 7:
                script.append("wait")
        script += ["wait", 'cd "$work"; for file in *; do [ -e "$file" ] && echo "$file $(tr "\\n" " " < "$file")"; done; true']
        refused = {}
        for line in self.master.run("\n".join(script), timeout=120).stdout.splitlines():
            number, _, said = line.partition(" ")
            at = untrusted.number(number, maximum=len(pods) - 1)
            if at is not None and "NotFound" not in said:
                refused[_name(pods[at])] = _reason(said)
        return refused

    def delete_pods(self, node: str, pods: Sequence[Resource]) -> None:
        """Delete pods without asking their node, which is gone or goes."""
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


def _reason(said: str) -> str:
    return " ".join(said.split()).removeprefix("Error from server (TooManyRequests): ").removesuffix(".") or "refused without a reason"


def last_ones(
    pods: Iterable[Resource], everywhere: Iterable[Resource], leaving: Collection[str], several: set[str]
) -> tuple[Resource, ...]:
    """Of the pods that are to be evicted those that stay a little: without them nothing of their owner would be ready.

    That is one of each owner that has several pods, while none on other nodes than the ``leaving`` ones is ready. ``several`` remembers
    the uids of such owners: between the end of one pod and the next one's beginning they may have fewer.
    """
    by_owner: dict[str, list[Resource]] = {}
    for pod in everywhere:
        controller = readiness.controller(pod)
        if controller is not None and not _finished(pod):
            by_owner.setdefault(str(controller.get("uid")), []).append(pod)
    several |= {owner for owner, theirs in by_owner.items() if len(theirs) > 1}
    asked = {_name(pod): pod for pod in pods}
    found = []
    for owner, theirs in by_owner.items():
        ready = [pod for pod in theirs if _ready(pod) and not pod["metadata"].get("deletionTimestamp")]
        if owner in several and ready and all(pod["spec"].get("nodeName") in leaving for pod in ready):
            # The same one however often, and from whichever of the nodes, this is asked.
            found.append(min(map(_name, ready)))
    return tuple(asked[name] for name in found if name in asked)


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
    """Cordon a node that lives and wait until its pods have gone; how many that were.

    With ``force``, what is not gone after ``timeout`` seconds is deleted, and pods that nothing starts again go too. With ``leaving``, all
    nodes that are drained now, the last ready pod of an owner that has several goes when another one is ready elsewhere.
    Raises CheckError with all that is in the way; the node then stays cordoned, so that nothing new comes. Raises NodeError when
    ``machine``, on which the pods are to end, does not answer any more: they never would.
    """
    if api.node(node) is None:
        return 0
    sorted_pods = sort(api.pods(node))
    if sorted_pods.alone and not force:
        names = ", ".join(_name(pod) for pod in sorted_pods.alone)
        raise CheckError(f"{node} runs pods that nothing would start again elsewhere: {names}", hint="delete them, or use --force")
    api.cordon(node)
    for pod in sorted_pods.local:
        log.warning(f"{node}: {_name(pod)} keeps data in an emptyDir; that is lost")
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
    seen: set[str] = set()
    several: set[str] = set()
    refused: dict[str, str] = {}
    looked = clock()
    while True:
        pods = sort(api.pods(node)).evict
        seen |= {_name(pod) for pod in pods}
        if not pods:
            return len(seen)
        if machine is not None and clock() - looked >= _LOOK:
            _look(machine, node, len(pods))
            looked = clock()
        if clock() > deadline:
            if not force:
                raise _blocked(api, node, pods, refused, timeout)
            log.warning(f"{node}: {', '.join(_name(pod) for pod in pods)} deleted by force")
            api.delete_pods(node, pods)
            return len(seen)
        asked = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        kept = {_name(pod) for pod in last_ones(asked, api.all_pods(), leaving, several)} if leaving and asked else set()
        asked = [pod for pod in asked if _name(pod) not in kept]
        refused = dict.fromkeys(kept, "nothing else of its owner is ready yet")
        if asked:
            refused |= api.evict(asked)
        # What was refused waits for others to become ready elsewhere; what was taken ends within moments.
        sleep(1 if refused else 0.3)


def _look(machine: Node, node: str, pods: int) -> None:
    """Raises NodeError when a machine is not there any more. One that is only slow may still end its pods."""
    try:
        machine.run("true", timeout=_ANSWER)
    except CommandError as slow:
        log.debug(slow.message)
    except NodeError as lost:
        raise NodeError(
            f"{node} was lost while its pods were moved: {lost.message}",
            hint=f"{pods} of them were still there. Start the machine and run the same command again, or take it out with slipway remove",
        ) from lost


def _blocked(api: Api, node: str, pods: Sequence[Resource], refused: Mapping[str, str], timeout: float) -> CheckError:
    try:
        budgets = api.budgets()
    except (CommandError, NodeError):
        budgets = ()
    lines = []
    for pod in pods:
        reason = refused.get(_name(pod)) or "was asked to end and has not"
        limits = [budget["metadata"]["name"] for budget in budgets if _covers(budget, pod)] if _name(pod) in refused else []
        lines.append(f"{_name(pod)}: {reason}" + (f" (PodDisruptionBudget {', '.join(limits)})" if limits else ""))
    return CheckError(
        f"{node} still runs {len(pods)} pod{'s' if len(pods) > 1 else ''} after {timeout:.0f} s; it stays cordoned",
        hint=f"let them become ready elsewhere and run the same command again, or use --force; kubectl uncordon {node} takes it back",
        details="\n".join(lines),
    )


def _covers(budget: Resource, pod: Resource) -> bool:
    selector: Mapping[str, Any] = budget["spec"].get("selector") or {}
    labels = pod["metadata"].get("labels") or {}
    return budget["metadata"]["namespace"] == pod["metadata"]["namespace"] and all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    )


def let_go(api: Api, node: str) -> int:
    """Take a node off the cluster that does not answer: its pods are started elsewhere at once. How many that were."""
    pods = api.pods(node)
    api.delete_pods(node, pods)
    return len(sort(pods).evict)


def forget(api: Api, node: str) -> None:
    """Delete the Node object, and then what its DaemonSets and the node itself ran there: nobody else would for a minute."""
    api.delete_node(node)
    api.delete_pods(node, api.pods(node))


def names(items: Iterable[Resource]) -> dict[str, str]:
    """The names of the nodes by their address."""
    nodes = readiness.of_kind(items, "Node")
    return {address: node["metadata"]["name"] for node in nodes for address in objects.internal_addresses(node)}
