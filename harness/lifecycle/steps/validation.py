"""Values of a cluster, judged as the steps of ``run`` judge them, before any machine is asked: ``--plan`` refuses what a run would refuse,
and a run does not stop half way for a value that was wrong from the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness.clusterfile import validators
from harness.errors import Fault, InputError
from harness.lifecycle.checks.findings import Finding
from harness.lifecycle.checks.preflight import gather
from harness.lifecycle.checks.preflight.core import RULES
from harness.lifecycle.checks.preflight.gather import MachineFacts
from harness.lifecycle.cluster import request
from harness.lifecycle.provision import ipvs
from harness.lifecycle.steps.context import ClusterFacts, ClusterSpec, ResolvedCluster
from harness.lifecycle.steps.registries import balancing_wish
from harness.nodes import ssh_config
from harness.nodes.ssh import SshNode


def check(spec: ClusterSpec) -> ResolvedCluster:
    """Raises UsageError, InputError, CheckError or StoreError for values that no machine could make right.

    Return the cluster as it would be if all its machines had the first platform of the image.
    """
    for machine in spec.ssh.machines:
        ssh_config.check(machine)
    check_values(spec)
    resolved = _supposed(spec)
    _check_networks(resolved, spec.nodes)
    _check_names(resolved)
    ipvs.check_address(balancing_wish(resolved), [node.address for node in spec.nodes])
    check_files(resolved, spec.nodes)
    return resolved


def check_values(spec: ClusterSpec) -> None:
    """The values that the image expects. Raises InputError that lists all that are missing or wrong."""
    environments = [{**spec.env, **spec.host_env.get(node.address, {})} for node in spec.nodes]
    request.require_values(spec.info, environments, spec.clusterfile, spec.app_env)


def check_members(spec: ClusterSpec, nodes: Sequence[SshNode]) -> None:
    """The same for nodes that join a cluster, whose own values are those of its record."""
    resolved = _supposed(spec)
    _check_networks(resolved, nodes)
    check_files(resolved, nodes)


def _supposed(spec: ClusterSpec) -> ResolvedCluster:
    machine = MachineFacts(arch=spec.image.platforms[0].platform.architecture)
    return ResolvedCluster(spec, ClusterFacts({node.address: machine for node in spec.nodes}))


def _check_networks(resolved: ResolvedCluster, nodes: Sequence[SshNode]) -> None:
    """The networks, and the machines' addresses beside them: by the preflight checks that need no more than addresses for that."""
    wanted = gather.Wanted(resolved.spec.name, (), 0, resolved.network)
    judged = [(name, node) for node in nodes for name in ("networks", *(["ipv6"] if ":" in node.address else []))]
    findings = [
        Finding.of(name, node.address, RULES[name](gather.Target(node.address, "worker", MachineFacts()), wanted)) for name, node in judged
    ]
    gather.require(findings, resolved.spec.skip_checks)


def _check_names(resolved: ResolvedCluster) -> None:
    """Names of ``CertSANs``. Those of a Clusterfile's own key have been read already."""
    faults = []
    for name in (word.strip() for word in resolved.env.get("CertSANs", "").split(",") if word.strip()):
        try:
            validators.san(name)
        except validators.FieldError as wrong:
            faults.append(Fault(f"CertSANs {name}", wrong.message, wrong.hint))
    if faults:
        raise InputError(faults)


def check_files(resolved: ResolvedCluster, nodes: Sequence[SshNode]) -> None:
    """Every file that is rendered or edited, once for nodes that have the same values, and what is read of these files here."""
    spec = resolved.spec
    alike = {(str(resolved.platforms[node.address].platform), repr(sorted(spec.host_env.get(node.address, {}).items()))): node
             for node in reversed(nodes)}  # fmt: skip
    if not alike:
        return
    first = next(iter(alike.values()))
    own = (*spec.host_env.values(), *spec.app_env.values(), *(app.env for app in resolved.main.info.apps))
    request.warn_of_text(spec.info, resolved.tree(first), set().union(resolved.environment(first), *own), spec.clusterfile)
    # As control-plane nodes: workers get a part of the same files.
    trial = ResolvedCluster(dataclasses.replace(spec, control_plane=tuple(alike.values()), workers=(), unreachable={}), resolved.facts)
    for node in trial.spec.nodes:
        trial.containerd_overrides(node)
    _ = trial.documents, trial.profile
