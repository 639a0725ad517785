"""``slipway check --pre``: whether machines are fit for a cluster. Every machine that can be asked is, whatever the others are like."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from harness import log
from harness.errors import NodeError, UsageError
from harness.host.cluster_cache import DEFAULT_NAME, ClusterState
from harness.lifecycle.checks import findings
from harness.lifecycle.checks.findings import Finding, Report, failed
from harness.lifecycle.checks.preflight import CHECKS, Target, Wanted, gather
from harness.lifecycle.steps import preparation
from harness.lifecycle.steps.context import ClusterFacts, ClusterSpec, ResolvedCluster
from harness.nodes import Machine, each
from harness.nodes.ssh import SshConnections, SshNode
from harness.runtimes import POD_CIDR, SVC_CIDR, ClusterNetwork

NO_IMAGE = 1 << 30
"""Bytes taken for an image that is not named."""


def pre(
    control_plane: Sequence[Machine],
    workers: Sequence[Machine],
    *,
    name: str = DEFAULT_NAME,
    spec: ClusterSpec | None = None,
    skip: Collection[str] = (),
    home: Path | None = None,
) -> Report:
    """Look whether machines are fit to become a cluster, of ``spec`` where the image is known; nothing is changed.

    Raises UsageError when no machine is named or a check is skipped that is none.
    """
    started = time.monotonic()
    if not control_plane and not workers:
        raise UsageError("no machine is named", hint="--control-plane 10.0.0.1 --workers 10.0.0.2, or -f Clusterfile")
    skipped = gather.skipping(skip, "--skip")
    ssh = spec.ssh if spec else SshConnections(ClusterState.of(name, home).folder, (*control_plane, *workers))
    with ssh:
        with log.step("connect to the machines"):
            reached, errors = ssh.reachable()
        faults = [_no_access(node, error) for node, error in errors.items()]
        with log.step("ask the machines"):
            targets = _ask(reached, {machine.address for machine in control_plane}, faults)
        by_address = {node.address: node for node in reached}
        results: tuple[Finding, ...] = ()
        if targets:
            with log.step("try the ways between them"):
                results = gather.examine(by_address, targets, _wanted(name, spec, targets))
    names = {node.address: node.name for node in reached}
    return Report(name, findings.skip((*faults, *results), skipped), CHECKS, names, time.monotonic() - started)


def _no_access(node: SshNode, error: NodeError) -> Finding:
    check = "sudo" if "may not become root" in error.message else "access"
    return Finding.of(check, node.address, failed(error.message.removeprefix(f"{node.address}: "), error.hint or "look at its sshd"))


def _ask(nodes: Sequence[SshNode], control_plane: Collection[str], faults: list[Finding]) -> list[Target]:
    """The machines with their facts; one that gives none goes to ``faults``."""

    def one(node: SshNode) -> Target | None:
        try:
            facts = gather.ask(node)
        except NodeError as error:
            faults.append(_no_access(node, error))
            return None
        return Target(node.address, "control-plane" if node.address in control_plane else "worker", facts)

    return [target for target in each(nodes, one) if target is not None]


def _wanted(name: str, spec: ClusterSpec | None, targets: Sequence[Target]) -> Wanted:
    if spec is None:
        return Wanted(name, (), NO_IMAGE, ClusterNetwork(POD_CIDR, SVC_CIDR), gather.ours(targets, name), vxlan=True)
    asked = {target.address for target in targets}
    control_plane, workers = (tuple(node for node in nodes if node.address in asked) for nodes in (spec.control_plane, spec.workers))
    if not control_plane:
        # Nothing is known of the networks without one, for which the image would be looked into.
        available = tuple(image.platform for image in spec.image.platforms)
        return Wanted(name, available, spec.image.size + spec.apps_size, ClusterNetwork(POD_CIDR, SVC_CIDR))
    reached = dataclasses.replace(spec, control_plane=control_plane, workers=workers)
    facts = ClusterFacts({target.address: target.machine for target in targets})
    return preparation.wanted_of_machines(ResolvedCluster(reached, facts), targets)
