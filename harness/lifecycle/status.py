"""``slipway status``: how a cluster is, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from harness.clusterfile import ROLES, WORKER
from harness.errors import SlipwayError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, change, record
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.cluster.record import OWN, ClusterRecord, NoRecordError
from harness.lifecycle.kube import objects, readiness
from harness.lifecycle.kube.readiness import Resource
from harness.lifecycle.provision import ipvs
from harness.nodes import Machine, Node, each

Value = TypeVar("Value")

_WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
_ROLE = "node-role.kubernetes.io/"


def status(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    home: Path | None = None,
) -> dict[str, Any]:
    """State of a cluster; see ``gather`` for the shape. Raises UsageError when it is not known."""
    with access.opened(access.known(name, control_plane, workers, home=home)) as cluster:
        return gather(cluster)


def gather(cluster: Access) -> dict[str, Any]:
    """``{"name", "image", "digest", "healthy", "kubernetes", "nodes": [...], "workloads": {kind: {"ready", "total"}}, "notReady": [...],
    "registry": [...], "balancers": [...], "unreachable": [...], "change": {...}}``. An API that does not answer, and a record that
    cannot be read, are in ``notReady``; ``change`` is an upgrade or a rollback that is not finished, None without one.
    """
    state: dict[str, Any] = {
        "name": cluster.known.state.name,
        "image": None,
        "digest": None,
        "kubernetes": None,
        "nodes": [],
        "workloads": {},
        "change": None,
    }
    own = True
    problems: tuple[readiness.Problem, ...]
    try:
        items = readiness.get(cluster.kubectl)
        problems = readiness.explain(cluster.kubectl, items, static=False)
        state |= {"nodes": _nodes(items, problems), "workloads": _workloads(items, problems), "kubernetes": _version(cluster)}
    except SlipwayError as error:
        problems = (readiness.Problem("the API", f"does not answer: {error.message}", "Silent"),)
    else:
        # An unreadable record is a problem of its own; the rest is still shown.
        stored, unreadable = _read("the record of the cluster", lambda: _record(cluster))
        own = stored is None or stored.registry == OWN
        state |= {"image": stored and stored.image, "digest": stored and stored.digest}
        state["change"], unreadable_change = _read("the record of its last change", lambda: _change(cluster))
        problems = (*problems, *unreadable, *unreadable_change)
    state["notReady"] = [problem.to_json() for problem in problems]
    state["registry"] = each(cluster.control_plane, _registry) if own else []
    state["balancers"] = [one for one in each((*cluster.control_plane, *cluster.workers), ipvs.status) if one]
    state["unreachable"] = [{"address": address, "reason": error.message} for address, error in cluster.unreachable.items()]
    serves = not own or any(registry["active"] for registry in state["registry"])
    state["healthy"] = not problems and not cluster.unreachable and serves and all(one["active"] for one in state["balancers"])
    return state


def _read(what: str, read: Callable[[], Value | None]) -> tuple[Value | None, tuple[readiness.Problem, ...]]:
    try:
        return read(), ()
    except SlipwayError as error:
        return None, (readiness.Problem(what, f"cannot be read: {error.message}", "Unreadable"),)


def _change(cluster: Access) -> dict[str, Any] | None:
    """An upgrade or rollback that was begun and has not come to its end."""
    last = change.unfinished(cluster.kubectl)
    if last is None:
        return None
    return {"kind": last.kind, "from": str(last.before), "to": str(last.after), "since": last.since}


def _record(cluster: Access) -> ClusterRecord | None:
    try:
        return record.read(cluster.kubectl)
    except NoRecordError:
        # A run that did not finish, or a cluster of another tool.
        return None


def _nodes(items: Iterable[Resource], problems: Sequence[readiness.Problem]) -> list[dict[str, Any]]:
    reasons = {problem.object: problem.reason for problem in problems}
    return [_node(node, reasons.get(readiness.title(node))) for node in readiness.of_kind(items, "Node")]


def _node(node: Resource, reason: str | None) -> dict[str, Any]:
    labels = node["metadata"].get("labels") or {}
    named = {label.removeprefix(_ROLE) for label in labels if label.startswith(_ROLE)}
    roles = sorted({ROLES.get(role, role) for role in named})
    return {
        "name": node["metadata"]["name"],
        "address": next(iter(objects.internal_addresses(node)), None),
        "roles": roles or [WORKER],
        "ready": reason is None,
        "reason": reason,
        "version": node["status"].get("nodeInfo", {}).get("kubeletVersion"),
        "runtime": node["status"].get("nodeInfo", {}).get("containerRuntimeVersion"),
        "schedulable": not node["spec"].get("unschedulable", False),
    }


def _version(cluster: Access) -> str:
    """The version of the API server that answers."""
    return objects.version(cluster.kubectl.run("get", "--raw", "/version"), where=cluster.kubectl.where)


def _workloads(items: Iterable[Resource], problems: Sequence[readiness.Problem]) -> dict[str, dict[str, int]]:
    bad = {problem.object for problem in problems}
    counts = {}
    for kind in _WORKLOADS:
        titles = [readiness.title(item) for item in readiness.of_kind(items, kind)]
        if titles:
            counts[kind] = {"ready": sum(title not in bad for title in titles), "total": len(titles)}
    return counts


def _registry(node: Node) -> dict[str, Any]:
    active = node.run("systemctl is-active slipway-registry", check=False).stdout.strip() == "active"
    return {"node": node.name, "address": node.address, "active": active}
