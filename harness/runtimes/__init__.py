"""Machines that have a rootfs become one Kubernetes cluster: the description of such a cluster and its members. kubeadm makes it."""

from __future__ import annotations

import dataclasses
import ipaddress
import itertools
import re
from collections.abc import Mapping
from typing import Any

import yaml

from harness import untrusted
from harness.clusterfile import validators
from harness.errors import Fault, InputError, UsageError
from harness.nodes import Node
from harness.nodes.files import STATE, Files

ROOTFS = f"{STATE}/rootfs"
API_NAME = "apiserver.cluster.local"
"""Host name of the API server on every node: the node itself on a control-plane node, its balancer on a worker."""
API_PORT = 6443
REGISTRY_PORT = 5000
DNS_DOMAIN = "cluster.local"
SYSTEM = ("kube-system", "kube-flannel")
"""The namespaces of what a cluster itself is made of; the pod network of base images has one of its own."""

OLDEST = (1, 31)
"""The oldest Kubernetes that is taken, major and minor: the first whose kubeadm reads v1beta4."""
NFTABLES_KERNEL = (5, 13)
"""The oldest kernel on which kube-proxy runs in its mode nftables."""

POD_CIDR = "100.64.0.0/10"
SVC_CIDR = "10.96.0.0/22"


def listens(port: int) -> str:
    """A shell command that succeeds when something on the machine listens on a TCP port."""
    return f"grep -qsE ':{port:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6"


def bracketed(address: str) -> str:
    """An address as a URL has it."""
    return f"[{address}]" if ":" in address else address


def refused(version: str) -> str | None:
    """Why clusters of a version of Kubernetes (``v1.36.3``) are not made or changed; None for one that is taken."""
    match = re.match(r"v?(\d{1,4})\.(\d{1,4})", version)
    if match and (int(match[1]), int(match[2])) >= OLDEST:
        return None
    return f"Kubernetes {version} is too old: {'.'.join(map(str, OLDEST))} and newer are taken"


BUILD_NEWER = "build the image again with a newer VERSION"


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about the Kubernetes of a rootfs: ``etc/slipway.yaml``. None means kubeadm's own default."""

    kubernetes: str
    """With its ``v``: ``v1.36.3``."""
    image_repository: str | None = None
    pause_image: str | None = None
    etcd_image_tag: str | None = None
    pod_cidr: str = POD_CIDR
    svc_cidr: str = SVC_CIDR

    @classmethod
    def parse(cls, text: str, where: str) -> Facts:
        """Raises InputError with all that is wrong; ``where`` names the file."""
        try:
            document = untrusted.yaml_document(text, what="", error=UsageError) or {}
        except UsageError as wrong:
            raise InputError([Fault(where, wrong.message)]) from wrong
        if not isinstance(document, dict):
            raise InputError([Fault(where, "is not a mapping")])
        names = {
            "kubernetes": "kubernetes",
            "imageRepository": "image_repository",
            "pauseImage": "pause_image",
            "etcdImageTag": "etcd_image_tag",
            "podCIDR": "pod_cidr",
            "svcCIDR": "svc_cidr",
        }
        faults = [Fault(f"{where} .{key}", "is not known", f"known: {', '.join(names)}") for key in document if key not in names]
        values = {names[key]: str(value) for key, value in document.items() if key in names and value is not None}
        version = values.get("kubernetes", "")
        if not re.fullmatch(r"v\d+\.\d+\.\d+.*", version):
            faults.append(Fault(f"{where} .kubernetes", "must be a version such as v1.36.3"))
        elif too_old := refused(version):
            faults.append(Fault(f"{where} .kubernetes", too_old, BUILD_NEWER))
        if faults:
            raise InputError(faults)
        return cls(**values)

    @property
    def minor(self) -> int:
        """36 of v1.36.3."""
        return int(self.kubernetes.split(".")[1])


IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_ROOM = {"PodCIDR": {4: (4, 32), 6: (12, 128)}, "SvcCIDR": {4: (5, 20), 6: (5, 20)}}
"""Bits of a network that may be a host's, at least and at most, by version. The wider ones of Services kubeadm refuses."""
_ENOUGH = {"PodCIDR": {4: 16, 6: 48}, "SvcCIDR": {4: 22, 6: 112}}
"""Lengths of prefixes that will do, for hints."""
DEFAULT_PREFIX6 = 64
"""Prefix of a node's IPv6 pod network: the default of the controller manager."""
_MOST_NODE_BITS = 16
"""By which a node's network may be narrower than that of all pods: kubeadm's limit."""


