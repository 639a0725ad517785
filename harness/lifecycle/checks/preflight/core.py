"""Machines in the places that they shall have, and the list of checks that judge them, which the other files here fill."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.cloudimage.enforcers import Enforcer
from harness.lifecycle.checks.facts import MASTER_PORTS, WORKER_PORTS, MachineFacts
from harness.lifecycle.checks.findings import Check, Finding, Seen, failed, ok
from harness.oci.model import Platform
from harness.runtimes import API_PORT, REGISTRY_PORT, ClusterNetwork

VXLAN_PORT = 8472


@dataclasses.dataclass(frozen=True)
class Trial:
    """What was tried on a machine, beyond asking."""

    reached: Mapping[tuple[str, int], str] = dataclasses.field(default_factory=dict)
    """How a TCP connection to an address and a port ended: ``ok``, ``refused``, ``silent``, ``unroutable``."""
    listened: frozenset[int] = frozenset()
    """Ports on which something of ours answered meanwhile."""
    syncs: tuple[float, ...] = ()
    """Seconds that single small writes to etcd's disk took."""
    packets: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    """Whether a UDP packet of the pod network came back, by address."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine in the place that it shall have."""

    address: str
    role: str
    machine: MachineFacts
    trial: Trial | None = None

    @property
    def is_master(self) -> bool:
        return self.role == "master"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked of the machines."""

    cluster: str
    platforms: tuple[Platform, ...]
    """Those that the image is for; empty when it is not known."""
    size: int
    """Bytes of the image; a machine needs a multiple of it."""
    network: ClusterNetwork
    ours: frozenset[str] = frozenset()
    """Addresses of machines on which this very cluster runs or was begun."""
    proxy_mode: str | None = None
    """kube-proxy's mode, where that is asked for or the cluster has one; None where the machines decide it."""
    vxlan: bool = False
    """The pod network is slipway's own."""
    registry: bool = True
    """The cluster brings its own."""
    evicts_later: bool = False
    """Kubelets are told by somebody else when a disk is too full."""
    enforcers: tuple[Enforcer, ...] = ()
    """What the image enforces NetworkPolicies by."""
    sysctls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings of the kernel, by name with dots, without which no kubelet starts."""


Judge = Callable[[Target, Wanted], Seen]
Together = Callable[[Sequence[Target], Wanted], Mapping[str, Seen]]
"""Judges machines beside each other; what it does not name is fine."""

CHECKS: dict[str, Check] = {}
"""By id, in the order in which they are told."""
SINGLE: dict[str, Judge] = {}
TOGETHER: dict[str, Together] = {}


def check(name: str, title: str, why: str, *, needed: bool = False) -> Callable[[Judge], Judge]:
    def add(judge: Judge) -> Judge:
        CHECKS[name] = Check(name, title, why, needed)
        SINGLE[name] = judge
        return judge

    return add


def check_together(name: str, title: str, why: str, *, needed: bool = False) -> Callable[[Together], Together]:
    def add(judge: Together) -> Together:
        CHECKS[name] = Check(name, title, why, needed)
        TOGETHER[name] = judge
        return judge

    return add


for _entry in (
    Check("access", "way in", "slipway gets into the machine: address, host key, user, key or password", needed=True),
    Check("sudo", "root", "a user that is not root may become root without a password", needed=True),
    Check("member", "members", "machines that are said to be members of the cluster are", needed=True),
):
    CHECKS[_entry.id] = _entry


def judge(targets: Sequence[Target], wanted: Wanted, members: Sequence[Target] = ()) -> tuple[Finding, ...]:
    """Everything about the machines for what is wanted, good and bad. ``members`` are in the cluster already: only what must go together
    with theirs is judged.
    """
    everybody = (*members, *targets)
    found = []
    for name in CHECKS:
        if name in SINGLE:
            found += [Finding.of(name, target.address, SINGLE[name](target, wanted)) for target in targets]
        elif name in TOGETHER:
            seen = TOGETHER[name](everybody, wanted)
            found += [Finding.of(name, target.address, seen.get(target.address, ok("nothing against it"))) for target in targets]
            found += [Finding.of(name, one.address, seen[one.address]) for one in members if one.address in seen]
        elif name == "member":
            found += strangers(members, wanted)
        else:
            found += [Finding.of(name, target.address, ok(f"as {target.machine.user}")) for target in targets]
    return tuple(found)


def ours(targets: Sequence[Target], name: str) -> frozenset[str]:
    """The addresses of machines that belong to the cluster ``name`` already: to the very one whose keys the first master has."""
    first = next((target.machine.cluster for target in targets if target.role == "master"), None)
    if first is None or first.split(" ", maxsplit=1)[0] != name:
        return frozenset()
    return frozenset(target.address for target in targets if target.machine.cluster == first)


def same_names(targets: Sequence[Target], others: Mapping[str, str]) -> tuple[Finding, ...]:
    """Those of ``targets`` that have the name of one of ``others`` (addresses by name), of which no more is known."""
    remedy = "give each its own: hostnamectl set-hostname NAME"
    return tuple(
        Finding.of("hostname", target.address, failed(f"has the host name of {others[target.machine.host]}", remedy))
        for target in targets
        if others.get(target.machine.host, target.address) != target.address
    )


def ports_of(target: Target, wanted: Wanted) -> dict[int, str]:
    """The ports that a machine needs free in its place, and for whom."""
    ports = dict(MASTER_PORTS if target.is_master else WORKER_PORTS)
    if not wanted.registry:
        del ports[REGISTRY_PORT]
    return ports


def ways(source: Target, targets: Sequence[Target], wanted: Wanted) -> tuple[tuple[str, int], ...]:
    """Addresses and ports that a machine must reach: everybody the masters, masters each other's etcd and all kubelets."""
    found = []
    for target in targets:
        ports: list[int] = []
        if target.is_master:
            ports += [API_PORT, *([REGISTRY_PORT] if wanted.registry else [])]
        if target.is_master and source.is_master:
            ports += [2379, 2380]
        if source.is_master:
            ports.append(10250)
        if target.address not in wanted.ours:
            # Who listens there instead need not answer, and is told of anyway.
            ports = [port for port in ports if port not in target.machine.ports]
        found += [(target.address, port) for port in ports if target.address != source.address]
    return tuple(found)


def occupied(target: Target) -> bool:
    """Another Kubernetes is on it: its ports are no fault of their own."""
    return bool(target.machine.cluster is not None or target.machine.left)


def strangers(members: Sequence[Target], wanted: Wanted) -> tuple[Finding, ...]:
    """Those of the members that hold nothing of this cluster."""
    found = []
    for member in members:
        if member.address not in wanted.ours:
            holds = f"belongs to {member.machine.cluster}" if member.machine.cluster else "holds nothing of it"
            text = f"is no machine of the cluster {wanted.cluster}: it {holds}"
            found.append(Finding.of("member", member.address, failed(text, f"slipway remove {wanted.cluster} {member.address}")))
    return tuple(found)


def words(items: Iterable[object], joint: str = ", ") -> str:
    return joint.join(str(item) for item in items)
