"""Facts about a machine: one shell script, and its output as a value. Nothing on the machine is changed."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
from collections.abc import Iterable, Mapping

from harness import assets, untrusted
from harness.cloudimage import enforcers
from harness.lifecycle.provision import distribution
from harness.lifecycle.provision.node_files import FORWARDING6
from harness.nodes.files import STATE
from harness.oci.model import Platform
from harness.runtimes import API_NAME, API_PORT, NFTABLES_KERNEL, REGISTRY_PORT, profiles

CONTROL_PLANE_PORTS: Mapping[int, str] = {
    API_PORT: "the API server",
    2379: "etcd",
    2380: "etcd",
    2381: "etcd",
    REGISTRY_PORT: "the registry",
    10248: "the kubelet",
    10249: "kube-proxy",
    10250: "the kubelet",
    10256: "kube-proxy",
    10257: "the controller manager",
    10259: "the scheduler",
}
WORKER_PORTS: Mapping[int, str] = {
    API_PORT: "the API balancer",
    REGISTRY_PORT: "the registry balancer",
    10248: "the kubelet",
    10249: "kube-proxy",
    10250: "the kubelet",
    10256: "kube-proxy",
}
NODE_PORTS = range(30000, 32768)
"""Ports of Services of type NodePort."""

NEEDED = ("systemctl", "tar", "iptables", "mount", "umount", "base64", "cksum", "find", "sed", "grep", "awk")
WANTED = ("conntrack", "socat")
_OTHER_TOOLS = ("bash", "timeout", "apparmor_parser")

PLACES = ("/var/lib", STATE, "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log")
"""Folders that a cluster fills; a missing one is measured where it will be."""
WRITTEN = ("/etc", "/etc/systemd/system", "/usr/local/bin", "/opt", "/var/lib", "/etc/hosts")
"""Paths that must be writable."""
SYSCTLS = ("net/ipv4/ip_forward", FORWARDING6, "fs/inotify/max_user_instances")

TIME_SERVICES = ("chronyd", "chrony", "ntpd", "ntp", "ntpsec", "openntpd", "systemd-timesyncd", "ptp4l", "phc2sys", "vmtoolsd")
CLUSTER_SERVICES = ("kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "k0scontroller", "k0sworker",
                    "snap.microk8s.daemon-kubelite", "etcd", "nomad")  # fmt: skip
RUNTIME_SERVICES = ("docker", "crio")
FIREWALLS = ("firewalld", "nftables")
_SERVICES = (*TIME_SERVICES, *CLUSTER_SERVICES, *RUNTIME_SERVICES, *FIREWALLS, "systemd-resolved")

OLDEST_NFT = (1, 0, 1)
"""An older program cannot list the rules of kube-proxy, nor any others beside them."""

FEATURES = ("overlay", "br_netfilter", "nf_conntrack", "vxlan", "ip_vs", "nf_tables")

LEFT = ("/etc/kubernetes/manifests/*.yaml", "/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf", "/var/lib/etcd/member",
        "/var/lib/kubelet/config.yaml", "/etc/rancher/k3s/k3s.yaml", "/var/lib/rancher/k3s/server", "/var/lib/rancher/rke2/server",
        "/var/lib/k0s/kubelet.conf", "/var/snap/microk8s/current")  # fmt: skip
"""Files that other clusters leave behind."""

_PORTS = " ".join(sorted({f"{port:04X}" for port in (*CONTROL_PLANE_PORTS, *WORKER_PORTS, distribution.PORT)}))

LISTENER = "slipway-listens"
"""Word in the command line of a listener of the probes."""
_LISTENERS = f"{LISTENER[:-1]}[{LISTENER[-1]}]"
"""A pattern that matches it, but not the script that contains the pattern."""

SCRIPT = assets.script(
    "facts",
    api_name=API_NAME,
    enforcers="\n".join(f"{feature.name} {feature.symbol} {feature.option}" for feature in enforcers.FEATURES),
    features=" ".join(FEATURES),
    left=" ".join(LEFT),
    listeners=_LISTENERS,
    places=" ".join(PLACES),
    ports=_PORTS,
    services=" ".join(_SERVICES),
    settings=" ".join(f"{name.replace('.', '/')}={value}" for name, value in profiles.SYSCTLS.items()),
    state=STATE,
    sysctls=" ".join(SYSCTLS),
    tools=" ".join((*NEEDED, *WANTED, *_OTHER_TOOLS)),
    written=" ".join(WRITTEN),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder that a cluster fills, and its file system. Sizes are bytes."""

    path: str
    device: str
    mount: str
    kind: str = "ext4"
    flags: frozenset[str] = frozenset()
    """Mount options among ``ro noexec nosuid nodev``."""
    total: int = 0
    free: int = 0
    inodes: int = 0
    """0 where the file system allocates them as needed."""
    free_inodes: int = 0

    @classmethod
    def parse(cls, text: str) -> Place:
        path, device, mount, total, free, inodes, free_inodes, *rest = text.split()
        kind, flags = (*rest, "", "")[:2]
        return cls(
            path, device, mount, kind, frozenset(flag for flag in flags.split(",") if flag),
            _number(total) * 1024, _number(free) * 1024, _number(inodes), _number(free_inodes),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Link:
    """A network interface."""

    name: str
    mac: str = ""
    mtu: int = 0


@dataclasses.dataclass(frozen=True)
class Route:
    """A route of the kernel; ``gateway`` is None for a network that is attached directly."""

    link: str
    network: str
    gateway: str | None = None

    @property
    def is_default(self) -> bool:
        return self.network in ("0.0.0.0/0", "::/0")


@dataclasses.dataclass(frozen=True)
class MachineFacts:
    """Facts about a machine, as it reports them."""

    host: str = ""
    arch: str = ""
    """In OCI words: ``amd64``."""
    kernel: str = ""
    user: str = "root"
    """User of the SSH login."""
    virtual: str = ""
    """``docker``, ``kvm``, ``none``: in systemd's words."""
    os: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """``ID``, ``VERSION_ID`` and the like of its distribution."""
    cpus: int = 0
    memory: int = 0
    """Bytes, up to the limit of its control group."""
    available: int | None = None
    places: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    readonly: tuple[str, ...] = ()
    """Paths that must be writable and are not."""
    unforward: tuple[str, ...] = ()
    """Files that disable forwarding at every boot."""
    unforward6: tuple[str, ...] = ()
    """Files that disable IPv6 forwarding at every boot."""
    without6: bool = False
    """New interfaces have no IPv6."""
    capabilities: int = -1
    """Bounding set of its processes, as bits."""
    files: int | None = None
    """Limit of open files of a service; None: no limit."""
    tasks: int | None = None
    kmsg: bool = True
    evicts_otherwise: bool = False
    """Its kubelet has eviction thresholds of its own."""
    cgroup: int = 2
    controllers: frozenset[str] = frozenset()
    systemd: bool = False
    resolved: bool = False
    """systemd-resolved runs before the name servers."""
    tools: frozenset[str] = frozenset()
    features: frozenset[str] = frozenset()
    """Features of the kernel, present or loadable."""
    has: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    """Presence of ``enforcers.FEATURES`` in the kernel, by name; without those that are not known."""
    nat: str | None = None
    """Answer of iptables about its table nat: ``yes``, or ``no`` and the reason; None without iptables."""
    nat6: str | None = None
    """The same of ip6tables."""
    nft: str | None = None
    """Version of its nft, as printed; None without nft."""
    drops: tuple[str, ...] = ()
    """Chains of the firewall with the policy DROP."""
    swap: tuple[str, ...] = ()
    selinux: bool = False
    """It enforces."""
    apparmor: bool = False
    machine_id: str = ""
    uuid: str = ""
    links: tuple[Link, ...] = ()
    routes: tuple[Route, ...] = ()
    ports: frozenset[int] = frozenset()
    """TCP ports with a listener."""
    owners: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Listeners on ports that a cluster needs: ``nginx (812)``."""
    left: tuple[str, ...] = ()
    """Files of a Kubernetes, running or not."""
    networks: tuple[str, ...] = ()
    """Files in /etc/cni/net.d."""
    services: frozenset[str] = frozenset()
    """Running services, of those that matter."""
    containers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Number of running containers, by namespace of containerd."""
    cluster: str | None = None
    """Name and identity of its cluster of slipway."""
    hosts: tuple[tuple[str, str], ...] = ()
    """Addresses and names in /etc/hosts that matter to a cluster."""
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    direct: str = ""
    """Value of no_proxy."""
    addresses: tuple[str, ...] = ()
    on: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Interfaces by address, where known."""
    passing: frozenset[str] = frozenset()
    """Temporary or deprecated addresses."""
    advertised: frozenset[str] = frozenset()
    """Addresses from router advertisements, which the kernel keeps only as long as it does not forward."""
    ahead: float = 0
    """Seconds by which its clock is ahead of the local one."""

    @property
    def platform(self) -> Platform:
        return Platform("linux", self.arch)

    @property
    def restrict_oom(self) -> bool:
        """CAP_SYS_RESOURCE (bit 24) is missing."""
        return not self.capabilities >> 24 & 1

    @property
    def nftables(self) -> bool:
        """Return whether kube-proxy can use nftables: the kernel supports it, and an nft of the machine is new enough."""
        new_enough = release(self.kernel)[:2] >= NFTABLES_KERNEL and (self.nft is None or release(self.nft) >= OLDEST_NFT)
        return "nf_tables" in self.features and new_enough

    @property
    def contained(self) -> bool:
        """Return whether it is a container: kernel, clock and firmware are those of its host."""
        return self.virtual in _CONTAINERS

    def address6(self, address: str) -> str | None:
        """The IPv6 address beside an IPv4 one: the first permanent one on the same interface; None without one."""
        link = self.on.get(address)
        beside = (other for other in self.addresses if link and self.on.get(other) == link and ":" in other)
        return next((other for other in beside if other not in self.passing), None)

    def link(self, address: str) -> Link | None:
        """The interface that has an address."""
        name = self.on.get(address)
        return next((link for link in self.links if link.name == name), None)


_CONTAINERS = frozenset({"docker", "podman", "lxc", "lxc-libvirt", "systemd-nspawn", "container-other", "rkt", "openvz"})
_SINGLE = frozenset({"begun", "host", "arch", "kernel", "user", "virtual", "cpus", "memory", "available", "capabilities", "files", "tasks",
                     "kmsg", "evicts", "cgroup", "systemd", "nat", "nat6", "selinux", "apparmor", "machine-id", "uuid", "nft", "cluster",
                     "direct", "time"})  # fmt: skip


def parse(text: str, before: float, after: float) -> MachineFacts:
    """Read the output of the script. ``before`` and ``after`` are the local clock, in seconds, before it ran and after it ended.

    Raises ValueError for any other text.
    """
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key in _SINGLE:
            single[key] = value.strip()
        else:
            several.setdefault(key, []).append(value.strip())
    if not single.get("arch") or "time" not in single:
        raise ValueError("the machine gave no facts")
    limits = [limit for value in several.get("limit", ()) if (limit := untrusted.number(value)) is not None]
    places = [Place.parse(value) for value in several.get("place", ()) if len(value.split()) >= 7]
    links = [value.split() for value in several.get("link", ())]
    owners = [(_port(words[0]), words[1], words[2]) for value in several.get("owner", ()) if len(words := value.split(" ", 2)) == 3]
    containers = [value.split() for value in several.get("containers", ())]
    resolver = [words for value in several.get("resolv", ()) if (words := value.split())]
    addresses = [words for value in several.get("address", ()) if (words := value.split())]
    return MachineFacts(
        host=single.get("host", "").lower(),
        arch=Platform("linux", single["arch"]).normal().architecture,
        kernel=single.get("kernel", ""),
        user=single.get("user") or "root",
        virtual=single.get("virtual", ""),
        os=dict(value.split("=", maxsplit=1) for value in several.get("os", ()) if "=" in value),
        cpus=_number(single.get("cpus")) or 1,
        memory=min([_number(single.get("memory")) * 1024, *limits]),
        available=_number(single["available"]) * 1024 if single.get("available") else None,
        places={place.path: place for place in places},
        readonly=tuple(several.get("readonly", ())),
        unforward=tuple(several.get("unforward", ())),
        unforward6=tuple(several.get("unforward6", ())),
        without6="without6" in several,
        capabilities=_capabilities(single.get("capabilities")),
        files=untrusted.number(single.get("files")),
        tasks=untrusted.number(single.get("tasks")),
        kmsg="kmsg" in single,
        evicts_otherwise="evicts" in single,
        cgroup=_number(single.get("cgroup")) or 2,
        controllers=frozenset(several.get("controller", ())),
        systemd="systemd" in single,
        resolved=any(value.startswith("systemd-resolved ") for value in several.get("service", ())),
        tools=frozenset(several.get("tool", ())),
        features=frozenset(several.get("feature", ())),
        has={words[0]: words[1] == "yes" for value in several.get("has", ()) if len(words := value.split()) == 2},
        nat=single.get("nat"),
        nat6=single.get("nat6"),
        nft=single.get("nft"),
        drops=tuple(dict.fromkeys(chain.upper() for chain in several.get("drop", ()))),
        swap=tuple(several.get("swap", ())),
        selinux=single.get("selinux") == "1",
        apparmor=single.get("apparmor") == "Y",
        machine_id=single.get("machine-id", ""),
        uuid=single.get("uuid", "").lower(),
        links=tuple(Link(words[0], words[1], _number(words[2])) for words in links if len(words) == 3),
        routes=tuple(_routes(several)),
        ports=frozenset(port for value in several.get("port", ()) if (port := _port(value)) is not None),
        owners=_joined((port, f"{name} ({pid})") for port, pid, name in owners if port is not None),
        left=tuple(several.get("left", ())),
        networks=tuple(several.get("network", ())),
        services=frozenset(value.split(" ", maxsplit=1)[0] for value in several.get("service", ())),
        containers={words[0]: _number(words[1]) for words in containers if len(words) == 2},
        cluster=single.get("cluster"),
        hosts=tuple((words[0], words[1]) for value in several.get("hosts", ()) if len(words := value.split()) == 2),
        nameservers=tuple(words[1] for words in resolver if words[0] == "nameserver" and len(words) > 1),
        searches=_searches(resolver),
        proxies=tuple(dict.fromkeys(name.lower() for name in several.get("proxy", ()))),
        direct=single.get("direct", ""),
        addresses=tuple(words[0] for words in addresses),
        on={words[0]: words[1].partition("@")[0] for words in addresses if len(words) > 1},
        passing=frozenset(words[0] for words in addresses if words[2:] == ["passing"]),
        advertised=frozenset(words[0] for words in addresses if words[2:] == ["advertised"]),
        ahead=_ahead(single, before, after),
    )  # fmt: skip


def _number(text: str | None) -> int:
    return untrusted.number(text) or 0


def release(text: str) -> tuple[int, ...]:
    """(6, 1, 0) of ``6.1.0-13-amd64``, (1, 0, 6) of ``nftables v1.0.6 (Lester Gooch #5)``."""
    match = re.search(r"(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?", text)
    return tuple(int(number or 0) for number in match.groups()) if match else ()


def _port(text: str) -> int | None:
    """A port as in /proc/net/tcp."""
    return untrusted.number(text, base=16, maximum=65535)


def _capabilities(text: str | None) -> int:
    """The bounding set; all capabilities where it is not known."""
    capabilities = untrusted.number(text or None, base=16, maximum=(1 << 64) - 1)
    return (1 << 64) - 1 if capabilities is None else capabilities


def _joined(pairs: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Join the texts of pairs with the same key."""
    texts: dict[int, str] = {}
    for key, text in pairs:
        texts[key] = f"{texts[key]}, {text}" if key in texts else text
    return texts


def _searches(lines: Iterable[list[str]]) -> tuple[str, ...]:
    """The search domains; the last line counts."""
    domains: tuple[str, ...] = ()
    for words in lines:
        if words[0] in ("search", "domain"):
            domains = tuple(words[1:])
    return domains


def _ahead(single: Mapping[str, str], before: float, after: float) -> float:
    """Seconds that the machine's clock is ahead, averaged over its first time against ``before`` and its last against ``after``."""
    # A date program without nanoseconds prints %N.
    last = untrusted.decimal(re.sub(r"\.?%?N$", "", single["time"]))
    first = untrusted.decimal(re.sub(r"\.?%?N$", "", single.get("begun") or single["time"]))
    if last is None or first is None:
        raise ValueError("the machine gave no time")
    return ((first - before) + (last - after)) / 2


def _routes(several: Mapping[str, list[str]]) -> Iterable[Route]:
    for value in several.get("route", ()):
        words = value.split()
        # Lines that are not routes are left out.
        with contextlib.suppress(ValueError):
            link, network, gateway, mask = words[0] if words else "", *(_address(word) for word in words[1:])
            yield Route(
                link,
                str(ipaddress.ip_network(f"{network}/{mask}", strict=False)),
                None if gateway == "0.0.0.0" else gateway,  # noqa: S104
            )
    for value in several.get("route6", ()):
        words = value.split()
        with contextlib.suppress(ValueError):
            link, network, length, gateway = words
            network6, gateway6 = _address6(network), _address6(gateway)
            prefix = untrusted.number(length, base=16, maximum=128)
            yield Route(
                link, str(ipaddress.ip_network(f"{network6}/{prefix}", strict=False)), None if int(gateway6) == 0 else str(gateway6)
            )


def _address(word: str) -> str:
    """An IPv4 address as in /proc/net/route: in the machine's byte order, little-endian on every supported architecture."""
    number = untrusted.number(word, base=16, maximum=(1 << 32) - 1)
    if number is None:
        raise ValueError(f"{word!r} is not an address")
    return str(ipaddress.IPv4Address(number.to_bytes(4, "little")))


def _address6(word: str) -> ipaddress.IPv6Address:
    number = untrusted.number(word, base=16, maximum=(1 << 128) - 1)
    if number is None:
        raise ValueError(f"{word!r} is not an address")
    return ipaddress.IPv6Address(number)