@dataclasses.dataclass(frozen=True)
class ClusterNetwork:
    """The addresses of pods and services: a network each, or (dual stack) one of each family with a comma between."""

    pods: str
    services: str

    @classmethod
    def parse(cls, pods: str, services: str) -> ClusterNetwork:
        """Raises InputError with all faults: invalid networks, impossible address families, sizes, overlaps."""
        faults: list[Fault] = []
        read: dict[str, str] = {}
        for name, text in (("PodCIDR", pods), ("SvcCIDR", services)):
            try:
                read[name] = validators.networks(text)
            except validators.FieldError as wrong:
                faults.append(Fault(name, wrong.message, wrong.hint))
        faults += _families(read)
        parsed = [(name, network) for name, text in read.items() for network in _networks(text)]
        faults += [fault for name, network in parsed if (fault := _size(name, network))]
        for of_pods, of_services in itertools.product(*(_networks(read.get(name, "")) for name in ("PodCIDR", "SvcCIDR"))):
            if of_pods.version == of_services.version and of_pods.overlaps(of_services):
                faults.append(Fault("PodCIDR", f"{of_pods} and SvcCIDR {of_services} overlap", "choose networks apart from each other"))
        if faults:
            raise InputError(faults)
        return cls(read["PodCIDR"], read["SvcCIDR"])

    @property
    def dual(self) -> bool:
        """Pods and Services have addresses of both families."""
        return "," in self.pods

    @property
    def pod_networks(self) -> tuple[IpNetwork, ...]:
        return _networks(self.pods)

    @property
    def service_networks(self) -> tuple[IpNetwork, ...]:
        return _networks(self.services)

    @property
    def api(self) -> str:
        """The address of the service ``kubernetes``: the first of the range, of the first family."""
        return str(self.service_networks[0][1])

    @property
    def dns(self) -> str:
        """The address of the service ``kube-dns``: the tenth of the range, of the first family."""
        return str(self.service_networks[0][10])

    @property
    def node_prefix6(self) -> int | None:
        """The prefix of the IPv6 network that each node has for its pods; None without IPv6."""
        wide = next((network.prefixlen for network in self.pod_networks if network.version == 6), None)
        if wide is None:
            return None
        return DEFAULT_PREFIX6 if DEFAULT_PREFIX6 - _MOST_NODE_BITS <= wide <= DEFAULT_PREFIX6 - 4 else min(wide + _MOST_NODE_BITS, 120)

    @property
    def variables(self) -> dict[str, str]:
        """Variables for templates and commands. Those that end in v4 and v6 are of one family, and empty without that family."""
        named = {"PodCIDR": self.pods, "SvcCIDR": self.services}
        single = {
            f"{name}v{version}": ",".join(str(network) for network in _networks(text) if network.version == version)
            for name, text in named.items()
            for version in (4, 6)
        }
        return {**named, **single, "KubeSvcIP": self.api, "DNSSvcIP": self.dns}


def _networks(text: str) -> tuple[IpNetwork, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part)


def _families(read: Mapping[str, str]) -> list[Fault]:
    """Faults of the address families of parsed networks, by name: one at most."""
    reasons = [(name, reason) for name, text in read.items() if (reason := validators.impossible(text))]
    if reasons:
        message = " and ".join([reasons[0][1], *(f"{name} {reason}" for name, reason in reasons[1:])])
        return [Fault(reasons[0][0], f"{message}: no cluster is made of that", validators.POSSIBLE)]
    if len({text.count(",") for text in read.values()}) > 1:
        (single_name, single), (both, double) = sorted(read.items(), key=lambda item: item[1].count(","))
        hint = f"give two of each: {single_name}={single},fd00:..."
        return [Fault(single_name, f"{single} is of one family, and {both} {double} of both", hint)]
    return []


