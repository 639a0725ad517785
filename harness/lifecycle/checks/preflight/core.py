"""Preflight targets (machine and role) and the registry that the check modules add to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from harness.cloudimage.enforcers import Enforcer
from harness.lifecycle.checks.facts import CONTROL_PLANE_PORTS, WORKER_PORTS, MachineFacts
from harness.lifecycle.checks.findings import Check, Finding, Verdict, failed, ok
from harness.oci.model import Platform
from harness.runtimes import API_PORT, REGISTRY_PORT, ClusterNetwork

VXLAN_PORT = 8472


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """Results of the probes from one machine."""

    reached: Mapping[tuple[str, int], str] = dataclasses.field(default_factory=dict)
    """Outcome of a TCP connection, by address and port: ``ok``, ``refused``, ``silent``, ``unroutable``."""
    listened: frozenset[int] = frozenset()
    """Ports on which slipway's listener answered meanwhile."""
    syncs: tuple[float, ...] = ()
    """Seconds of single small writes to etcd's disk."""
    packets: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    """A UDP packet of the pod network came back, by address."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine in its role."""

    address: str
    role: str
    machine: MachineFacts
    probe: ProbeResult | None = None

    @property
    def is_control_plane(self) -> bool:
        return self.role == "control-plane"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Requirements on the machines."""

    cluster: str
    platforms: tuple[Platform, ...]
    """Platforms of the image; empty when not known."""
    size: int
    """Bytes of the image; a machine needs a multiple of it."""
    network: ClusterNetwork
    ours: frozenset[str] = frozenset()
    """Addresses of machines that belong to this very cluster already."""
    proxy_mode: str | None = None
    """kube-proxy's mode, requested or of the existing cluster; None: the machines decide."""
    vxlan: bool = False
    """The pod network is slipway's own."""
    registry: bool = True
    """The cluster runs its own registry."""
    evicts_later: bool = False
    """The user sets the eviction thresholds of kubelets."""
    enforcers: tuple[Enforcer, ...] = ()
    """The image's enforcers of NetworkPolicies."""
    sysctls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Sysctls, by name with dots, without which no kubelet starts."""


Rule = Callable[[Target, Wanted], Verdict]
JointRule = Callable[[Sequence[Target], Wanted], Mapping[str, Verdict]]
"""Compares machines with each other; a machine that it does not name passes."""
_R = TypeVar("_R")

CHECKS: dict[str, Check] = {}
"""By id, in the order in which they are reported."""
RULES: dict[str, Rule] = {}
JOINT_RULES: dict[str, JointRule] = {}


def check(name: str, title: str, why: str, *, needed: bool = False) -> Callable[[Rule], Rule]:
    """Register a check of each machine by itself."""
    return _adding(Check(name, title, why, needed), RULES)


def check_together(name: str, title: str, why: str, *, needed: bool = False) -> Callable[[JointRule], JointRule]:
    """Register a check of all machines together."""
    return _adding(Check(name, title, why, needed), JOINT_RULES)


def _adding(entry: Check, rules: dict[str, _R]) -> Callable[[_R], _R]:
    def add(rule: _R) -> _R:
        CHECKS[entry.id], rules[entry.id] = entry, rule
        return rule

    return add


for _entry in (
    Check("access", "way in", "slipway can log in to the machine: address, host key, user, key or password", needed=True),
    Check("sudo", "root", "a user that is not root may become root without a password", needed=True),
    Check("member", "members", "the recorded members of the cluster belong to it", needed=True),
):
    CHECKS[_entry.id] = _entry


def evaluate(targets: Sequence[Target], wanted: Wanted, members: Sequence[Target] = ()) -> tuple[Finding, ...]:
    """All findings about the machines, good and bad. ``members`` are in the cluster already: only joint checks look at them."""
    every_machine = (*members, *targets)
    findings = []
    for name in CHECKS:
        if name in RULES:
            findings += [Finding.of(name, target.address, RULES[name](target, wanted)) for target in targets]
        elif name in JOINT_RULES:
            verdicts = JOINT_RULES[name](every_machine, wanted)
            findings += [Finding.of(name, target.address, verdicts.get(target.address, ok("nothing against it"))) for target in targets]
            findings += [Finding.of(name, each.address, verdicts[each.address]) for each in members if each.address in verdicts]
        elif name == "member":
            findings += strangers(members, wanted)
        else:
            findings += [Finding.of(name, target.address, ok(f"as {target.machine.user}")) for target in targets]
    return tuple(findings)


def ours(targets: Sequence[Target], name: str) -> frozenset[str]:
    """Addresses of the machines that belong to the cluster ``name`` already, the one whose keys the first control-plane node has."""
    first = next((target.machine.cluster for target in targets if target.role == "control-plane"), None)
    if first is None or first.split(" ", maxsplit=1)[0] != name:
        return frozenset()
    return frozenset(target.address for target in targets if target.machine.cluster == first)


def same_names(targets: Sequence[Target], others: Mapping[str, str]) -> tuple[Finding, ...]:
    """Findings for ``targets`` with the host name of one of ``others`` (addresses by name), which cannot be asked."""
    remedy = "give each its own: hostnamectl set-hostname NAME"
    return tuple(
        Finding.of("hostname", target.address, failed(f"has the host name of {others[target.machine.host]}", remedy))
        for target in targets
        if others.get(target.machine.host, target.address) != target.address
    )


def ports_of(target: Target, wanted: Wanted) -> dict[int, str]:
    """The ports that a machine needs free in its role, with their users."""
    ports = dict(CONTROL_PLANE_PORTS if target.is_control_plane else WORKER_PORTS)
    if not wanted.registry:
        del ports[REGISTRY_PORT]
    return ports


def ways(source: Target, targets: Sequence[Target], wanted: Wanted) -> tuple[tuple[str, int], ...]:
    """Addresses and ports that a machine must reach: the control plane from every node, etcd and kubelets from the control plane."""
    destinations = []
    for target in targets:
        ports: list[int] = []
        if target.is_control_plane:
            ports += [API_PORT, *([REGISTRY_PORT] if wanted.registry else [])]
        if target.is_control_plane and source.is_control_plane:
            ports += [2379, 2380]
        if source.is_control_plane:
            ports.append(10250)
        if target.address not in wanted.ours:
            # Another program on a port need not answer; the check of ports reports it.
            ports = [port for port in ports if port not in target.machine.ports]
        destinations += [(target.address, port) for port in ports if target.address != source.address]
    return tuple(destinations)


def occupied(target: Target) -> bool:
    """Return whether another Kubernetes is on the machine, which explains its ports."""
    return bool(target.machine.cluster is not None or target.machine.left)


def strangers(members: Sequence[Target], wanted: Wanted) -> tuple[Finding, ...]:
    """Findings for members that do not belong to this cluster."""
    findings = []
    for member in members:
        if member.address not in wanted.ours:
            holds = f"belongs to {member.machine.cluster}" if member.machine.cluster else "holds nothing of it"
            text = f"is not a machine of the cluster {wanted.cluster}: it {holds}"
            findings.append(Finding.of("member", member.address, failed(text, f"slipway remove {wanted.cluster} {member.address}")))
    return tuple(findings)


def words(items: Iterable[object], joint: str = ", ") -> str:
    return joint.join(str(item) for item in items)
