"""``slipway delete``: every machine of a cluster is left as it was found. Machines that cannot be reached do not hold up the others."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import log
from harness.clusterfile import Phase
from harness.errors import CommandError, NodeError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, lease, owner
from harness.lifecycle.cluster.access import Known
from harness.lifecycle.plan import Step, execute
from harness.lifecycle.provision import node_files
from harness.lifecycle.steps.uninstall_hooks import Parting
from harness.nodes import LONG_TIMEOUT, Machine, Node, each
from harness.nodes.files import STATE, restore_files
from harness.nodes.ssh import SshConnections
from harness.runtimes import kubeadm


@dataclasses.dataclass(frozen=True)
class Deleted:
    """The outcome of a deletion. ``unreachable`` gives the reason by address; those machines still hold what they held."""

    name: str
    cleaned: tuple[str, ...]
    untouched: tuple[str, ...]
    """Machines that belong to another cluster, or hold nothing of any."""
    unreachable: Mapping[str, str]


@dataclasses.dataclass
class _Work:
    """State that the steps of a deletion share."""

    found: Known
    ssh: SshConnections
    unreachable: dict[str, NodeError] = dataclasses.field(default_factory=dict)
    cleaned: list[str] = dataclasses.field(default_factory=list)
    untouched: list[str] = dataclasses.field(default_factory=list)
    parting: Parting = dataclasses.field(default_factory=Parting)
    authority: bytes | None = None
    """The CA certificate (PEM) of the cluster that is meant; None when it is not known, or the user names the machines."""
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names of the other clusters that machines belong to, by address."""
    claim: contextlib.ExitStack = dataclasses.field(default_factory=contextlib.ExitStack)


def prepare(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    home: Path | None = None,
) -> _Work:
    """The machines to clean: those given, else those remembered. Raises UsageError when there are none."""
    known_cluster = access.known(name, control_plane, workers, home=home)
    ssh = SshConnections(known_cluster.state.folder, (*known_cluster.control_plane, *known_cluster.workers))
    return _Work(known_cluster, ssh, authority=None if control_plane or workers else known_cluster.state.authority())


def plan(work: _Work) -> list[Step]:
    return [_connect(work), _part(work), _clean(work), _forget(work)]


def delete(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    home: Path | None = None,
) -> Deleted:
    """Delete a cluster. May be repeated: a machine that is clean already is left alone.

    Raises UsageError when another command changes the cluster, CommandError when a machine that was reached could not be cleaned; the
    others are.
    """
    work = prepare(name, control_plane, workers, home=home)
    with work.found.state.lock(), work.ssh, work.claim:
        execute(plan(work))
    return Deleted(
        name,
        tuple(sorted(work.cleaned)),
        tuple(sorted(work.untouched)),
        {where: error.message for where, error in work.unreachable.items()},
    )


def _connect(work: _Work) -> Step:
    def action() -> str:
        good, errors = work.ssh.reachable()
        work.unreachable = {node.address: error for node, error in errors.items()}
        for error in work.unreachable.values():
            log.warning(f"{error.message}; it is left as it is")
        if not good:
            raise NodeError(
                "no machine of the cluster can be reached", hint="bring them up, or forget the cluster: slipway delete --forget"
            )
        return f"{len(good)} of {len(work.ssh.nodes)}"

    return Step("connect", "connect to the nodes", action)


def _part(work: _Work) -> Step:
    """The hooks of the cluster, while it is there."""

    def action() -> str:
        reached = [node for node in work.ssh.nodes if node.address not in work.unreachable]
        name = work.found.state.name
        # Machines of other clusters are not to hear of the claim: it would stop what works there.
        marks = each(reached, owner.of)
        belong = each(list(zip(reached, marks, strict=True)), lambda pair: owner.belongs(*pair, name, work.authority))
        mine = [node for node, belongs in zip(reached, belong, strict=True) if belongs]
        work.others = {node.address: mark[0] for node, mark in zip(reached, marks, strict=True) if mark and node not in mine}
        for address, other in work.others.items():
            if other == name:
                log.warning(
                    f"{address} belongs to another cluster {name} by now and is left as it is; to clean it too, name it: --via {address}"
                )
        control_plane = [node for node in mine if node.address in {machine.address for machine in work.found.control_plane}]
        if control_plane:
            work.claim.enter_context(lease.claimed(control_plane, name))
        work.parting = Parting.read(control_plane, mine)
        work.parting.run(Phase.PRE_UNINSTALL)
        return f"{len(work.parting.hooks)}" if work.parting.hooks else "none"

    return Step("hooks", "look for hooks", action, after=("connect",))


def _clean(work: _Work) -> Step:
    def action(node: Node) -> str:
        if node.address in work.unreachable:
            return "some are unreachable"
        other = work.others.get(node.address)
        if other or not node.run(f"[ -e {STATE} ] && ls -A {STATE} | head -n 1 || true").stdout.strip():
            work.untouched.append(node.name)
            return f"{node.name} {f'belongs to another cluster {other}' if other else 'holds nothing of a cluster'}"
        work.parting.run(Phase.PRE_CLEAN_HOST, node)
        clean(node)
        work.parting.run(Phase.POST_CLEAN_HOST, node)
        work.cleaned.append(node.name)
        return ""

    return Step("clean", "clean the machines", action, work.ssh.nodes, after_all=("hooks",))


def clean(node: Node) -> None:
    """Take everything of a cluster off one machine and bring back what was there before. May be repeated after a kill."""
    kubeadm.reset(node)
    node.run(node_files.CLEAN, timeout=LONG_TIMEOUT)
    restore_files(node)
    node.run(node_files.RESTORE, timeout=LONG_TIMEOUT)
    remaining = node.run(f"ls -A {STATE} 2>/dev/null || true").stdout.strip()
    if remaining:
        raise CommandError(f"{node.name}: {STATE} could not be emptied", hint="run the same command again", details=remaining)


def _forget(work: _Work) -> Step:
    def action() -> str:
        work.parting.run(Phase.POST_UNINSTALL)
        if work.unreachable:
            # Their way in must stay known, for the next attempt.
            return "kept, for those that were not reached"
        if len(work.others) == len(work.ssh.nodes) and work.found.state.name in work.others.values():
            # It may be this one, made again under its name: then they are named.
            return "kept, since none of the machines is its own"
        work.claim.close()
        work.ssh.close()
        work.found.state.forget()
        return ""

    return Step("forget", "forget the cluster", action, after=("clean",))


def forget(name: str = cluster_cache.DEFAULT_NAME, *, home: Path | None = None) -> bool:
    """Forget a cluster whose machines are gone; False when nothing was known of it."""
    state = cluster_cache.ClusterState.of(name, home)
    existed = state.folder.exists()
    state.forget()
    return existed
