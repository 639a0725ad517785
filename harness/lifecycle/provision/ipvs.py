"""IPVS: rules of a worker's kernel lead to the masters that live, in place of haproxy, and a small keeper looks after them.

What asks for the API or for images there connects to a virtual address that is on no interface; the kernel sends each connection to one
of the masters. Nothing of it passes through a process, and it goes on while the keeper does not.
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
"""The virtual address unless another one is asked for, by version: the ones that sealer takes."""
VARIABLES = {4: "IPvsVIPv4", 6: "IPvsVIPv6"}
"""What asks for another one, in the environment of a cluster."""
PROGRAMS = ("ipvsadm", "openssl")
"""Of the rootfs, used by the keeper."""

MARK = f"{STATE}/virtual-ip"
"""On every member of a cluster that has a virtual address: which one it is."""
CONFIG = f"{STATE}/ipvs.conf"
KEEPER = f"{STATE}/ipvs.sh"
_RUN = "slipway-balancer"
_UNIT = "/etc/systemd/system/slipway-balancer.service"

SERVICE = f"""[Unit]
Description=slipway: the way to the masters that live
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
    """What a machine says about IPVS."""

    lacks: str | None = None
    """Why its kernel cannot lead anywhere; None: it can."""
    balancer: str | None = None
    """``ipvs`` or ``haproxy``, when it has one."""
    virtual_ip: str | None = None
    """That of the cluster that it belongs to."""
    networks: tuple[str, ...] = ()
    """What its interfaces are in, as ``10.0.0.7/24``."""

    @classmethod
    def parse(cls, text: str) -> IpvsSupport:
        found: dict[str, list[str]] = {}
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            found.setdefault(key, []).append(value)

        def last(key: str) -> str | None:
            return found.get(key, [""])[-1] or None

        return cls(_lacks(found), last("balancer"), last("virtual"), tuple(found.get("network", ())))


def _lacks(found: Mapping[str, Sequence[str]]) -> str | None:
    missing = [name for name in _MODULES if name not in found.get("there", ())]
    unknown = [name for name in missing if name not in found.get("loadable", ())]
    if unknown:
        return f"its kernel has no {' and no '.join(unknown)}"
    if missing and "sealed" in found:
        return f"its kernel takes no module any more (kernel.modules_disabled), and {' and '.join(missing)} is not loaded"
    if (
        missing
        and not (untrusted.number(found.get("capabilities", ["ffffffffffffffff"])[-1], base=16, maximum=(1 << 64) - 1) or 0) & _LOAD_MODULES
    ):
        return f"it may not load {' and '.join(missing)} (no CAP_SYS_MODULE)"
    return None