def _size(name: str, network: IpNetwork) -> Fault | None:
    bits = network.max_prefixlen - network.prefixlen
    least, most = _ROOM[name][network.version]
    if least <= bits <= most:
        return None
    return Fault(name, f"{network} is too {'small' if bits < least else 'large'}", f"a /{_ENOUGH[name][network.version]} will do")


@dataclasses.dataclass(frozen=True)
class Member:
    """A node as member of the cluster."""

    node: Node
    name: str
    """Its name in Kubernetes: its host name, lower case."""
    address: str
    role: str
    """``control-plane`` or ``worker``."""
    registry: bool = False
    """Runs a registry: control-plane nodes, three at most."""
    systemd_cgroups: bool = False
    """Its cgroups are managed by systemd (version 2)."""
    resolv_conf: str | None = None
    """The kubelet's resolv.conf, where the usual one is a stub on the loopback."""
    restrict_oom: bool = False
    """The machine may not lower OOM scores (no CAP_SYS_RESOURCE)."""
    nftables: bool = False
    """Its kernel, and its own nft where it has one, allow kube-proxy's mode nftables."""

    away: bool = False
    """The member is unreachable now."""
    address6: str | None = None
    """Its IPv6 address, in a cluster with addresses of both families."""
    virtual_ip: str | None = None
    """Address of the API server, when IPVS rules of its kernel lead there; None: its loopback, or the node itself."""

    @property
    def is_control_plane(self) -> bool:
        return self.role == "control-plane"

    @property
    def node_ip(self) -> str:
        """Its addresses, in the form of the kubelet's --node-ip."""
        return f"{self.address},{self.address6}" if self.address6 else self.address


@dataclasses.dataclass(frozen=True)
class Profile:
    """Hardening of a cluster; without a name there is none. ``harness.runtimes.profiles`` makes them."""

    name: str = ""
    documents: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), repr=False)
    """Documents of kubeadm and the kubelet, in the form of v1beta4: they override slipway's own; image and user override them."""
    files: Files = dataclasses.field(default_factory=dict, repr=False)
    """Files on control-plane nodes that arguments of the documents name."""
    folders: tuple[str, ...] = ()
    """Folders on control-plane nodes that only root may read."""
    units: Files = dataclasses.field(default_factory=dict, repr=False)
    """On every node."""
    sysctls: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Settings of the kernel, by name with dots, without which no kubelet starts."""
    mode: int = 0o644
    """Mode of the kubelet's units and configuration, and of the pod network's."""
    encrypts: bool = False
    """Secrets are encrypted in etcd."""
    serving: bool = False
    """Kubelets serve with certificates of the cluster's authority."""


@dataclasses.dataclass(frozen=True)
class RuntimeCluster:
    """Description of a cluster for kubeadm."""

    name: str
    facts: Facts
    network: ClusterNetwork
    members: tuple[Member, ...]
    cert_sans: tuple[str, ...] = ()
    added_names: tuple[str, ...] = ()
    """More SANs, added later."""
    own_network: bool = False
    """An application of the image brings the pod network (CNI)."""
    own_dns: bool = True
    """The image has an addon of its own for cluster DNS."""
    documents: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), repr=False)
    """Configuration of kubeadm, kubelet and kube-proxy that overrides slipway's, as plain documents; the last one counts."""
    proxy_mode: str | None = None
    """kube-proxy's mode in an existing cluster; None for a new one."""
    certificate_days: int | None = None
    """Lifetime of certificates in days; None: that of kubeadm's."""
    virtual_ip: str | None = None
    """Virtual address of the API server for IPVS rules, on no interface; certificates include it."""
    profile: Profile = Profile()

    @property
    def control_plane(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.is_control_plane)

    @property
    def workers(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if not member.is_control_plane)

    @property
    def registries(self) -> tuple[Member, ...]:
        return tuple(member for member in self.members if member.registry)

    @property
    def chosen_proxy_mode(self) -> str:
        """kube-proxy's mode unless a document sets another: it is the same on all nodes, and changes only on request."""
        return self.proxy_mode or ("nftables" if all(member.nftables for member in self.members) else "iptables")


def documents(*values: Mapping[str, Any]) -> str:
    """Several YAML documents in one text."""
    return "---\n".join(yaml.safe_dump(dict(value), sort_keys=False, default_flow_style=False) for value in values)
