"""Steps that wait: for nodes, for the DNS of the cluster, for workloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from harness import log
from harness.errors import CheckError, SlipwayError
from harness.lifecycle.cluster import record
from harness.lifecycle.kube import dns, readiness, spreading, wait
from harness.lifecycle.plan import Step
from harness.lifecycle.steps.context import ClusterContext
from harness.nodes import Node, each
from harness.runtimes import DNS_DOMAIN, SYSTEM

_WATCH = 10
"""Seconds between two looks at machines that something is waited for from."""
_DNS_IN_SERVICE = f"kubernetes.default.svc.{DNS_DOMAIN}"


def wait_for_nodes(context: ClusterContext, after: str) -> Step:
    """Until every node is Ready, everything of the cluster itself is, and its DNS answers."""

    def action() -> str:
        names, spread = [member.name for member in context.resolved.cluster.members], context.resolved.cluster.own_dns

        def heal(items: Sequence[readiness.Resource]) -> None:
            nonlocal spread
            wait.nudge(context.kubectl, items)
            # Once, and as soon as a second node is Ready: most of the time something else is still starting then.
            spread = spread or spreading.spread(context.kubectl, items)

        def settle() -> tuple[readiness.Resource, ...]:
            watch = watching(context.spec.nodes)
            return wait.settle(
                context.kubectl, timeout=context.spec.timeout, quiet=0, namespaces=SYSTEM, nodes=names, progress=watch, heal=heal
            )

        try:
            items = settle()
            if not spread and spreading.spread(context.kubectl, items):
                spread = True
                settle()
        except CheckError as error:
            raise CheckError(error.message, hint=error.hint, details=f"{error.details or ''}\n{_kubelet_logs(context)}".strip()) from error
        context.resolved.runtime.registered()
        wait_for_dns(context)
        return f"{len(names)} Ready"

    return Step(
        "wait-for-nodes", "wait for the nodes", action, after=(after, "wait-for-api", "start-kubelets"), after_all=("hasten-kubelets",)
    )


def watching(nodes: Sequence[Node]) -> Callable[[object], None]:
    """To be called while something is waited for: from time to time sees whether the machines are there still.

    It raises NodeError when one is not: what is waited for would not come about.
    """
    asked = time.monotonic()

    def watch(_: object) -> None:
        nonlocal asked
        if time.monotonic() - asked >= _WATCH:
            each(nodes, lambda node: node.run("true", timeout=60))
            asked = time.monotonic()

    return watch


def _kubelet_logs(context: ClusterContext) -> str:
    """Logs of the kubelets whose nodes are not Ready; of all when the API does not answer, which must not hide why the wait has ended."""
    try:
        items = readiness.get(context.kubectl, "nodes")
    except SlipwayError:
        items = ()
    ready = {node["metadata"]["name"] for node in readiness.of_kind(items, "Node") if readiness.node_problem(node) is None}
    return "\n".join(kubelet_log(member.node, member.name) for member in context.resolved.cluster.members if member.name not in ready)


def kubelet_log(node: Node, name: str) -> str:
    """The last lines of a node's balancer and kubelet."""
    journal = "journalctl --no-pager -o cat"
    try:
        lines = node.run(f"{journal} -u slipway-balancer -n 6; {journal} -u kubelet -n 8", check=False, timeout=30).stdout.strip()
    except SlipwayError as error:
        lines = error.message
    return f"log of {name}:\n{lines}"


def wait_for_dns(context: ClusterContext) -> None:
    """Raises CheckError when the cluster's DNS does not answer from the first control-plane node within a minute."""
    network = context.resolved.network
    problem = dns.problem(context.spec.first, network.dns, _DNS_IN_SERVICE, expected=network.api, seconds=60)
    if problem:
        raise CheckError(f"the cluster's DNS does not answer: {problem}", hint="see the pods labelled k8s-app=kube-dns in kube-system")


def wait_for_workloads(context: ClusterContext, after: str, *, launched: bool) -> Step:
    """Until everything is ready and, when something was launched, nothing more appears."""

    def action() -> str:
        quiet, watch = 1 if launched else 0, watching(context.spec.nodes)
        items = wait.settle(context.kubectl, timeout=context.spec.timeout, quiet=quiet, progress=watch, but=context.unready_before)
        return f"{len(readiness.of_kind(items, 'Pod'))} pods"

    return Step("wait-for-workloads", "wait for the workloads", action, after=(after,))


def record_unready_workloads(context: ClusterContext) -> None:
    """Note, before anything is changed in a running cluster, which workloads are not ready: they are not waited for afterwards.

    The cluster keeps the list until ``record``: when a change is cut off, the next must not take for old what that one broke.
    """
    noted = record.read(context.kubectl).unready_workloads()
    if noted is None:
        noted = sorted(readiness.ailing(readiness.get(context.kubectl)))
        record.note_unready(context.kubectl, noted)
    context.unready_before = noted
    for name in context.unready_before:
        log.warning(f"{name}: was not ready before; it is not waited for")
