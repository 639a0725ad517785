"""Machines that a Clusterfile asks for by number: a provider makes them, in a group with the name of the cluster.

For everything else they are machines with addresses. Another ``count`` makes or removes machines.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import log
from harness.clusterfile import CONTROL_PLANE, WORKER, ClusterDocument, Clusterfile, Host, SshSettings
from harness.clusterfile.diff import ADDED, ClusterfileChange
from harness.errors import Fault, InputError, UsageError
from harness.lifecycle import apply as lifecycle_apply
from harness.lifecycle import run as lifecycle_run
from harness.lifecycle.apply import Applied
from harness.lifecycle.run import RunOptions
from harness.nodes import GroupMember, NodeGroup, Provider, groups
from harness.oci.store import Store

_STAND_INS = "198.18.0.0/15"
"""Addresses that no machine has: RFC 2544 keeps them for benchmarks. Machines to be made are checked by them."""


@dataclasses.dataclass(frozen=True)
class MachineSource:
    """A provider, and the image that its machines boot; that of containers is made on first use."""

    provider: Provider
    image: Callable[[], str]


def is_counted(clusterfile: Clusterfile) -> bool:
    """Return True when a provider is to make machines."""
    return clusterfile.cluster is not None and any(host.count for host in clusterfile.cluster.hosts)


def made(
    clusterfile: Clusterfile, store: Store, options: RunOptions | None, source: MachineSource, *, home: Path | None = None
) -> Clusterfile:
    """The Clusterfile with the addresses of its machines; those that do not exist are made, once the rest is known to be right.

    Raises UsageError when the cluster exists without them, and what ``run.prepare`` raises.
    """
    cluster = _checked(clusterfile)
    group = _group(cluster.name, source)
    if lacking := _lacking(cluster, group):
        present = _addressed(clusterfile, cluster, group)
        _, exists = _found(present, store, options, lambda: None, home)
        if exists:
            raise UsageError(
                f"the cluster {cluster.name} is there, and {', '.join(name for name, _ in lacking)} would be new in it",
                hint="slipway apply makes machines and joins them",
            )
        _check(clusterfile, cluster, group, store, options, home)
    return _made(clusterfile, cluster, group, source)


def _made(clusterfile: Clusterfile, cluster: ClusterDocument, group: NodeGroup | None, source: MachineSource) -> Clusterfile:
    lacking, booting = _lacking(cluster, group), _booting(cluster, group)
    if lacking or booting:
        # Those of a command that was killed: they may have no address yet, and cloud-init may be at work.
        with log.step(f"make {len(lacking)} machines" if lacking else f"wait for {len(booting)} machines that exist"):
            counts = (cluster.counted(CONTROL_PLANE), cluster.counted(WORKER))
            group = source.provider.grow(cluster.name, *counts, image=source.image())
    return _addressed(clusterfile, cluster, group)


def apply(
    clusterfile: Clusterfile,
    store: Store,
    options: RunOptions | None,
    source: MachineSource,
    *,
    plan: bool = False,
    fetch: Callable[[], object] = lambda: None,
    confirm: Callable[[Mapping[str, tuple[str, ...]]], object] = lambda _: None,
    home: Path | None = None,
) -> Applied:
    """As ``apply.apply``. Machines are made before it, and those above the number are removed once they have left the cluster."""
    cluster = _checked(clusterfile)
    group = _group(cluster.name, source)
    lacking = _lacking(cluster, group)
    if plan or lacking:
        # What is wrong is found before machines are made.
        found, exists = _found(_addressed(clusterfile, cluster, group), store, options, fetch, home)
        if plan:
            return _planned(cluster, group, found, exists=exists)
        fetch()
        if not exists:
            _check(clusterfile, cluster, group, store, options, home)
    addressed = _made(clusterfile, cluster, group, source)
    result = lifecycle_apply.apply(addressed, store, options, fetch=fetch, confirm=confirm, home=home)
    surplus = () if result.made else _surplus(cluster, _group(cluster.name, source))
    if surplus:
        with log.step(f"remove {len(surplus)} machines") as step:
            step.note = ", ".join(surplus)
            source.provider.shrink(cluster.name, surplus)
    return result


def _found(
    present: Clusterfile, store: Store, options: RunOptions | None, fetch: Callable[[], object], home: Path | None
) -> tuple[Applied, bool]:
    """The plan with the machines that exist, and whether they are a cluster already."""
    assert present.cluster is not None
    # Half of the control plane, as after a kill, is no cluster yet.
    if len(present.cluster.control_plane) % 2 == 0:
        return Applied(present.cluster.name, (), (), False, 0.0), False
    result = lifecycle_apply.apply(present, store, options, plan=True, fetch=fetch, home=home)
    return result, bool(result.changes) or not result.steps


def _check(
    clusterfile: Clusterfile,
    cluster: ClusterDocument,
    group: NodeGroup | None,
    store: Store,
    options: RunOptions | None,
    home: Path | None,
) -> None:
    """Check the request for a new cluster as if its machines were there. Raises what ``run.prepare`` raises."""
    stand_ins = (str(address) for address in ipaddress.IPv4Network(_STAND_INS).hosts())
    lifecycle_run.prepare(_addressed(clusterfile, cluster, group, stand_ins), store, options, home=home)


def _planned(cluster: ClusterDocument, group: NodeGroup | None, result: Applied, *, exists: bool) -> Applied:
    """The plan with the machines that exist, and what is to be made and removed."""
    lacking, booting, surplus = _lacking(cluster, group), _booting(cluster, group), _surplus(cluster, group)
    steps = [_step("make-machines", "make machines", [name for name, _ in lacking])] if lacking else []
    steps += [_step("wait-for-machines", "wait for machines that exist", [name for name, _ in booting])] if booting else []
    if exists:
        new = [*booting, *lacking]
        steps += [_step("join-machines", "join them", [name for name, _ in new])] if new else []
        steps += result.steps
        steps += [_step("remove-machines", "remove machines that have left", list(surplus))] if surplus else []
        added = (ClusterfileChange("host", name, f".spec.hosts[{name}]", ADDED, None, role) for name, role in new)
        return dataclasses.replace(result, changes=(*result.changes, *added), steps=tuple(steps))
    return dataclasses.replace(result, steps=tuple(steps) or result.steps)


def _step(identity: str, title: str, nodes: list[str]) -> dict[str, Any]:
    return {"id": identity, "title": title, "nodes": nodes, "after": []}


def _checked(clusterfile: Clusterfile) -> ClusterDocument:
    """The document Cluster. Raises InputError when two entries count machines of one role: another number of the first would move the
    machines of the second.
    """
    cluster = clusterfile.cluster
    assert cluster is not None
    groups.check(cluster.name, cluster.counted(CONTROL_PLANE), cluster.counted(WORKER))
    where = f"{clusterfile.path or 'the Clusterfile'} .spec.hosts"
    faults = [
        Fault(where, f"{len(counted)} entries with a count for the role {role}", "one of them; write the addresses of other machines")
        for role in (CONTROL_PLANE, WORKER)
        if len(counted := [host for host in cluster.hosts if host.count and host.roles[0] == role]) > 1
    ]
    if faults:
        raise InputError(faults)
    return cluster


def _group(name: str, source: MachineSource) -> NodeGroup | None:
    return next((group for group in source.provider.list() if group.name == name), None)


def _members(group: NodeGroup | None, role: str) -> tuple[GroupMember, ...]:
    return tuple(member for member in groups.in_order(group.members if group else ()) if member.role == role)


def _lacking(cluster: ClusterDocument, group: NodeGroup | None) -> list[tuple[str, str]]:
    members = group.members if group else ()
    used = group.numbers if group else {}
    return groups.missing(cluster.name, members, cluster.counted(CONTROL_PLANE), cluster.counted(WORKER), used)


def _booting(cluster: ClusterDocument, group: NodeGroup | None) -> list[tuple[str, str]]:
    """Names and roles of the machines of a command that was killed; those above the number are not waited for."""
    wanted = (member for role in (CONTROL_PLANE, WORKER) for member in _members(group, role)[: cluster.counted(role)])
    return [(member.name, member.role) for member in wanted if not member.booted]


def _surplus(cluster: ClusterDocument, group: NodeGroup | None) -> tuple[str, ...]:
    """Names of the machines above the numbers; of a role that the file does not count, none."""
    return tuple(
        member.name for role in (CONTROL_PLANE, WORKER) if (count := cluster.counted(role)) for member in _members(group, role)[count:]
    )


def _addressed(clusterfile: Clusterfile, cluster: ClusterDocument, group: NodeGroup | None, stand_ins: Iterable[str] = ()) -> Clusterfile:
    """The Clusterfile with the machines of a group that have booted in place of numbers. They have the login of the group.

    ``stand_ins`` are addresses for the others, where there are any.
    """
    others = iter(stand_ins)

    def host(counted: Host) -> Host:
        if not counted.count:
            return counted
        members = _members(group, counted.roles[0])[: counted.count]
        addresses = tuple(member.address for member in members if member.booted)
        addresses += tuple(itertools.islice(others, counted.count - len(addresses)))
        login = SshSettings(group.login.user, key=str(group.login.key), jump=counted.ssh.jump) if group else counted.ssh
        return dataclasses.replace(counted, ips=addresses, ssh=login, count=None)

    hosts = (host(counted) for counted in cluster.hosts)
    return dataclasses.replace(clusterfile, cluster=dataclasses.replace(cluster, hosts=tuple(each for each in hosts if each.ips)))
