"""What a machine must be before anything on it is changed: all machines are asked at once, and all faults are told at once."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from harness import log
from harness.errors import CheckError, CommandError, NodeError
from harness.nodes import Node, each
from harness.nodes.placing import STATE
from harness.oci.model import Platform
from harness.runtimes import API_PORT, REGISTRY_PORT, Network

MEMORY = 1 << 30
"""Bytes below which a machine is too small for Kubernetes."""
SKEW = 10
"""Seconds between the clocks of two machines from which on certificates and etcd may suffer."""

MASTER_PORTS = {API_PORT: "the API server", 2379: "etcd", 2380: "etcd", REGISTRY_PORT: "the registry", 10250: "the kubelet"}
WORKER_PORTS = {API_PORT: "the API balancer", REGISTRY_PORT: "the registry balancer", 10250: "the kubelet"}

NEEDED = ("systemctl", "tar", "iptables", "mount", "umount", "base64", "cksum", "find", "sed", "grep", "awk")
WANTED = ("conntrack", "socat")

_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

# Every line is ``key value``. Nothing on the machine is changed.
_SCRIPT = f"""LC_ALL=C
echo "host $(uname -n)"
echo "arch $(uname -m)"
echo "kernel $(uname -r)"
echo "cpus $(grep -c ^processor /proc/cpuinfo)"
echo "memory $(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"
folder={STATE}; while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
echo "disk $(df -Pk "$folder" | tail -n 1 | awk '{{print $4}}')"
echo "capabilities $(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo "cgroup 2"; else echo "cgroup 1"; fi
if [ -d /run/systemd/system ]; then echo "systemd yes"; fi
for tool in {" ".join((*NEEDED, *WANTED))}; do PATH=$PATH:/usr/sbin:/sbin command -v "$tool" > /dev/null && echo "tool $tool"; done
cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "0A" {{ split($2, parts, ":"); print "port " parts[length(parts)] }}' | sort -u
for file in /etc/kubernetes/manifests/*.yaml /etc/kubernetes/admin.conf /etc/kubernetes/kubelet.conf /var/lib/etcd/member; do
  if [ -e "$file" ]; then echo "left $file"; fi
done
if systemctl is-active --quiet systemd-resolved 2>/dev/null; then echo "resolved yes"; fi
echo "vendor $(cat /sys/class/dmi/id/sys_vendor 2>/dev/null)"
if systemctl is-active --quiet docker 2>/dev/null; then echo "docker yes"; fi
if [ -e {STATE}/cluster ]; then echo "cluster $(cat {STATE}/cluster)"; fi
all=$(hostname -I 2>/dev/null || ip -o addr show scope global | awk '{{ sub("/.*", "", $4); print $4 }}')
for address in $all; do echo "address $address"; done
echo "time $(date +%s.%N)"
"""


@dataclasses.dataclass(frozen=True)
class MachineFacts:
    """Facts about a machine, as it says itself."""

    host: str = ""
    arch: str = ""
    """In OCI words: ``amd64``."""
    kernel: str = ""
    cpus: int = 0
    memory: int = 0
    """Bytes."""
    disk: int = 0
    """Bytes free where our things go."""
    capabilities: int = -1
    """Those that its processes can have at most, as a bit set."""
    cgroup: int = 2
    systemd: bool = False
    resolved: bool = False
    docker: bool = False
    vendor: str = ""
    """Who made the machine, as its firmware says."""
    tools: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset()
    """TCP ports that somebody listens on."""
    left: tuple[str, ...] = ()
    """Files of a Kubernetes that is or was here."""
    cluster: str | None = None
    """Name and identity of the cluster of ours that the machine belongs to."""
    addresses: tuple[str, ...] = ()
    ahead: float = 0
    """Seconds by which its clock is ahead of ours."""

    @property
    def platform(self) -> Platform:
        return Platform("linux", self.arch)

    @property
    def restrict_oom(self) -> bool:
        """CAP_SYS_RESOURCE (bit 24) is missing."""
        return not self.capabilities >> 24 & 1


@dataclasses.dataclass(frozen=True)
class Target:
    """A machine in the place that it shall have."""

    address: str
    role: str
    machine: MachineFacts


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked of the machines."""

    cluster: str
    platforms: tuple[Platform, ...]
    size: int
    """Bytes of the image; a machine needs a multiple of it."""
    network: Network
    ours: frozenset[str] = frozenset()
    """Addresses of machines on which this very cluster runs or was begun."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A fault, or with ``warning`` something to know, and what to do about it."""

    where: str
    message: str
    remedy: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.message} ({self.remedy})"


def ask(node: Node) -> MachineFacts:
    """The facts about one machine."""
    before = time.time()
    text = node.run(_SCRIPT, timeout=60).stdout
    return parse(text, (before + time.time()) / 2)


def parse(text: str, now: float) -> MachineFacts:
    """Read what the script printed. ``now`` is our clock when it did, in seconds. Raises ValueError when it is not that."""
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {"tool": [], "port": [], "left": [], "address": []}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key in several:
            several[key].append(value)
        else:
            single[key] = value
    if "arch" not in single or "time" not in single:
        raise ValueError("the machine gave no facts")
    return MachineFacts(
        host=single.get("host", "").lower(),
        arch=Platform("linux", single["arch"]).normal().architecture,
        kernel=single.get("kernel", ""),
        cpus=int(single.get("cpus") or 0) or 1,
        memory=int(single.get("memory") or 0) * 1024,
        disk=int(single.get("disk") or 0) * 1024,
        capabilities=int(single.get("capabilities") or "ffffffffffffffff", 16),
        cgroup=int(single.get("cgroup") or 2),
        systemd="systemd" in single,
        resolved="resolved" in single,
        docker="docker" in single,
        vendor=single.get("vendor", ""),
        tools=frozenset(several["tool"]),
        ports=frozenset(int(port, 16) for port in several["port"]),
        left=tuple(several["left"]),
        cluster=single.get("cluster"),
        addresses=tuple(several["address"]),
        # Some date programs know no nanoseconds and print %N.
        ahead=float(re.sub(r"\.?%?N$", "", single["time"])) - now,
    )


def judge(targets: Sequence[Target], wanted: Wanted, members: Sequence[Target] = ()) -> tuple[Finding, ...]:
    """All that is wrong with the machines for what is wanted, faults before warnings. ``members`` are in the cluster already: names and
    clocks must go together with theirs.
    """
    found: list[Finding] = [*_strangers(members, wanted)]
    for target in targets:
        found += [*_hardware(target, wanted), *_software(target), *_used(target, wanted), *_addresses(target, wanted)]
    found += [*_names([*members, *targets]), *_clocks([*members, *targets])]
    return tuple(sorted(found, key=lambda finding: finding.warning))


def ours(targets: Sequence[Target], name: str) -> frozenset[str]:
    """The addresses of machines that belong to the cluster ``name`` already: to the very one whose keys the first master has."""
    first = next((target.machine.cluster for target in targets if target.role == "master"), None)
    if first is None or first.split(" ", maxsplit=1)[0] != name:
        return frozenset()
    return frozenset(target.address for target in targets if target.machine.cluster == first)


def _strangers(members: Sequence[Target], wanted: Wanted) -> Iterable[Finding]:
    for member in members:
        if member.address not in wanted.ours:
            holds = f"belongs to {member.machine.cluster}" if member.machine.cluster else "holds nothing of it"
            message = f"is no machine of the cluster {wanted.cluster}: it {holds}"
            yield Finding(member.address, message, f"slipway remove {wanted.cluster} {member.address}")


def _hardware(target: Target, wanted: Wanted) -> Iterable[Finding]:
    machine, where = target.machine, target.address
    if not any(machine.platform.matches(platform) for platform in wanted.platforms):
        there = ", ".join(str(platform) for platform in wanted.platforms)
        yield Finding(where, f"is {machine.platform}, the image is for {there}", f"build it with --platform {machine.platform}")
    if machine.cpus < 2:
        yield Finding(where, "has one processor", "two make a cluster usable", warning=True)
    if machine.memory < MEMORY:
        yield Finding(where, f"has {machine.memory >> 20} MiB of memory: too small", "give it 2 GiB or more")
    needed = wanted.size * 5 // 2
    if machine.disk < needed and where not in wanted.ours:
        message = f"has {_size(machine.disk)} free in /var/lib, the image needs {_size(needed)}"
        yield Finding(where, message, "free some, or mount a larger disk there")


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def _software(target: Target) -> Iterable[Finding]:
    machine, where = target.machine, target.address
    if not machine.systemd:
        yield Finding(where, "does not run systemd", "use a distribution with systemd")
    missing = [tool for tool in NEEDED if tool not in machine.tools and not (tool == "systemctl" and not machine.systemd)]
    if missing:
        yield Finding(where, f"has no {', '.join(missing)}", "install it from the distribution")
    less = [tool for tool in WANTED if tool not in machine.tools]
    if less:
        yield Finding(where, f"has no {', '.join(less)}", "some features of Kubernetes use it", warning=True)
    if machine.docker:
        yield Finding(where, "runs Docker, whose containerd will be replaced", "stop Docker if its containers matter", warning=True)


def _used(target: Target, wanted: Wanted) -> Iterable[Finding]:
    machine, where = target.machine, target.address
    if where in wanted.ours:
        return
    if machine.cluster is not None:
        name = machine.cluster.split(" ", maxsplit=1)[0]
        yield Finding(where, f"belongs to a cluster {name}", f"slipway delete {name}, or leave this machine out")
        return
    if machine.left:
        yield Finding(
            where, f"has {machine.left[0]} of another Kubernetes", "reset that first: kubeadm reset --force; rm -rf /var/lib/etcd"
        )
        return
    ports = MASTER_PORTS if target.role == "master" else WORKER_PORTS
    for port in sorted(machine.ports & set(ports)):
        yield Finding(where, f"port {port} is in use, {ports[port]} needs it", f"see who it is: ss -ltnp 'sport = :{port}'")


def _addresses(target: Target, wanted: Wanted) -> Iterable[Finding]:
    for name, text in (("PodCIDR", wanted.network.pods), ("SvcCIDR", wanted.network.services)):
        network = ipaddress.ip_network(text)
        # Bridges of our own, or of a container engine, are no way to other machines; the address that we use is.
        try:
            inside = ipaddress.ip_address(target.address) in network
        except ValueError:
            inside = any(ipaddress.ip_address(address) in network for address in target.machine.addresses[:1])
        if inside:
            yield Finding(target.address, f"lies in {name} {text}", f"choose another: -e {name}=...")


def _names(targets: Sequence[Target]) -> Iterable[Finding]:
    by_name: dict[str, list[str]] = {}
    for target in targets:
        by_name.setdefault(target.machine.host, []).append(target.address)
    yield from _name_faults(by_name)


def same_names(targets: Sequence[Target], others: Sequence[Target]) -> tuple[Finding, ...]:
    """Those of ``targets`` that have the name of one of ``others``, of which no more is known."""
    names = {other.machine.host: other.address for other in others}
    return tuple(
        Finding(target.address, f"has the host name of {names[target.machine.host]}", "give each its own: hostnamectl set-hostname NAME")
        for target in targets
        if names.get(target.machine.host, target.address) != target.address
    )


def _name_faults(by_name: Mapping[str, list[str]]) -> Iterable[Finding]:
    for name, addresses in by_name.items():
        if len(addresses) > 1:
            yield Finding(", ".join(addresses), f"have the same host name {name}", "give each its own: hostnamectl set-hostname NAME")
        if not _HOST_NAME.fullmatch(name) or name == "localhost" or len(name) > 63:
            yield Finding(
                addresses[0], f"{name!r} cannot be the name of a node", "use letters, digits and hyphens: hostnamectl set-hostname NAME"
            )


def _clocks(targets: Sequence[Target]) -> Iterable[Finding]:
    clocks = sorted(targets, key=lambda target: target.machine.ahead)
    if clocks and clocks[-1].machine.ahead - clocks[0].machine.ahead > SKEW:
        apart = clocks[-1].machine.ahead - clocks[0].machine.ahead
        message = f"its clock is {apart:.0f} s ahead of that of {clocks[0].address}"
        yield Finding(clocks[-1].address, message, "run chrony or another time service on all", warning=True)


def gather(nodes: Sequence[Node]) -> list[MachineFacts]:
    """The facts about all machines, asked at the same time. Raises NodeError when one gives none."""

    def one(node: Node) -> MachineFacts:
        try:
            return ask(node)
        except (ValueError, CommandError) as error:
            raise NodeError(
                f"{node.address}: its facts cannot be read: {error}", hint="it must be Linux with a POSIX shell and /proc"
            ) from error

    return each(nodes, one)


def require(findings: Sequence[Finding]) -> None:
    """Show the warnings. Raises CheckError that tells all faults at once."""
    for finding in findings:
        if finding.warning:
            log.warning(str(finding))
    faults = [finding for finding in findings if not finding.warning]
    if faults:
        count = f"{len(faults)} thing{'s' if len(faults) > 1 else ''}"
        lines = [f"{fault.where}: {fault.message}\n  hint: {fault.remedy}" for fault in faults]
        raise CheckError(f"{count} must be put right first; nothing has been changed\n" + "\n".join(lines))
