"""IPVS: rules of a worker's kernel balance the API and the registry, in place of haproxy; a small keeper maintains them.

Clients on the worker connect to a virtual address that is on no interface; the kernel sends each connection to a control-plane node that
is alive. No process is in the path, so connections work while the keeper is down.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from harness import assets, log, untrusted
from harness.errors import CheckError, Fault
from harness.nodes import Node, each
from harness.nodes.files import STATE, Files, NodeFile
from harness.runtimes import API_PORT, REGISTRY_PORT, ROOTFS, ClusterNetwork, Member, RuntimeCluster

ADDRESSES = {4: "10.103.97.2", 6: "1248:4003:10bb:6a01:83b9:6360:c66d:2"}
"""Default virtual address by IP version, as in sealer."""
VARIABLES = {4: "IPvsVIPv4", 6: "IPvsVIPv6"}
"""Variables of a cluster's environment that set another one."""
PROGRAMS = ("ipvsadm", "openssl")
"""Programs of the rootfs that the keeper runs."""

MARK = f"{STATE}/virtual-ip"
"""File with the virtual address, on every node of a cluster that has one."""
CONFIG = f"{STATE}/ipvs.conf"
KEEPER = f"{STATE}/ipvs.sh"
_RUN = "slipway-balancer"
_UNIT = "/etc/systemd/system/slipway-balancer.service"

SERVICE = f"""[Unit]
Description=slipway: balancer to the control-plane nodes
After=network.target

[Service]
RuntimeDirectory={_RUN}
ExecStart=/bin/sh {KEEPER} keep
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
StartLimitInterval=0

[Install]
WantedBy=multi-user.target
"""

_MODULES = ("ip_vs", "ip_vs_rr")
_LOAD_MODULES = 1 << 16  # CAP_SYS_MODULE

_ASK = assets.script("ipvs_support", config=CONFIG, mark=MARK, modules=" ".join(_MODULES), state=STATE)


@dataclasses.dataclass(frozen=True)
class IpvsSupport:
    """The answer of a machine about IPVS."""

    lacks: str | None = None
    """Reason why its kernel cannot balance; None: it can."""
    balancer: str | None = None
    """``ipvs`` or ``haproxy``, when it has a balancer."""
    virtual_ip: str | None = None
    """Virtual address of its cluster."""
    networks: tuple[str, ...] = ()
    """Networks of its interfaces, as ``10.0.0.7/24``."""

    @classmethod
    def parse(cls, text: str) -> IpvsSupport:
        values: dict[str, list[str]] = {}
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            values.setdefault(key, []).append(value)

        def last(key: str) -> str | None:
            return values.get(key, [""])[-1] or None

        return cls(_lacks(values), last("balancer"), last("virtual"), tuple(values.get("network", ())))


def _lacks(values: Mapping[str, Sequence[str]]) -> str | None:
    missing = [name for name in _MODULES if name not in values.get("there", ())]
    unknown = [name for name in missing if name not in values.get("loadable", ())]
    if unknown:
        return f"its kernel has no {' and no '.join(unknown)}"
    if missing and "sealed" in values:
        return f"its kernel takes no module any more (kernel.modules_disabled), and {' and '.join(missing)} is not loaded"
    capabilities = untrusted.number(values.get("capabilities", ["ffffffffffffffff"])[-1], base=16, maximum=(1 << 64) - 1) or 0
    if missing and not capabilities & _LOAD_MODULES:
        return f"it may not load {' and '.join(missing)} (no CAP_SYS_MODULE)"
    return None


