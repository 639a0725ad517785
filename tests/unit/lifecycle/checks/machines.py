"""Facts of machines with which nothing is wrong, and the findings about them."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.lifecycle.checks.facts import NEEDED, WANTED, Link, MachineFacts, Place, Route
from harness.lifecycle.checks.findings import Finding, Result
from harness.lifecycle.checks.preflight import ProbeResult, Target, Wanted, evaluate
from harness.oci.model import Platform
from harness.runtimes import ClusterNetwork

GIB, MIB = 1 << 30, 1 << 20


SAID = """begun 1010.0
host Web-1.example.com
arch x86_64
kernel 6.1.0-18-amd64
user ops
virtual kvm
os ID=debian
os VERSION_ID=12
os PRETTY_NAME=Debian GNU/Linux 12 (bookworm)
cpus 4
memory 4194304
available 3145728
limit 9223372036854771712
limit 2147483648
place /var/lib 65024 / 264212084 42483304 16777216 16038340 ext4
place /var/lib/etcd 41 /var/lib/etcd 1024 900 0 0 tmpfs ro,noexec,
readonly /usr/local/bin
capabilities 000001ffffffffff
files 20000
tasks max
kmsg yes
cgroup 1
controller cpu
controller memory
systemd yes
feature overlay
has nft_queue no
has ip_set yes
has odd
tool systemctl
tool tar
nat no iptables: Table does not exist
nft nftables v1.0.6 (Lester Gooch #5)
drop INPUT
drop input
swap /dev/sda2
selinux 1
apparmor Y
machine-id 84889fa9f9af41b38e21c8afb1dfe861
uuid 4C4C4544-0042
link eth0 02:42:ac:17:00:02 1500
link bond0 1500
route eth0 00000000 010017AC 00000000
route eth0 000017AC 00000000 0000FFFF
route6 eth0 fd000000000000000000000000000000 40 00000000000000000000000000000000
port 0016
port 192B
owner 192B 812 nginx
owner 192B 813 my program
left /etc/kubernetes/admin.conf
network 10-flannel.conflist
service docker active
service systemd-resolved active
containers moby 3
cluster lab 0123
hosts 127.0.0.1 localhost
resolv nameserver 10.0.0.53
resolv search example.com corp.example.com
proxy https_proxy
proxy https_proxy
direct localhost,.corp
address 10.0.0.1 eth0
address fd00:1::99 eth0 passing
address fd00:1::1 eth0 advertised
address 172.17.0.1 docker0
unforward6 /etc/sysctl.d/99-hard.conf
without6 yes
nat6 no ip6tables: no table
time 1011.0
"""


def good(host: str = "one", **changes: Any) -> MachineFacts:
    place = Place("/var/lib", "65024", "/", "ext4", frozenset(), 200 * GIB, 100 * GIB, 1_000_000, 900_000)
    names = ("/var/lib", "/var/lib/slipway", "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log")
    facts = MachineFacts(
        host=host,
        arch="amd64",
        kernel="6.1.0-18-amd64",
        os={"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12"},
        cpus=4,
        memory=4 * GIB,
        available=3 * GIB,
        places={path: dataclasses.replace(place, path=path) for path in names},
        controllers=frozenset({"cpu", "cpuset", "memory", "pids"}),
        features=frozenset({"overlay", "br_netfilter", "nf_conntrack", "vxlan"}),
        systemd=True,
        tools=frozenset((*NEEDED, *WANTED)),
        nat="yes",
        machine_id=host,
        links=(Link("eth0", f"02:00:00:00:00:{len(host):02x}", 1500),),
        routes=(Route("eth0", "0.0.0.0/0", "10.0.0.254"), Route("eth0", "10.0.0.0/24")),
        services=frozenset({"chrony"}),
        hosts=(("127.0.0.1", "localhost"),),
        nameservers=("10.0.0.53",),
        addresses=("10.0.0.1",),
    )
    return dataclasses.replace(facts, **changes)


def target(address: str = "10.0.0.1", role: str = "control-plane", probe: ProbeResult | None = None, **changes: Any) -> Target:
    host = f"host-{address.rpartition('.')[2]}"
    link = Link("eth0", f"02:00:00:00:00:{address.rpartition('.')[2]}", 1500)
    given = {"host": host, "machine_id": host, "addresses": (address,), "on": {address: "eth0"}, "links": (link,), **changes}
    return Target(address, role, good(**given), probe or ProbeResult(syncs=(0.001,) * 20))


WANTED_HERE = Wanted("lab", (Platform("linux", "amd64"),), 1 * GIB, ClusterNetwork("100.64.0.0/10", "10.96.0.0/22"), vxlan=True)


def told(*targets: Target, wanted: Wanted = WANTED_HERE) -> dict[tuple[str, str], Finding]:
    return {(finding.check, finding.where): finding for finding in evaluate(targets, wanted)}


def bad(*targets: Target, wanted: Wanted = WANTED_HERE) -> list[Finding]:
    return [finding for finding in evaluate(targets, wanted) if finding.result in (Result.FAILED, Result.WARNING)]


def only(findings: list[Finding], check: str, result: Result, says: str) -> None:
    """The findings are one, of this check, with these words and a remedy."""
    assert [(finding.check, finding.result) for finding in findings] == [(check, result)], findings
    assert says in str(findings[0])
    assert findings[0].remedy


def place(path: str, **changes: Any) -> dict[str, Any]:
    places = good().places
    return {"places": {**places, path: dataclasses.replace(places[path], device="7", mount=path, **changes)}}


NFTABLES: dict[str, Any] = {"features": frozenset({"overlay", "br_netfilter", "nf_conntrack", "vxlan", "nf_tables"})}


DUAL = dataclasses.replace(WANTED_HERE, network=ClusterNetwork("100.64.0.0/10,fd00:10:64::/48", "10.96.0.0/22,fd00:10:96::/112"))


ROUTES = (Route("eth0", "0.0.0.0/0", "10.0.0.254"), Route("eth0", "10.0.0.0/24"), Route("eth0", "fd00:1::/64"), Route("eth0", "::/0"))


def both(**changes: Any) -> Target:
    """A machine with addresses of both families."""
    given: dict[str, Any] = {
        "addresses": ("10.0.0.1", "fd00:1::1"),
        "on": {"10.0.0.1": "eth0", "fd00:1::1": "eth0"},
        "routes": ROUTES,
        **NFTABLES,
        **changes,
    }
    return target(**given)


def other_of_both(probe: ProbeResult | None = None) -> Target:
    return Target(
        "10.0.0.2", "worker", both(addresses=("10.0.0.2", "fd00:1::2"), on={"10.0.0.2": "eth0", "fd00:1::2": "eth0"}).machine, probe
    )


ODD = (
    "",
    "²",
    "8²",
    "-1",
    "1e999",
    "nan",
    "inf",
    "0x",
    "_1",
    "9" * 5000,
    "f" * 65,
    "/",
    "..",
    "\x1b[2J",
    "a b c d e f g h",
    "fe80::1%eth0",
    "٣",
)
"""Words that no machine should print."""
