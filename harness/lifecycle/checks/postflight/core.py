"""Facts about a running cluster, and the registry that the modules of health checks add to. Nothing is asked and nothing is done here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.lifecycle.checks.facts import MachineFacts
from harness.lifecycle.checks.findings import Check, Finding, Verdict
from harness.lifecycle.cluster.certificates import Certificate
from harness.lifecycle.cluster.change import Move
from harness.lifecycle.kube.readiness import Problem, Resource
from harness.runtimes import ClusterNetwork


@dataclasses.dataclass(frozen=True)
class Unit:
    """A systemd service of a node."""

    active: str
    restarts: int = 0
    since: float | None = None
    """Seconds in this state."""


@dataclasses.dataclass(frozen=True)
class NodeAnswer:
    """The answer of a node about its part in the cluster."""

    units: Mapping[str, Unit] = dataclasses.field(default_factory=dict)
    holds: bool = False
    """It serves images to other nodes."""
    public: bool = False
    """Its registry requires no login."""
    api: str | None = None
    """The API server's answer on the path that the kubelet takes: ``ok``, or the failure."""
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The registry's answer for images, its own or the one that its balancer leads to: ``ok``, or the failure."""
    lost: tuple[str, ...] = ()
    """Blobs of the image that its registry should have but lacks, by path."""
    servers: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    """State of the control-plane nodes in its balancer, by what is balanced and name: ``UP``."""
    dns: str | None = None
    """``ok``, or the failure of the cluster's DNS to answer it."""
    service: str | None = None
    """Outcome of a connection to the Service of the API."""
    node_ports: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Outcome of connections to a NodePort, by address."""
    syncs: Mapping[float, int] = dataclasses.field(default_factory=dict)
    """Count of etcd's writes since its start that took at most so many seconds."""


@dataclasses.dataclass(frozen=True)
class EtcdHealth:
    """A member of etcd as the others see it."""

    name: str
    sick: str | None = None
    size: int | None = None
    leads: bool = False
    learner: bool = False


@dataclasses.dataclass(frozen=True)
class PodAnswer:
    """Results of the probes from a short-lived pod."""

    pods: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Outcome of packets to pods on other nodes, by the name of the node: ``ok``, ``silent``."""
    dns: str | None = None
    service: str | None = None
    trouble: str | None = None
    """Reason why nothing could be tried."""


@dataclasses.dataclass(frozen=True)
class Health:
    """All facts that were gathered. None: could not be determined."""

    name: str
    roles: Mapping[str, str]
    """``control-plane`` or ``worker``, by address, of all nodes."""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names of the Node objects, by address."""
    unreachable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    silent: str | None = None
    """Reason why the API does not answer."""
    version: str | None = None
    record: bool = True
    unreadable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Reason why ``record`` or ``change`` cannot be read, by that name."""
    change: Move | None = None
    """An upgrade or a rollback that is not finished."""
    network: ClusterNetwork | None = None
    own_registry: bool = True
    items: Sequence[Resource] = ()
    problems: Sequence[Problem] = ()
    machines: Mapping[str, MachineFacts] = dataclasses.field(default_factory=dict)
    answers: Mapping[str, NodeAnswer] = dataclasses.field(default_factory=dict)
    etcd: Sequence[EtcdHealth] | None = None
    etcd_trouble: str = ""
    """Reason why etcd could not be asked."""
    alarms: Sequence[str] = ()
    certificates: Mapping[str, Sequence[Certificate]] = dataclasses.field(default_factory=dict)
    pods: Mapping[str, PodAnswer] | None = None

    @property
    def reached(self) -> tuple[str, ...]:
        return tuple(address for address in self.roles if address not in self.unreachable)

    def of_roles(self, role: str) -> tuple[str, ...]:
        return tuple(address for address in self.reached if self.roles[address] == role)


Rule = Callable[[Health], Iterable[tuple[str, Verdict]]]
"""Verdicts, each with its place: an address, a node, the cluster."""

CHECKS: dict[str, Check] = {}
"""By id, in the order in which they are reported."""
RULES: dict[str, Rule] = {}


def check(name: str, title: str, why: str) -> Callable[[Rule], Rule]:
    """Register a check."""

    def add(rule: Rule) -> Rule:
        CHECKS[name] = Check(name, title, why)
        RULES[name] = rule
        return rule

    return add


def evaluate(health: Health) -> tuple[Finding, ...]:
    """All findings about the cluster, good and bad."""
    return tuple(Finding.of(name, where, verdict) for name, rule in RULES.items() for where, verdict in rule(health))