def ask(nodes: Sequence[Node]) -> dict[str, IpvsSupport]:
    """Ask machines; their answers by address."""
    return dict(
        zip((node.address for node in nodes), each(nodes, lambda node: IpvsSupport.parse(node.run(_ASK, timeout=60).stdout)), strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """The nodes, by address, whose kernels balance; haproxy does it on the others."""

    virtual_ip: str | None = None
    """None: no node uses IPVS, and no certificate has such an address."""
    led: frozenset[str] = frozenset()

    def of(self, address: str) -> str | None:
        """The address at which a node finds the control plane; None: its loopback."""
        return self.virtual_ip if address in self.led else None


@dataclasses.dataclass(frozen=True)
class Wish:
    """The requested balancing. ``brings`` returns whether the image has the programs; it is called only when that matters."""

    load_balancing: str
    """``auto``, ``ipvs`` or ``haproxy``."""
    balanced: tuple[str, ...]
    """Addresses of the nodes that need a balancer."""
    network: ClusterNetwork
    env: Mapping[str, str]
    brings: Callable[[], bool]

    @property
    def asked(self) -> bool:
        return self.load_balancing == "ipvs"


def choose(wish: Wish, answers: Mapping[str, IpvsSupport], ours: Collection[str] = ()) -> Choice:
    """Choose ipvs or haproxy for each node of a new cluster. ``ours``: machines that belong to it already.

    Raises CheckError when IPVS is requested and not possible. By default either all nodes with a balancer use IPVS, or none.
    """
    own_answers = [answers[address] for address in ours if address in answers]
    if any(answer.virtual_ip for answer in own_answers):
        return joining(wish, answers)
    if wish.load_balancing == "haproxy":
        return Choice()
    if any(answer.balancer == "haproxy" for answer in own_answers):
        fault = Fault("loadBalancing", "this cluster was begun with haproxy", "leave that as it was, or slipway delete it first")
        return _without(wish, [fault])
    # Without a node that needs it, all of them stand for those that join later.
    faults = _lacking(answers, wish.balanced or tuple(answers))
    if faults or not wish.brings():
        return _without(wish, faults or [_NO_PROGRAMS])
    virtual_ip, faults = _virtual_ip(wish, answers)
    if faults and not wish.asked:
        log.warning(f"the API is balanced by haproxy: {'; '.join(fault.message for fault in faults)} ({faults[0].hint})")
    return _without(wish, faults) if faults else Choice(virtual_ip, frozenset(wish.balanced))


def check_address(wish: Wish, machines: Iterable[str]) -> None:
    """Raises CheckError when IPVS is asked for with a virtual address that cannot be had, whatever the machines answer."""
    _, faults = _virtual_ip(wish, {address: IpvsSupport() for address in machines})
    if faults:
        _without(wish, faults)


def joining(wish: Wish, answers: Mapping[str, IpvsSupport]) -> Choice:
    """Choose ipvs or haproxy for nodes that join an existing cluster; the others keep their balancer.

    Raises CheckError when IPVS is requested and not possible on the new nodes.
    """
    existing = as_it_is(answers)
    new = tuple(address for address in wish.balanced if address in answers and answers[address].balancer is None)
    if not new or wish.load_balancing == "haproxy":
        return existing
    if existing.virtual_ip is None:
        message = "the certificates of the control plane have no virtual address: they get it only when a cluster is made"
        return _without(wish, [Fault("loadBalancing", message, "auto or haproxy")])
    faults = _lacking(answers, new) if wish.brings() else [_NO_PROGRAMS]
    if faults:
        _without(wish, faults)
    able = {address for address in new if answers[address].lacks is None and _NO_PROGRAMS not in faults}
    return Choice(existing.virtual_ip, existing.led | able)


def as_it_is(answers: Mapping[str, IpvsSupport]) -> Choice:
    """The balancers of an existing cluster."""
    virtual_ip = next((answer.virtual_ip for answer in answers.values() if answer.virtual_ip), None)
    return Choice(virtual_ip, frozenset(address for address, answer in answers.items() if virtual_ip and answer.balancer == "ipvs"))


_NO_PROGRAMS = Fault("loadBalancing", f"the image has no bin/{PROGRAMS[0]}", "build it FROM a newer base")


def _without(wish: Wish, faults: Sequence[Fault]) -> Choice:
    """Return haproxy, unless IPVS is required."""
    if wish.asked:
        lines = "\n".join(str(fault) for fault in faults)
        raise CheckError(f"loadBalancing: ipvs is not possible on these machines; nothing has been changed\n{lines}")
    return Choice()


def _lacking(answers: Mapping[str, IpvsSupport], addresses: Iterable[str]) -> list[Fault]:
    hint = "install its kernel's modules, or use loadBalancing: auto"
    return [Fault(address, lacks, hint) for address in addresses if (lacks := answers[address].lacks)]


def _virtual_ip(wish: Wish, answers: Mapping[str, IpvsSupport]) -> tuple[str | None, list[Fault]]:
    """The virtual address, and the networks that it conflicts with."""
    version = ipaddress.ip_address(next(iter(answers))).version
    name = VARIABLES[version]
    text = wish.env.get(name, ADDRESSES[version])
    hint = f"choose another: -e {name}=ADDRESS"
    try:
        address = ipaddress.ip_address(text)
    except ValueError as wrong:
        return None, [Fault(name, str(wrong), hint)]
    if address.version != version:
        return None, [Fault(name, f"{text} is of version {address.version}, the addresses of the machines are not", hint)]
    networks = [("PodCIDR", str(network)) for network in wish.network.pod_networks]
    networks += [("SvcCIDR", str(network)) for network in wish.network.service_networks]
    networks += [(f"the network of {where},", network) for where, answer in answers.items() for network in answer.networks]
    faults = [
        Fault(name, f"the virtual address {text} lies in {what} {network}", hint)
        for what, network in networks
        if address in ipaddress.ip_network(network, strict=False)
    ]
    return str(address), faults


# ---- files of a node ---------------------------------------------------------------------------------------------------


@functools.cache
def _keeper() -> str:
    return (assets.FOLDER / "ipvs.sh").read_text()


def config(virtual_ip: str, address: str, control_plane: Sequence[str], holders: Sequence[str]) -> str:
    """The keeper's configuration on the node ``address``: the servers of the API and of images."""
    lines = [f"virtual {virtual_ip}", f"source {address}"]
    # The registry logs every request for another path that comes without a login.
    for name, port, path, servers in (("api", API_PORT, "/readyz", control_plane), ("registry", REGISTRY_PORT, "/", holders)):
        if servers:
            # Nodes start with different servers.
            first = int(ipaddress.ip_address(address)) % len(servers)
            lines.append(" ".join(["balance", name, str(port), path, *servers[first:], *servers[:first]]))
    return "".join(f"{line}\n" for line in lines)


def member_config(cluster: RuntimeCluster, member: Member) -> str:
    """The keeper's configuration for a node that uses IPVS."""
    control_plane = [] if member.is_control_plane else [node.address for node in cluster.control_plane]
    holders = [] if member.registry else [holder.address for holder in cluster.registries]
    return config(member.virtual_ip or "", member.address, control_plane, holders)


def is_config(text: str) -> bool:
    """Return whether a balancer's configuration is the keeper's."""
    return text.startswith("virtual ")


def files(text: str) -> Files:
    """The keeper with a configuration."""
    return {_UNIT: NodeFile.text(SERVICE), KEEPER: NodeFile.text(_keeper()), CONFIG: NodeFile.text(text)}


def start(node: Node) -> None:
    """Start or reload the keeper, and wait until the rules are in place. No connection is cut."""
    node.run(assets.script("start_keeper", ready=f"/run/{_RUN}/ready"), timeout=600)


SYSCTLS = ("net.ipv4.vs.conntrack", "net.ipv4.vs.expire_nodest_conn")
"""Sysctls that the keeper sets."""

_STATUS = f"""[ -e {_UNIT} ] || exit 0
echo "active $(systemctl is-active slipway-balancer)"
if [ -e {CONFIG} ]; then
  echo 'kind ipvs'
  {ROOTFS}/bin/ipvsadm -S -n 2>/dev/null | sed -n 's/^-a .* -r \\([^ ]*\\) .*/server \\1/p' | sort -u
fi"""


def status(node: Node) -> dict[str, object]:
    """The balancer of a node: ``{"node", "address", "kind", "active", "servers"}``, empty for a node without one.

    ``servers`` are the current ones of its kernel; haproxy does not report them.
    """
    lines = [line.partition(" ") for line in node.run(_STATUS, check=False).stdout.splitlines()]
    if not lines:
        return {}
    return {
        "node": node.name,
        "address": node.address,
        "kind": "ipvs" if ("kind", " ", "ipvs") in lines else "haproxy",
        "active": ("active", " ", "active") in lines,
        "servers": [value for key, _, value in lines if key == "server"],
    }
