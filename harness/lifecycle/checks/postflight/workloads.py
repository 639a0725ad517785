"""The workloads of a running cluster, and the enforcement of its NetworkPolicies."""

from __future__ import annotations

from collections.abc import Iterable

from harness.cloudimage import enforcers
from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.core import Health, check
from harness.lifecycle.kube import objects, readiness
from harness.lifecycle.kube.readiness import Problem
from harness.runtimes import SYSTEM


@check("system-pods", "system pods", "the pods of the cluster itself are ready: API, DNS, network, proxies")
def _system_pods(health: Health) -> Iterable[tuple[str, Verdict]]:
    return _workloads(health, system=True)


@check("workloads", "workloads", "every workload that was launched is ready")
def _applications(health: Health) -> Iterable[tuple[str, Verdict]]:
    return _workloads(health, system=False)


def _workloads(health: Health, *, system: bool) -> Iterable[tuple[str, Verdict]]:
    if health.silent is not None:
        return [(health.name, unknown("the API does not answer"))]
    problems = [
        problem
        for problem in health.problems
        if not problem.object.startswith("Node ") and any(f" {namespace}/" in problem.object for namespace in SYSTEM) == system
    ]
    pods = [pod for pod in readiness.of_kind(health.items, "Pod") if (pod["metadata"].get("namespace") in SYSTEM) == system]
    if not problems:
        return [(health.name, ok(f"{len(pods)} pods"))]
    return [(problem.object, failed(problem.reason, _remedy(problem))) for problem in problems]


def _remedy(problem: Problem) -> str:
    message = problem.reason.rpartition(": ")[2]
    reports = [text for text in (*problem.events[-1:], *problem.log[-1:]) if message not in text]
    kind, _, rest = problem.object.partition(" ")
    namespace, _, name = rest.partition("/")
    where = f"kubectl --namespace {namespace} describe {kind.lower()} {name}" if name else f"kubectl describe {kind.lower()} {namespace}"
    return f"{reports[0]}; {where}" if reports else where


@check("network-policies", "network policies", "a NetworkPolicy that nothing enforces protects nothing")
def _policies(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.silent is not None:
        return [(health.name, unknown("the API does not answer"))]
    policies = sorted(readiness.title(item).removeprefix("NetworkPolicy ") for item in readiness.of_kind(health.items, "NetworkPolicy"))
    used = enforcers.among(objects.daemonset_images(health.items))
    if not policies:
        return [(health.name, ok(f"none; {'they would be enforced' if used else 'nothing would enforce them'}"))]
    more = f" and {len(policies) - 1} more" if len(policies) > 1 else ""
    remedy = "use a pod network that enforces them (CNI), or a base image built with POLICY=kube-network-policies"
    if not used:
        return [(health.name, warning(f"nothing enforces {policies[0]}{more}: every pod reaches every pod", remedy))]
    idle = {address: why for address, machine in health.machines.items() if (why := enforcers.unserved(used, machine.has))}
    if idle:
        return [(address, failed(f"nothing enforces {policies[0]}{more} on it: {why}", "another kernel")) for address, why in idle.items()]
    return [(health.name, ok(f"{len(policies)}, {enforcers.told(used)}"))]