def ask(nodes: Sequence[Node]) -> dict[str, IpvsSupport]:
    """What machines say, by address."""
    return dict(
        zip((node.address for node in nodes), each(nodes, lambda node: IpvsSupport.parse(node.run(_ASK, timeout=60).stdout)), strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which members' kernels lead to the masters, by address; haproxy does it on the others."""

    virtual_ip: str | None = None
    """None: nobody's, and no certificate holds such an address."""
    led: frozenset[str] = frozenset()

    def of(self, address: str) -> str | None:
        """Where a member finds masters; None: on its loopback, or on itself."""
        return self.virtual_ip if address in self.led else None


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is asked for, and what for. ``brings`` says whether the image has the programs; it is called only when that matters."""

    load_balancing: str
    """``auto``, ``ipvs`` or ``haproxy``."""
    balanced: tuple[str, ...]
    """Addresses of the machines that need a way to others."""
    network: ClusterNetwork
    env: Mapping[str, str]
    brings: Callable[[], bool]

    @property
    def asked(self) -> bool:
        return self.load_balancing == "ipvs"


def choose(wish: Wish, answers: Mapping[str, IpvsSupport], ours: Collection[str] = ()) -> Choice:
    """Who is led how in a cluster that is made. ``ours``: machines on which it was begun.

    Raises CheckError when IPVS is asked for and cannot be had. When it may be had, all machines that need it have it, or none.
    """
    begun = [answers[address] for address in ours if address in answers]
    if any(answer.virtual_ip for answer in begun):
        return joining(wish, answers)
    if wish.load_balancing == "haproxy":
        return Choice()
    if any(answer.balancer == "haproxy" for answer in begun):
        fault = Fault("loadBalancing", "this cluster was begun with haproxy", "leave that as it was, or slipway delete it first")
        return _without(wish, [fault])
    # Of machines of which none needs it any may stand for those that join later.
    faults = _lacking(answers, wish.balanced or tuple(answers))
    if faults or not wish.brings():
        return _without(wish, faults or [_NO_PROGRAMS])
    virtual_ip, faults = _virtual_ip(wish, answers)
    if faults and not wish.asked:
        log.warning(f"the API is balanced by haproxy: {'; '.join(fault.message for fault in faults)} ({faults[0].hint})")
    return _without(wish, faults) if faults else Choice(virtual_ip, frozenset(wish.balanced))


def joining(wish: Wish, answers: Mapping[str, IpvsSupport]) -> Choice:
    """Who is led how in a cluster that is there, with machines that come to it: those that have a balancer keep it.

    Raises CheckError when IPVS is asked for and new ones cannot have it.
    """
    there = as_it_is(answers)
    new = tuple(address for address in wish.balanced if address in answers and answers[address].balancer is None)
    if not new or wish.load_balancing == "haproxy":
        return there
    if there.virtual_ip is None:
        message = "the certificates of the masters hold no virtual address: whether they do is settled when a cluster is made"
        return _without(wish, [Fault("loadBalancing", message, "auto or haproxy")])
    faults = _lacking(answers, new) if wish.brings() else [_NO_PROGRAMS]
    if faults:
        _without(wish, faults)
    able = {address for address in new if answers[address].lacks is None and _NO_PROGRAMS not in faults}
    return Choice(there.virtual_ip, there.led | able)


def as_it_is(answers: Mapping[str, IpvsSupport]) -> Choice:
    """Who is led how in a cluster that is there."""
    virtual_ip = next((answer.virtual_ip for answer in answers.values() if answer.virtual_ip), None)
    return Choice(virtual_ip, frozenset(address for address, answer in answers.items() if virtual_ip and answer.balancer == "ipvs"))


_NO_PROGRAMS = Fault("loadBalancing", f"the image has no bin/{PROGRAMS[0]}", "build it FROM a newer base")


def _without(wish: Wish, faults: Sequence[Fault]) -> Choice:
    """haproxy, when that is no fault."""
    if wish.asked:
        lines = "\n".join(str(fault) for fault in faults)
        raise CheckError(f"loadBalancing is ipvs, and that cannot be; nothing has been changed\n{lines}")
    return Choice()


def _lacking(answers: Mapping[str, IpvsSupport], addresses: Iterable[str]) -> list[Fault]:
    hint = "install its kernel's modules, or leave the choice to us: loadBalancing: auto"
    return [Fault(address, lacks, hint) for address in addresses if (lacks := answers[address].lacks)]


def _virtual_ip(wish: Wish, answers: Mapping[str, IpvsSupport]) -> tuple[str | None, list[Fault]]:
    """The virtual address, and what it would be in the way of."""
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
    taken = [("PodCIDR", str(network)) for network in wish.network.pod_networks]
    taken += [("SvcCIDR", str(network)) for network in wish.network.service_networks]
    taken += [(f"the network of {where},", network) for where, answer in answers.items() for network in answer.networks]
    faults = [
        Fault(name, f"the virtual address {text} lies in {what} {network}", hint)
        for what, network in taken
        if address in ipaddress.ip_network(network, strict=False)
    ]
    return str(address), faults


# ---- what a member gets -----------------------------------------------------------------------------------------------


@functools.cache
def _keeper() -> str:
    return (assets.FOLDER / "ipvs.sh").read_text()


def config(virtual_ip: str, address: str, masters: Sequence[str], holders: Sequence[str]) -> str:
    """The keeper's configuration on the member ``address``: who serves the API, and who images."""
    lines = [f"virtual {virtual_ip}", f"source {address}"]
    # The registry logs every request for another path that comes without a login.
    for name, port, path, servers in (("api", API_PORT, "/readyz", masters), ("registry", REGISTRY_PORT, "/", holders)):
        if servers:
            # Not every member begins with the same one.
            first = int(ipaddress.ip_address(address)) % len(servers)
            lines.append(" ".join(["balance", name, str(port), path, *servers[first:], *servers[:first]]))
    return "".join(f"{line}\n" for line in lines)


def member_config(cluster: RuntimeCluster, member: Member) -> str:
    """The keeper's configuration for a member that is led by its kernel."""
    masters = [] if member.is_master else [master.address for master in cluster.masters]
    holders = [] if member.registry else [holder.address for holder in cluster.registries]
    return config(member.virtual_ip or "", member.address, masters, holders)


def is_config(text: str) -> bool:
    """Whether a balancer's configuration is the keeper's."""
    return text.startswith("virtual ")


def files(text: str) -> Files:
    """The keeper with a configuration."""
    return {_UNIT: NodeFile.text(SERVICE), KEEPER: NodeFile.text(_keeper()), CONFIG: NodeFile.text(text)}


def start(node: Node) -> None:
    """Start the keeper, or have it read its configuration anew, and wait until the rules are in place. No connection is cut."""
    node.run(assets.script("start_keeper", ready=f"/run/{_RUN}/ready"), timeout=600)


SYSCTLS = ("net.ipv4.vs.conntrack", "net.ipv4.vs.expire_nodest_conn")
"""What the keeper sets."""

_STATUS = f"""[ -e {_UNIT} ] || exit 0
echo "active $(systemctl is-active slipway-balancer)"
if [ -e {CONFIG} ]; then
  echo 'kind ipvs'
  {ROOTFS}/bin/ipvsadm -S -n 2>/dev/null | sed -n 's/^-a .* -r \\([^ ]*\\) .*/server \\1/p' | sort -u
fi"""


def status(node: Node) -> dict[str, object]:
    """How a member is led: ``{"node", "address", "kind", "active", "servers"}``, nothing for one that needs nobody to lead it.

    ``servers`` are those to whom its kernel leads now; haproxy keeps them to itself.
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
