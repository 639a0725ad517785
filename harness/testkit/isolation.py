"""Proof that container nodes reached nothing outside, from the packet filter's rules and their counters.

Proven, for nodes of the provider ``container``:

1. The engine calls their network internal, and no node is attached to any other.
2. From every node, connections to outside addresses fail and a public name does not resolve.
3. The packet filter of the engine's machine drops what comes from their network and goes elsewhere, before any rule that lets
   packets pass; its counter rises with the attempts of 2, so it is on the way of these nodes and not of others.
4. No rule that stands before it and lets packets pass has counted one.
5. Where the network has IPv6, which the engine does not filter, no node has a route that leads through a gateway of that network.

Not proven: that the nodes keep from the engine's own machine. It is their gateway, and what is sent to it is not forwarded.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.errors import CheckError
from harness.host import docker
from harness.nodes import Node, each
from harness.nodes.container import LABEL

OUTSIDE = ("192.0.2.1", "198.51.100.1", "203.0.113.1")
"""One address of each documentation block of RFC 5737: no machine has them, so only a device on the path can answer."""
OUTSIDE6 = ("2001:db8::1", "3fff::1")
"""The same of RFC 3849 and RFC 9637. No rule counts what is sent there."""

NAME = "example.com"
"""A name that RFC 2606 keeps, and that every public resolver answers."""


# ---- rules ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FilterRule:
    """One line of ``iptables-save -c``: ``[packets:bytes] -A CHAIN ! -d 172.18.0.0/16 -i br-1 -j DROP``."""

    chain: str
    packets: int
    words: tuple[str, ...]

    @property
    def target(self) -> str:
        for option in ("-j", "-g"):
            if option in self.words:
                return self.words[self.words.index(option) + 1]
        return ""

    @property
    def text(self) -> str:
        return f"-A {self.chain} {shlex.join(self.words)}"

    def match(self, option: str) -> tuple[str, bool] | None:
        """The value of a match, and whether it is negated; None when the rule does not have it."""
        if option not in self.words:
            return None
        place = self.words.index(option)
        return self.words[place + 1], place > 0 and self.words[place - 1] == "!"

    def takes(self, bridge: str) -> bool:
        """Return True when it may match the first packet of a connection from ``bridge`` to another interface."""
        source, sink, state = self.match("-i"), self.match("-o"), self.match("--ctstate")
        if source is not None and (source[0] == bridge) is source[1]:
            return False
        if sink is not None and not sink[1] and sink[0] == bridge:
            return False
        return state is None or state[1] or "NEW" in state[0]

    def stops(self, bridge: str) -> bool:
        """Return True when it drops every packet from ``bridge`` to another network."""
        options = {"-j", "-i", "-o", "-d"}
        elsewhere = all(match is None or match[1] for match in (self.match("-o"), self.match("-d")))
        only = all(word in options for word in self.words if word.startswith("-"))
        return self.target == "DROP" and self.match("-i") == (bridge, False) and elsewhere and only

    @property
    def is_plain(self) -> bool:
        """True when it matches every packet."""
        return len(self.words) == 2


def parse(text: str) -> tuple[FilterRule, ...]:
    """The rules in the output of ``iptables-save -c``, in their order."""
    rules = []
    for line in text.splitlines():
        if not line.startswith("[") or " -A " not in line:
            continue
        counters, _, rest = line.partition(" -A ")
        chain, *words = shlex.split(rest)
        rules.append(FilterRule(chain, int(counters[1:].split(":")[0]), tuple(words)))
    return tuple(rules)


@dataclasses.dataclass(frozen=True)
class PacketFilterState:
    """Packet filter at the edge of a network. ``passes`` are rules that accept outgoing packets before the drop."""

    drop: FilterRule | None
    passes: tuple[FilterRule, ...]


def filter_state(rules: Sequence[FilterRule], bridge: str) -> PacketFilterState:
    """Follow packets forwarded from ``bridge`` to another network, up to the rule that drops them."""
    passes: list[FilterRule] = []
    for rule in _way(rules, "FORWARD", bridge, ()):
        if rule.stops(bridge):
            return PacketFilterState(rule, tuple(passes))
        if rule.target == "ACCEPT":
            passes.append(rule)
    return PacketFilterState(None, tuple(passes))


def _way(rules: Sequence[FilterRule], chain: str, bridge: str, above: tuple[str, ...]) -> Iterator[FilterRule]:
    """Rules that such a packet passes, in order, with nested chains."""
    chains = {rule.chain for rule in rules}
    for rule in rules:
        if rule.chain != chain or not rule.takes(bridge):
            continue
        if rule.target == "RETURN" and rule.is_plain:
            return
        if rule.target in chains and rule.target not in above:
            yield from _way(rules, rule.target, bridge, (*above, chain))
        else:
            yield rule


# ---- state of the engine's machine and the nodes -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NodeNetwork:
    """The network of a group of nodes, as the engine knows it."""

    name: str
    bridge: str
    internal: bool
    ipv6: bool
    image: str
    """The image of the nodes; it has the programs that read the packet filter."""
    strays: tuple[str, ...]
    """Nodes that are attached to other networks too."""


def network(client: docker.Client, group: str) -> NodeNetwork:
    """Network of the nodes called ``group``. Raises CheckError unless there is exactly one."""
    containers = docker.all_containers(client, label=f"{LABEL}={group}")
    networks = client.networks.list(filters={"label": f"{LABEL}={group}"})
    if len(networks) != 1 or not containers:
        raise CheckError(f"nodes named {group} have {len(networks)} networks, not one")
    facts = networks[0].attrs
    bridge = (facts.get("Options") or {}).get("com.docker.network.bridge.name") or f"br-{facts['Id'][:12]}"
    strays = tuple(container.name for container in containers if set(container.attrs["NetworkSettings"]["Networks"]) != {facts["Name"]})
    return NodeNetwork(facts["Name"], bridge, bool(facts["Internal"]), bool(facts.get("EnableIPv6")), containers[0].image.id, strays)


def read_rules(client: docker.Client, network: NodeNetwork) -> PacketFilterState:
    """Read the packet filter of the engine's machine, from a container in its network. Raises CheckError without a drop rule."""
    command = "iptables-nft-save -c -t filter 2>/dev/null; iptables-legacy-save -c -t filter 2>/dev/null; true"
    options: dict[str, Any] = {"network_mode": "host", "privileged": True, "entrypoint": ["sh", "-c"]}
    _, text = docker.run_container(client, network.image, [command], **options)
    state = filter_state(parse(text), network.bridge)
    if state.drop is None:
        raise CheckError(
            f"the packet filter of the engine's machine has no rule that drops what leaves {network.name} ({network.bridge})",
            hint="isolation can be proven where Docker keeps its rules with iptables",
        )
    return state


