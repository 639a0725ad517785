"""The nodes of a running cluster: access, versions, services, disks and clocks."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.lifecycle.checks import preflight
from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.core import Health, check
from harness.lifecycle.checks.preflight import Target, Wanted
from harness.lifecycle.cluster import change, record
from harness.lifecycle.kube import readiness
from harness.runtimes import ClusterNetwork

FULL = 0.85
"""Used part of a disk above which kubelets soon evict pods."""
_RESTARTS = 5


@check("access", "way in", "slipway can log in to every node of the cluster")
def _access(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address in health.roles:
        reason = health.unreachable.get(address)
        if reason is None:
            yield address, ok("answers")
        else:
            yield address, failed(reason.removeprefix(f"{address}: "), f"start it again, or: slipway remove {health.name} {address}")


@check("api", "API", "the API server answers")
def _api(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.silent is not None:
        yield (
            health.name,
            failed(f"the API does not answer: {health.silent}", "slipway logs; with most control-plane nodes gone, restore a backup"),
        )
    else:
        yield health.name, ok(health.version or "answers")


@check("record", "record", "the cluster has its record, which apply, join and upgrade read")
def _record(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.silent is not None:
        yield health.name, unknown("the API does not answer")
    elif "record" in health.unreadable:
        yield health.name, _unreadable(health.unreadable["record"], record.CONFIG_MAP)
    elif health.record:
        yield health.name, ok("exists")
    else:
        yield health.name, warning("has no record of slipway", "finish it with slipway run, or: slipway generate --from-cluster --adopt")


@check("change", "upgrade", "no upgrade or rollback is unfinished")
def _change(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.silent is not None:
        yield health.name, unknown("the API does not answer")
    elif "change" in health.unreadable:
        yield health.name, _unreadable(health.unreadable["change"], change.CONFIG_MAP)
    elif health.change is None:
        yield health.name, ok("none is unfinished")
    else:
        move = health.change
        remedy = f"finish it: slipway upgrade {health.name} {move.after.image}, or slipway rollback {health.name}"
        text = f"the {move.kind} from {move.before} to {move.after} of {move.since} is not finished"
        yield health.name, warning(text, remedy)


def _unreadable(reason: str, config_map: str) -> Verdict:
    return failed(f"cannot be read: {reason}", f"look at it: kubectl --namespace kube-system get configmap {config_map} --output yaml")


@check("nodes", "nodes", "every node is Ready, and every machine is a node")
def _nodes(health: Health) -> Iterable[tuple[str, Verdict]]:
    nodes = readiness.of_kind(health.items, "Node")
    for node in nodes:
        name = node["metadata"]["name"]
        problem = readiness.node_problem(node)
        if problem is not None and problem.cause == "NodeNotReady":
            remedy = f"journalctl -u kubelet on it; slipway exec {health.name} --on {name} -- systemctl status kubelet"
            yield name, failed(problem.reason, remedy)
        elif node["spec"].get("unschedulable"):
            yield name, warning("takes no pods (cordoned)", f"kubectl uncordon {name}")
        else:
            yield name, ok("Ready")
    if health.silent is None:
        addresses = {entry["address"] for node in nodes for entry in node["status"].get("addresses") or ()}
        for address in health.roles:
            if address not in addresses:
                yield address, failed("is not a node of the cluster", "slipway run or join adds it; slipway remove takes it out")


@check("pressure", "pressure", "no node is short of memory, disk or processes, for which it would evict pods")
def _pressure(health: Health) -> Iterable[tuple[str, Verdict]]:
    for node in readiness.of_kind(health.items, "Node"):
        problem = readiness.node_problem(node)
        if problem is not None and problem.cause != "NodeNotReady":
            yield node["metadata"]["name"], failed(problem.reason, "free some, or move what uses it; pods are evicted until then")
        else:
            yield node["metadata"]["name"], ok("none")


@check("versions", "versions", "kubelets are no newer than the API server, and at most three minor versions older")
def _versions(health: Health) -> Iterable[tuple[str, Verdict]]:
    api = _numbers(health.version)
    for node in readiness.of_kind(health.items, "Node"):
        text = node["status"].get("nodeInfo", {}).get("kubeletVersion", "")
        kubelet, name = _numbers(text), node["metadata"]["name"]
        if not api or not kubelet:
            yield name, unknown(text or "not known")
        elif kubelet[:2] > api[:2]:
            yield (
                name,
                failed(f"its kubelet {text} is newer than the API server {health.version}", "upgrade the API server: slipway upgrade"),
            )
        elif (api[0], api[1] - 3) > kubelet[:2]:
            yield name, failed(f"its kubelet {text} is too old for the API server {health.version}", "slipway upgrade finishes it")
        elif kubelet != api:
            yield name, warning(f"its kubelet is {text}, the API server {health.version}", "slipway upgrade finishes it")
        else:
            yield name, ok(text)


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", text or "")[:3])


@check("services", "services", "kubelet, containerd, registry and balancer run on their nodes, and keep running")
def _services(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        down = {name: unit for name, unit in answer.units.items() if unit.active != "active"}
        restarted = {name: unit.restarts for name, unit in answer.units.items() if unit.restarts >= _RESTARTS and (unit.since or 0) < 3600}
        if down:
            texts = ", ".join(f"{name} is {unit.active}" for name, unit in down.items())
            yield address, failed(texts, f"journalctl -u {next(iter(down))}; systemctl restart {next(iter(down))}")
        elif restarted:
            texts = ", ".join(f"{name} {count} times" for name, count in restarted.items())
            yield address, warning(f"keeps restarting: {texts}", f"journalctl -u {next(iter(restarted))} says why")
        elif not answer.units:
            yield address, unknown("does not report its services")
        else:
            yield address, ok(", ".join(answer.units))


@check("disk-space", "disk space", "no disk of a node is nearly full")
def _disk_space(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, machine in health.machines.items():
        places = [place for place in machine.places.values() if place.total]
        if not places:
            yield address, unknown("does not report its free space")
            continue
        worst = min(places, key=lambda place: place.free / place.total)
        text = f"{worst.free / worst.total:.0%} of {worst.mount} free"
        # A large disk lasts long when a small part of it is free, but kubelets count in parts.
        yield address, warning(text, "free some before kubelets evict pods") if worst.free / worst.total < 1 - FULL else ok(text)


@check("clock", "clocks", "the clocks of all nodes agree")
def _clock(health: Health) -> Iterable[tuple[str, Verdict]]:
    targets = [Target(address, health.roles[address], machine) for address, machine in health.machines.items()]
    network = health.network or ClusterNetwork("100.64.0.0/10", "10.96.0.0/22")
    # The certificates exist already: only the difference between nodes matters.
    wanted = Wanted(health.name, (), 0, network, frozenset(health.roles))
    return tuple(preflight.clock(targets, wanted).items())
