"""Nodes of a running cluster: they join, and they are removed."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from harness import log
from harness.cli import completion
from harness.cli.cluster_options import skipping
from harness.cli.options import (
    CONTROL_PLANE_ALIASES,
    WORKER_ALIASES,
    ClusterAccess,
    ClusterOption,
    NamedCluster,
    Output,
    Plan,
    SkipCheck,
    Ssh,
    Yes,
    addresses,
    after_cluster,
    confirmed,
    hosts,
    machines,
    option,
    seconds,
    to_machines,
)
from harness.cli.output import local_store, pairs, say
from harness.cli.program import Old
from harness.cli.root import app


@dataclasses.dataclass(frozen=True)
class JoinAccess(Ssh):
    """Access to a cluster for a verb whose ``--control-plane`` names other machines."""

    via: Annotated[list[str] | None, machines("--via", help="Control-plane nodes of the cluster, if it is not known on this machine.")] = (
        None
    )


@app.command()
def join(
    *,
    cluster: NamedCluster,
    control_plane: Annotated[
        list[str] | None,
        machines("--control-plane", help="Machines that become control-plane nodes; ranges are allowed."),
        CONTROL_PLANE_ALIASES,
    ] = None,
    workers: Annotated[
        list[str] | None, machines("--workers", help="Machines that become workers; ranges are allowed."), WORKER_ALIASES
    ] = None,
    access: JoinAccess,
    env: Annotated[
        list[str] | None,
        option("--env", "-e", help="A secret value; the cluster does not store these.", metavar="NAME=VALUE"),
    ] = None,
    skip_check: SkipCheck = None,
    timeout: Annotated[float, seconds("--timeout", help="Seconds that the machines may take to become ready.")] = 600,
    plan: Plan = False,
    output: Output,
) -> None:
    """Add nodes to a running cluster. The same command again finishes an interrupted join."""
    from harness.clusterfile import ClusterDocument, Clusterfile
    from harness.lifecycle import join as lifecycle_join
    from harness.lifecycle import plan as lifecycle_plan
    from harness.lifecycle.cluster import hosts as cluster_hosts
    from harness.lifecycle.cluster.access import known

    name, ssh = cluster.name, access.settings()
    joining_hosts = hosts(addresses(control_plane, "--control-plane"), addresses(workers, "--workers"), ssh)
    asked = ClusterDocument(name, "", joining_hosts, pairs(env or [], "--env"), ssh=ssh)
    login = access.login()
    wanted = Clusterfile("", cluster=cluster_hosts.resolved(None, asked, login.password)[1])
    options = lifecycle_join.JoinOptions(to_machines(access.via, login, "--via", name), login.password, timeout, skipping(skip_check))
    known(name, options.via)  # before the local store is made
    if plan:
        with lifecycle_join.prepared(wanted, local_store(), options) as work:
            output.steps(lifecycle_plan.describe(lifecycle_join.plan(work)))
        return
    result = lifecycle_join.join(wanted, local_store(), options)
    if output.printed(result):
        return
    for kind, names in (("control-plane node", result.control_plane), ("worker", result.workers)):
        if names:
            say(f"{', '.join(names)} joined {name} as {kind}{'s' if len(names) > 1 else ''} in {log.duration(result.seconds)}")
    if result.already:
        say(f"{', '.join(result.already)} belonged to {name} before")


@app.command()
def remove(
    *,
    words: Annotated[
        list[str],
        after_cluster("The nodes, by address or name; the name of the cluster may precede them.", "IP|NODE...", completion.clusters),
    ],
    cluster: ClusterOption = None,
    force: Annotated[bool, typer.Option("--force", help="Delete pods that are still on a node when the drain times out.")] = False,
    yes: Yes = False,
    access: ClusterAccess,
    timeout: Annotated[float, seconds("--drain-timeout", help="Seconds that pods may take to leave a node."), Old("--timeout")] = 120,
    plan: Plan = False,
    output: Output,
) -> None:
    """Drain nodes and remove them from a cluster. Their machines are left as they were found."""
    from harness.lifecycle import plan as lifecycle_plan
    from harness.lifecycle import remove as lifecycle_remove

    name, nodes = _name_and_nodes(words, cluster, named=bool(access.via))
    login = access.login()
    arguments: dict[str, Any] = {
        "force": force,
        "via": to_machines(access.via, login, "--via", name),
        "login": login,
        "drain_timeout": timeout,
    }
    if plan or not yes:
        with lifecycle_remove.prepared(name, nodes, **arguments) as work:
            if plan:
                output.steps(lifecycle_plan.describe(lifecycle_remove.plan(work)))
                return
            for node in work.going:
                role = "control-plane node" if node in work.leaving_control_plane else "worker"
                say(f"{work.name(node)} {node.address} ({role}{'' if node in work.alive else ', does not answer'})")
        confirmed(f"Take this out of {name}?")
    result = lifecycle_remove.remove(name, nodes, **arguments)
    if output.printed(result):
        return
    say(f"removed {', '.join(result.removed)} from {name} in {log.duration(result.seconds)}; {len(result.cleaned)} machines cleaned")
    for address, reason in result.unreachable.items():
        say(f"  {address} still holds what it held: {reason}")


def _name_and_nodes(words: list[str], cluster: str | None, *, named: bool = False) -> tuple[str, list[str]]:
    """The cluster and its nodes. The first of several words is a cluster when one of that name is known here or, with ``named``, when it
    is no address: a cluster of which nothing is known here.
    """
    from harness.host import cluster_cache

    first, *rest = words
    known_names = {state.name for state in cluster_cache.known()}
    if cluster is not None:
        name = cluster
    elif rest and (first in known_names or (named and not first[:1].isdigit() and ":" not in first)):
        name, words = first, rest
    else:
        name = cluster_cache.DEFAULT_NAME
    return name, [part for word in words for part in word.split(",") if part]