def attempt(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Try to reach outside addresses from every node; return successes as sentences. Sends at least one packet per node and address."""

    addresses = (*OUTSIDE, *OUTSIDE6)
    words = [f"timeout 1 bash -c ': > /dev/tcp/{address}/443' 2>/dev/null && echo 'reaches {address}' &" for address in addresses]
    words += [f"timeout 3 getent ahosts {NAME} >/dev/null 2>&1 && echo 'resolves {NAME}' &", "wait"]
    script = "\n".join(words)
    results = each(nodes, lambda node: [f"{node.name} {line}" for line in node.run(script).stdout.splitlines()])
    return tuple(line for lines in results for line in lines)


# The pod network has gateways as well, on interfaces that lead to pods and other nodes.
_GATEWAYS = """for link in /sys/class/net/eth*; do
  ip -6 route show table all dev "${link##*/}" 2>/dev/null | sed -n "s/^\\(.*\\) via \\([^ ]*\\).*/\\1 by \\2/p"
done"""


def gateways(nodes: Iterable[Node]) -> list[str]:
    """Routes of IPv6 by which packets of the nodes could leave their network, as sentences."""
    results = each(nodes, lambda node: [f"node {node.name} sends {line}" for line in node.run(_GATEWAYS).stdout.splitlines()])
    return [line for lines in results for line in lines]


class Offline:
    """The proof for one group of nodes. ``dropped`` counts packets that workloads sent outward since the nodes exist; none got through."""

    def __init__(self, client: docker.Client, group: str, nodes: Sequence[Node]) -> None:
        self.client = client
        self.nodes = tuple(nodes)
        self.network = network(client, group)
        self.attempts = 0
        """Dropped packets of this proof's own attempts."""

    @property
    def dropped(self) -> int:
        """Packets that were sent outward and dropped, without this proof's own attempts."""
        drop = read_rules(self.client, self.network).drop
        return (drop.packets if drop else 0) - self.attempts

    def prove(self) -> None:
        """Prove isolation. Raises CheckError with every violation."""
        before = read_rules(self.client, self.network)
        reached = attempt(self.nodes)
        after = read_rules(self.client, self.network)
        rise = counted(after) - counted(before)
        self.attempts += max(0, rise)
        against = [*reached, *self._complaints(after)]
        sent = len(self.nodes) * len(OUTSIDE)
        if rise < sent and after.drop is not None:
            against.append(f"of {sent} attempts to get out {max(0, rise)} were dropped by the rule: {after.drop.text}")
        _raise(against)

    def summary(self) -> str:
        """The proof in words, for the report of a run."""
        drop = read_rules(self.client, self.network).drop
        lines = [
            f"network of the machines: {self.network.name}, internal, attached to no other network",
            f"tried from {len(self.nodes)} machines: {', '.join((*OUTSIDE, *OUTSIDE6))} on port 443, and the name {NAME}; none answered",
            f"dropped packets of these attempts: {self.attempts}",
            f"the rule that dropped them: {drop.text if drop else 'none'}",
        ]
        return "\n".join(lines)

    def check(self) -> None:
        """Check counters and IPv6 routes: raises CheckError when a packet may have passed since the nodes exist."""
        _raise(self._complaints(read_rules(self.client, self.network)))

    def _complaints(self, edge: PacketFilterState) -> list[str]:
        return [*violations(self.network, edge), *(gateways(self.nodes) if self.network.ipv6 else ())]


def counted(edge: PacketFilterState) -> int:
    return edge.drop.packets if edge.drop else 0


def violations(network: NodeNetwork, edge: PacketFilterState) -> list[str]:
    """Violations of isolation in the network and its packet filter."""
    faults = [f"node {name} is attached to another network too" for name in network.strays]
    if not network.internal:
        faults.append(f"network {network.name} is not internal")
    faults += [f"{rule.packets} packets passed: {rule.text}" for rule in edge.passes if rule.packets]
    return faults


def _raise(against: Sequence[str]) -> None:
    if against:
        more = "\n".join(against[1:])
        raise CheckError(f"the nodes are not shown to be offline: {against[0]}", details=more or None)
