"""What is wrong with machines is seen before anything on them is changed, all of it at once."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from harness.cloudimage import enforcers
from harness.errors import CheckError, NodeError, UsageError
from harness.lifecycle.checks import findings
from harness.lifecycle.checks import preflight as fitness
from harness.lifecycle.checks.facts import NEEDED, SCRIPT, WANTED, Link, MachineFacts, Place, Route, parse
from harness.lifecycle.checks.findings import Finding, Result, addresses, group, require, require_healthy, skip, to_json
from harness.lifecycle.checks.preflight import CHECKS, ProbeResult, Target, Wanted, evaluate, gather, ours, probes, same_names, ways
from harness.oci.model import Platform
from harness.runtimes import ClusterNetwork, profiles
from tests.unit.lifecycle.standin import StandIn

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


def target(address: str = "10.0.0.1", role: str = "master", probe: ProbeResult | None = None, **changes: Any) -> Target:
    host = f"host-{address.rpartition('.')[2]}"
    link = Link("eth0", f"02:00:00:00:00:{address.rpartition('.')[2]}", 1500)
    given = {"host": host, "machine_id": host, "addresses": (address,), "on": {address: "eth0"}, "links": (link,), **changes}
    return Target(address, role, good(**given), probe or ProbeResult(syncs=(0.001,) * 20))


WANTED_HERE = Wanted("lab", (Platform("linux", "amd64"),), 1 * GIB, ClusterNetwork("100.64.0.0/10", "10.96.0.0/22"), vxlan=True)


def told(*targets: Target, wanted: Wanted = WANTED_HERE) -> dict[tuple[str, str], Finding]:
    return {(finding.check, finding.where): finding for finding in evaluate(targets, wanted)}


def bad(*targets: Target, wanted: Wanted = WANTED_HERE) -> list[Finding]:
    return [finding for finding in evaluate(targets, wanted) if finding.result in (Result.FAILED, Result.WARNING)]


# ---- reading ----------------------------------------------------------------------------------------------------------


def test_the_facts_of_a_machine_are_read() -> None:
    facts = parse(SAID, 999.0, 1000.0)
    assert (facts.host, facts.arch, facts.user, facts.virtual, facts.cpus) == ("web-1.example.com", "amd64", "ops", "kvm", 4)
    # What its control group allows is what it has.
    assert (facts.memory, facts.available) == (2 * GIB, 3 * GIB)
    assert facts.os["VERSION_ID"] == "12"
    etcd = facts.places["/var/lib/etcd"]
    assert (etcd.kind, sorted(etcd.flags), etcd.total, etcd.inodes) == ("tmpfs", ["noexec", "ro"], MIB, 0)
    assert facts.places["/var/lib"].free == 42483304 * 1024
    assert facts.ports == {22, 6443}
    assert facts.owners == {6443: "nginx (812), my program (813)"}
    assert (facts.systemd, facts.resolved, facts.cgroup, facts.files, facts.tasks) == (True, True, 1, 20000, None)
    assert facts.services == {"docker", "systemd-resolved"}
    assert (facts.cluster, facts.on["172.17.0.1"]) == ("lab 0123", "docker0")
    assert facts.addresses == ("10.0.0.1", "fd00:1::99", "fd00:1::1", "172.17.0.1")
    assert facts.routes == (
        Route("eth0", "0.0.0.0/0", "172.23.0.1"),
        Route("eth0", "172.23.0.0/16"),
        Route("eth0", "fd00::/64"),
    )
    assert facts.links == (Link("eth0", "02:42:ac:17:00:02", 1500),)
    assert (facts.drops, facts.swap, facts.selinux, facts.apparmor) == (("INPUT",), ("/dev/sda2",), True, True)
    assert (facts.searches, facts.proxies, facts.direct) == (("example.com", "corp.example.com"), ("https_proxy",), "localhost,.corp")
    assert facts.nat == "no iptables: Table does not exist"
    assert facts.has == {"nft_queue": False, "ip_set": True}
    assert facts.nft == "nftables v1.0.6 (Lester Gooch #5)"
    assert facts.containers == {"moby": 3}
    assert not facts.restrict_oom


def test_a_clock_is_compared_at_both_ends_of_the_question() -> None:
    # Asked at 999, answered at 1000; it said 1010 first and 1011 last: eleven seconds ahead, however long the answer took.
    assert parse(SAID, 999.0, 1000.0).ahead == pytest.approx(11.0)
    assert parse("arch x86_64\ntime 1000.%N\n", 1000, 1000).ahead == 0


def test_the_ipv6_address_of_a_machine_is_the_lasting_one_beside_its_ipv4_address() -> None:
    facts = parse(SAID, 999.0, 1000.0)
    assert (facts.address6("10.0.0.1"), facts.address6("172.17.0.1"), facts.address6("10.9.9.9")) == ("fd00:1::1", None, None)
    assert (facts.passing, facts.advertised) == (frozenset({"fd00:1::99"}), frozenset({"fd00:1::1"}))
    assert (facts.without6, facts.unforward6, facts.nat6) == (True, ("/etc/sysctl.d/99-hard.conf",), "no ip6tables: no table")


@pytest.mark.parametrize(("said", "restricted"), [("0000003ffeffffff", True), ("0000003fffffffff", False)])
def test_a_machine_that_may_not_lower_oom_scores_is_known_by_its_capabilities(said: str, restricted: bool) -> None:
    assert parse(SAID.replace("000001ffffffffff", said), 0, 0).restrict_oom is restricted


def test_an_answer_that_is_none_is_an_error_of_that_node() -> None:
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: its facts cannot be read"):
        gather.gather([StandIn()])


def test_what_was_tried_is_read_and_what_is_no_answer_is_left_out() -> None:
    found = probes.parse("reach 10.0.0.2 6443 ok\nreach 10.0.0.2 x ok\npacket 10.0.0.2 no\nsync 0.0004\nsync much\nbash: no\n")
    assert found == ProbeResult({("10.0.0.2", 6443): "ok"}, frozenset(), (0.0004,), {"10.0.0.2": False})
    listener = probes.listening("perl: warning\nlistening 812 6443 2379 udp\n")
    assert (listener.pid, listener.ports, listener.udp) == (812, {6443, 2379}, True)  # type: ignore[union-attr]
    assert probes.listening("") is None


def test_something_listens_only_while_it_is_tried_also_when_a_machine_is_lost() -> None:
    first, second = StandIn("10.0.0.1"), StandIn("10.0.0.2")
    for node in (first, second):
        node.answers = {"IO::Socket": "listening 812 6443 10250 udp\n", "reach()": "reach 10.0.0.2 10250 ok\n"}
    nodes: Any = {node.address: node for node in (first, second)}
    found = probes.probed(nodes, [target(probe=ProbeResult()), target("10.0.0.2", "node", ProbeResult())], WANTED_HERE)
    assert found[0].probe == ProbeResult({("10.0.0.2", 10250): "ok"}, frozenset({6443, 10250}))
    assert "kill 812" in first.commands[-1]
    assert "reach 10.0.0.2 10250 &" in first.commands[1]
    assert "packet 10.0.0.2 8472 &" in first.commands[1]
    # Only masters have etcd; what a worker needs nobody for is not tried from it.
    assert "dsync" in first.commands[1]
    assert "dsync" not in second.commands[1]

    def lost() -> str:
        raise NodeError("10.0.0.2: the connection was lost")

    second.answers["reach()"] = lost
    first.commands.clear()
    with pytest.raises(NodeError):
        probes.probed(nodes, [target(), target("10.0.0.2", "node")], WANTED_HERE)
    assert "kill 812" in first.commands[-1]


def test_a_cluster_that_is_there_is_not_tried_again() -> None:
    node = StandIn()
    probes.probed({node.address: node}, [target()], dataclasses.replace(WANTED_HERE, ours=frozenset({"10.0.0.1"})))
    assert node.commands == []


def test_masters_must_reach_all_kubelets_and_everybody_the_masters() -> None:
    master, other, worker = target(), target("10.0.0.2"), target("10.0.0.3", "node")
    everybody = (master, other, worker)
    assert set(ways(master, everybody, WANTED_HERE)) == {
        *(("10.0.0.2", port) for port in (6443, 5000, 2379, 2380, 10250)),
        ("10.0.0.3", 10250),
    }
    without = dataclasses.replace(WANTED_HERE, registry=False)
    assert set(ways(worker, everybody, without)) == {("10.0.0.1", 6443), ("10.0.0.2", 6443)}
    # Somebody else on a port need not answer; the cluster itself must.
    taken = target(ports=frozenset({6443}))
    assert ways(worker, (taken, worker), without) == ()
    assert ways(worker, (taken, worker), dataclasses.replace(without, ours=frozenset({"10.0.0.1"}))) == (("10.0.0.1", 6443),)


# ---- judging ----------------------------------------------------------------------------------------------------------


def test_machines_that_are_fit_are_let_through_by_every_check() -> None:
    found = told(target(), target("10.0.0.2", "node"))
    assert {check for check, _ in found} == CHECKS.keys() - {"member"}
    assert {finding.message for finding in found.values() if finding.result not in (Result.OK, Result.UNKNOWN)} == set()
    # Ways are unknown as long as nothing was tried.
    assert {check for (check, _), finding in found.items() if finding.result is Result.UNKNOWN} == {"reach"}
    assert len(CHECKS) >= 40


def place(path: str, **changes: Any) -> dict[str, Any]:
    places = good().places
    return {"places": {**places, path: dataclasses.replace(places[path], device="7", mount=path, **changes)}}


V1: dict[str, Any] = {"cgroup": 1, "controllers": frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids", "devices"})}

NFTABLES: dict[str, Any] = {"features": frozenset({"overlay", "br_netfilter", "nf_conntrack", "vxlan", "nf_tables"})}

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("architecture", {"arch": "arm64"}, "is linux/arm64, the image is for linux/amd64 (build it with --platform linux/arm64)"),
    ("memory", {"memory": GIB // 2}, "512 MiB of memory: too small"),
    ("kernel", {"kernel": "3.8.1"}, "too old"),
    ("systemd", {"systemd": False}, "does not run systemd"),
    ("programs", {"tools": frozenset({*NEEDED, *WANTED} - {"tar", "iptables"})}, "has no tar, iptables"),
    ("disk-space", place("/var/lib/slipway", free=GIB), "has 1.0 GiB free in /var/lib/slipway, 1.2 GiB are needed"),
    ("disk-space", place("/var/lib/etcd", free=10 * MIB), "has 10 MiB free in /var/lib/etcd, 256 MiB are needed"),
    ("disk-space", place("/var/lib/containerd", total=20 * GIB, free=2 * GIB), "10% of /var/lib/containerd is free: no pod would be let"),
    ("inodes", place("/var/lib/containerd", inodes=10000, free_inodes=500), "500 inodes free on /var/lib/containerd"),
    ("mount-options", place("/var/lib/slipway", flags=frozenset({"noexec"})), "is mounted noexec"),
    ("read-only", {"readonly": ("/etc",)}, "/etc cannot be written to"),
    ("sysctl", {"readonly": ("/proc/sys/net/ipv4/ip_forward",)}, "net/ipv4/ip_forward cannot be set"),
    ("cgroup", {"controllers": frozenset({"cpu", "cpuset", "pids"})}, "cgroup v2 without memory"),
    ("nat", {"nat": "no Table does not exist"}, "iptables cannot read the table nat: Table does not exist"),
    ("capabilities", {"capabilities": 1 << 24}, "root has no CAP_NET_ADMIN, CAP_SYS_ADMIN"),
    ("capabilities", {"kmsg": False}, "/dev/kmsg"),
    ("selinux", {"selinux": True}, "SELinux enforces"),
    ("ports", {"ports": frozenset({6443}), "owners": {6443: "nginx (8)"}}, "port 6443 is in use by nginx (8), the API server needs it"),
    ("ports", {"ports": frozenset({2379})}, "port 2379 is in use, etcd needs it"),
    (
        "leftovers",
        {"left": ("/etc/kubernetes/admin.conf",), "ports": frozenset({6443})},
        "/etc/kubernetes/admin.conf of another Kubernetes",
    ),
    ("leftovers", {"left": ("/var/lib/rancher/k3s/server",)}, "k3s-uninstall.sh"),
    ("leftovers", {"services": frozenset({"chrony", "k3s-agent"})}, "runs k3s-agent of another cluster"),
    ("cni", {"networks": ("05-calico.conflist",)}, "05-calico.conflist would be the network of pods"),
    ("cluster", {"cluster": "other 99"}, "belongs to a cluster other"),
    ("hostname", {"host": "web_1"}, "cannot be the name of a node"),
    ("hostname", {"host": "localhost"}, "cannot be the name of a node"),
    ("address", {"addresses": ("192.168.0.9",)}, "has 192.168.0.9, and not 10.0.0.1"),
    ("networks", {"addresses": ("10.0.0.1", "100.64.9.9")}, "has 100.64.9.9, in PodCIDR 100.64.0.0/10"),
    ("networks", {"routes": (Route("eth1", "10.96.0.0/16"),)}, "routes 10.96.0.0/16 on eth1, in SvcCIDR"),
    ("networks", {"routes": (Route("tailscale0", "100.100.0.0/16", "10.0.0.9"),)}, "by 10.0.0.9, in PodCIDR"),
    ("networks", {"nameservers": ("100.100.100.100",)}, "asks the name server 100.100.100.100"),
    ("hosts-file", {"hosts": (("10.9.9.9", "apiserver.cluster.local"),)}, "apiserver.cluster.local is 10.9.9.9"),
    ("hosts-file", {"hosts": (("10.9.9.9", "localhost"),)}, "localhost is 10.9.9.9"),
    ("clock", {"ahead": -3600.0}, "its clock is 60 min behind of this machine's"),
]


@pytest.mark.parametrize(("check", "changes", "says"), FAULTS)
def test_what_surely_breaks_is_a_fault_with_a_remedy_and_the_only_one(check: str, changes: dict[str, Any], says: str) -> None:
    found = [finding for finding in bad(target(**changes)) if finding.result is Result.FAILED]
    assert [finding.check for finding in found] == [check], found
    assert says in str(found[0])
    assert found[0].remedy


WARNINGS: list[tuple[str, dict[str, Any], str]] = [
    ("cpu", {"cpus": 1}, "one processor"),
    ("memory", {"memory": 1200 * MIB}, "has 1.2 GiB"),
    ("memory", {"available": 100 * MIB}, "only 100 MiB free"),
    ("os", {"os": {"ID": "debian", "VERSION_ID": "9"}}, "is old"),
    ("os", {"os": {"ID": "gentoo", "PRETTY_NAME": "Gentoo"}}, "Gentoo: slipway was not tried on it"),
    ("kernel", {"kernel": "4.4.0-21"}, "is old"),
    ("swap", {"swap": ("/dev/sda2",)}, "swaps to /dev/sda2"),
    ("programs", {"tools": frozenset(NEEDED)}, "has no conntrack, socat"),
    ("disk-space", place("/var/lib/containerd", total=10 * GIB, free=2 * GIB), "8% of /var/lib/containerd will be free"),
    ("inodes", place("/var/lib/containerd", inodes=10_000_000, free_inodes=99_000), "99000 inodes free"),
    ("filesystem", place("/var/lib/etcd", kind="tmpfs"), "is in memory"),
    ("filesystem", place("/var/lib/etcd", kind="nfs4"), "/var/lib/etcd is on nfs4"),
    ("filesystem", place("/var/lib/containerd", kind="overlay"), "overlays do not work there"),
    ("mount-options", place("/var/lib/kubelet", flags=frozenset({"noexec", "nosuid"})), "noexec: volumes of pods will be so"),
    ("etcd-disk", {"probe": ProbeResult(syncs=(0.001,) * 18 + (0.03, 0.04))}, "etcd's disk takes 30.0 ms"),
    ("kernel-features", {"features": frozenset({"overlay", "nf_conntrack", "vxlan"})}, "no module br_netfilter"),
    ("sysctl", {"unforward": ("/etc/sysctl.conf",)}, "/etc/sysctl.conf switches net.ipv4.ip_forward off"),
    ("limits", {"files": 1024}, "open files at most 1024"),
    ("limits", {"tasks": 100}, "processes at most 100"),
    ("apparmor", {"apparmor": True}, "no apparmor_parser"),
    ("node-ports", {"ports": frozenset({31000})}, "listens on 31000"),
    ("ports", {"ports": frozenset({5001}), "owners": {5001: "nginx (8)"}}, "port 5001 is in use by nginx (8)"),
    ("cni", {"networks": ("87-podman-bridge.conflist", ".keep")}, "has /etc/cni/net.d/87-podman-bridge.conflist"),
    ("runtimes", {"services": frozenset({"docker", "chrony"})}, "runs Docker"),
    ("runtimes", {"services": frozenset({"crio", "chrony"})}, "runs crio"),
    ("runtimes", {"containers": {"default": 2}}, "containerd has containers (2 in default)"),
    ("firewall", {"services": frozenset({"firewalld", "chrony"})}, "firewalld is on"),
    ("firewall", {"drops": ("FORWARD",)}, "drops by default (FORWARD)"),
    ("time-service", {"services": frozenset()}, "no time service runs"),
    ("default-route", {"routes": (Route("eth0", "10.0.0.0/24"),)}, "no route leads to the addresses of Services"),
    ("networks", {"routes": (Route("eth0", "0.0.0.0/0", "10.0.0.9"), Route("eth0", "10.0.0.0/8", "10.0.0.9"))}, "with SvcCIDR"),
    ("mtu", {"links": (Link("eth0", "02:00:00:00:00:01", 1280),)}, "1280 bytes"),
    ("hosts-file", {"hosts": (("10.0.0.99", "host-1"), ("127.0.0.1", "localhost"))}, "host-1 is 10.0.0.99, which the machine is not"),
    ("resolver", {"nameservers": ("127.0.0.1",)}, "would ask itself"),
    ("resolver", {"nameservers": ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")}, "names 4 servers"),
    ("search-domains", {"searches": ("a.b", "svc.cluster.local")}, "the cluster's own domain"),
    ("search-domains", {"searches": tuple(f"d{number}.example.com" for number in range(30))}, "pods get the first 29 only"),
    ("cgroup", V1, "a kubelet refuses to start by itself since Kubernetes 1.35"),
    ("proxy", {"proxies": ("https_proxy",), "direct": "localhost,10.0.0.0/8"}, "services get https_proxy"),
    ("clock", {"ahead": 9.0}, "its clock is 9 s ahead of this machine's"),
]


@pytest.mark.parametrize(("check", "changes", "says"), WARNINGS)
def test_what_can_be_lived_with_is_a_warning_with_a_remedy_and_the_only_one(check: str, changes: dict[str, Any], says: str) -> None:
    found = bad(target(**changes))
    assert [(finding.check, finding.result) for finding in found] == [(check, Result.WARNING)], found
    assert says in str(found[0])
    assert found[0].remedy


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("ports", {"role": "node", "ports": frozenset({2379})}),
        ("ports", {"ports": frozenset({5001}), "owners": {5001: "systemd (1)"}}),
        ("disk-space", {"role": "node", **place("/var/lib/etcd", free=0)}),
        ("etcd-disk", {"role": "node", "probe": ProbeResult(syncs=(1.0,))}),
        ("filesystem", {"role": "node", **place("/var/lib/etcd", kind="tmpfs")}),
        ("disk-space", place("/var/lib/etcd", total=100 * GIB, free=5 * GIB)),
        ("disk-space", place("/var/lib/kubelet", total=100 * GIB, free=11 * GIB)),
        ("time-service", {"services": frozenset(), "virtual": "docker"}),
        ("proxy", {"proxies": ("https_proxy",), "direct": "localhost,.cluster.local"}),
        ("inodes", place("/var/lib/containerd", kind="btrfs", inodes=0, free_inodes=0)),
        ("apparmor", {"apparmor": True, "tools": frozenset({*NEEDED, *WANTED, "apparmor_parser"})}),
        ("default-route", {"routes": (Route("eth0", "10.0.0.0/8", "10.0.0.9"),)}),
        ("search-domains", {"searches": ("a", "b", "c", "d")}),
        ("nat", {**NFTABLES, "nat": None}),
        ("nat", {**NFTABLES, "nat": "no Table does not exist"}),
        ("os", {"os": {"ID": "acme", "ID_LIKE": "rhel fedora", "VERSION_ID": "9.2"}}),
        ("runtimes", {"containers": {"k8s.io": 3}, "cluster": "other 1"}),
    ],
)
def test_what_looks_wrong_and_is_not_is_let_through(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.OK


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("os", {"os": {}}),
        ("kernel", {"kernel": ""}),
        ("disk-space", {"places": {}}),
        ("etcd-disk", {"probe": ProbeResult()}),
        ("cgroup", {"controllers": frozenset()}),
        ("kernel-features", {"features": frozenset()}),
        ("nat", {"nat": None}),
        ("address", {"addresses": ()}),
        ("default-route", {"routes": ()}),
    ],
)
def test_what_a_machine_does_not_tell_is_unknown_and_stops_nobody(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.UNKNOWN


def test_a_kubelet_that_is_told_when_a_disk_is_full_is_not_second_guessed() -> None:
    crowded = place("/var/lib/containerd", total=20 * GIB, free=2 * GIB)
    assert told(target(**crowded))["disk-space", "10.0.0.1"].result is Result.FAILED
    assert told(target(**crowded, evicts_otherwise=True))["disk-space", "10.0.0.1"].result is Result.OK


BY_QUEUE = enforcers.among(["registry.k8s.io/networking/kube-network-policies:v0.8.0"])


@pytest.mark.parametrize(
    ("check", "changes", "wanted", "result"),
    [
        ("kernel-features", {}, {"proxy_mode": "ipvs"}, Result.FAILED),
        ("kernel-features", {}, {"proxy_mode": "nftables"}, Result.FAILED),
        ("kernel-features", NFTABLES, {"proxy_mode": "nftables"}, Result.OK),
        ("nat", {**NFTABLES, "nat": "no Table does not exist"}, {"proxy_mode": "iptables"}, Result.FAILED),
        ("kernel-features", {"features": frozenset({"overlay", "br_netfilter", "nf_conntrack"})}, {"vxlan": False}, Result.OK),
        ("network-policies", {"has": {"nft_queue": False}}, {}, Result.OK),
        ("network-policies", {"has": {"nft_queue": True}}, {"enforcers": BY_QUEUE}, Result.OK),
        ("network-policies", {"has": {"nft_queue": False}}, {"enforcers": BY_QUEUE}, Result.FAILED),
        ("network-policies", {"has": {"ip_set": True}}, {"enforcers": BY_QUEUE}, Result.UNKNOWN),
        ("ports", {"ports": frozenset({5000})}, {"registry": False}, Result.OK),
        ("cni", {"networks": ("05-own.conflist",)}, {"vxlan": False}, Result.WARNING),
        ("architecture", {"arch": "riscv64"}, {"platforms": ()}, Result.OK),
        ("disk-space", place("/var/lib/containerd", total=20 * GIB, free=2 * GIB), {"evicts_later": True}, Result.WARNING),
    ],
)
def test_what_is_wanted_decides(check: str, changes: dict[str, Any], wanted: dict[str, Any], result: Result) -> None:
    assert told(target(**changes), wanted=dataclasses.replace(WANTED_HERE, **wanted))[check, "10.0.0.1"].result is result


@pytest.mark.parametrize(
    ("changes", "able"),
    [
        ({}, True),
        ({"kernel": "5.13.0"}, True),
        ({"kernel": "6.18.44-fc-v669", "nft": "nftables v1.0.1 (Fearless Fosdick #3)"}, True),
        ({"kernel": "5.10.0-30-amd64"}, False),
        ({"kernel": "4.18.0-553.el8_10.x86_64"}, False),
        ({"kernel": ""}, False),
        # A newer kernel beneath an older distribution.
        ({"kernel": "5.15.0-97-generic", "nft": "nftables v0.9.3 (Topsy)"}, False),
        ({"features": frozenset({"overlay"})}, False),
    ],
)
def test_kube_proxy_runs_by_nftables_where_kernel_and_program_allow_it(changes: dict[str, Any], able: bool) -> None:
    assert good(**{**NFTABLES, **changes}).nftables is able


# ---- both families ----------------------------------------------------------------------------------------------------

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


def test_a_machine_with_both_families_is_fit_for_both() -> None:
    assert bad(both(), wanted=DUAL) == []
    assert told(both(), wanted=DUAL)["ipv6", "10.0.0.1"].message == "fd00:1::1"
    # Who asks for one family needs no other.
    assert bad(both(readonly=("/proc/sys/net/ipv6/conf/all/forwarding",), without6=True, addresses=("10.0.0.1",))) == []


@pytest.mark.parametrize(
    ("changes", "result", "says"),
    [
        ({"addresses": ("10.0.0.1",)}, Result.FAILED, "has no IPv6 address on eth0 that lasts"),
        ({"on": {"10.0.0.1": "eth0", "fd00:1::1": "eth1"}}, Result.FAILED, "has no IPv6 address on eth0"),
        ({"passing": frozenset({"fd00:1::1"})}, Result.FAILED, "has no IPv6 address on eth0"),
        ({"readonly": ("/proc/sys/net/ipv6/conf/all/forwarding",)}, Result.FAILED, "cannot switch IPv6 forwarding on"),
        ({"without6": True}, Result.FAILED, "switches IPv6 off for new interfaces"),
        (
            {"kernel": "5.10.0", "nat6": "no Table does not exist"},
            Result.FAILED,
            "translate no IPv6 addresses for Services (Table does not",
        ),
        ({"unforward6": ("/etc/sysctl.conf",)}, Result.WARNING, "/etc/sysctl.conf switches net.ipv6.conf.all.forwarding off"),
        ({"advertised": frozenset({"fd00:1::1"})}, Result.WARNING, "has fd00:1::1 from router advertisements"),
    ],
)
def test_what_a_machine_lacks_for_ipv6_is_told_where_both_families_are_asked_for(
    changes: dict[str, Any], result: Result, says: str
) -> None:
    (found,) = bad(both(**changes), wanted=DUAL)
    assert (found.check, found.result) == ("ipv6", result)
    assert says in found.message
    assert found.remedy


def test_all_that_a_machine_lacks_for_ipv6_is_told_at_once() -> None:
    lacking = both(addresses=("10.0.0.1",), readonly=("/proc/sys/net/ipv6/conf/all/forwarding",), without6=True)
    (found,) = bad(lacking, wanted=DUAL)
    assert found.message.count(";") == 2


@pytest.mark.parametrize("wanted", [WANTED_HERE, DUAL])
def test_a_machine_that_is_known_by_an_ipv6_address_is_refused(wanted: Wanted) -> None:
    found = told(target("fd00:1::1"), wanted=wanted)["ipv6", "fd00:1::1"]
    assert found.result is Result.FAILED
    assert "clusters of IPv6 alone are not made" in found.message


@pytest.mark.parametrize(
    ("check", "changes", "result", "says"),
    [
        (
            "networks",
            {"routes": (*ROUTES, Route("eth1", "fd00:10:64:7::/64"))},
            Result.FAILED,
            "fd00:10:64:7::/64 on eth1, in PodCIDR fd00:",
        ),
        ("networks", {"nameservers": ("fd00:10:96::5",)}, Result.FAILED, "asks the name server fd00:10:96::5, in SvcCIDR fd00:10:96::/112"),
        ("default-route", {"routes": ROUTES[:3]}, Result.WARNING, "no route leads to the addresses of IPv6 of Services"),
    ],
)
def test_networks_of_ipv6_are_looked_at_as_those_of_ipv4(check: str, changes: dict[str, Any], result: Result, says: str) -> None:
    (found,) = bad(both(**changes), wanted=DUAL)
    assert (found.check, found.result) == (check, result)
    assert says in found.message


def other_of_both(probe: ProbeResult | None = None) -> Target:
    return Target(
        "10.0.0.2", "node", both(addresses=("10.0.0.2", "fd00:1::2"), on={"10.0.0.2": "eth0", "fd00:1::2": "eth0"}).machine, probe
    )


def test_packets_of_pods_are_tried_by_both_families() -> None:
    nodes = {address: StandIn(address) for address in ("10.0.0.1", "10.0.0.2")}
    for address, node in nodes.items():
        node.answers = {f"slipway-listens fd00:1::{address[-1]} 8472": "listening 813 udp\n", "IO::Socket": "listening 812 6443 udp\n"}
    probes.probed(nodes, [both(), other_of_both()], DUAL)
    commands = nodes["10.0.0.1"].commands
    assert [command for command in commands if "packet 10.0.0.2 8472 &" in command and "packet fd00:1::2 8472 &" in command]
    assert commands[-1].startswith("kill 812 813 ")


def test_packets_of_pods_that_are_lost_by_one_family_are_told_with_it() -> None:
    one = both(probe=ProbeResult(syncs=(0.001,) * 20, packets={"10.0.0.2": True, "fd00:1::2": False}))
    found = told(one, other_of_both(ProbeResult(packets={"10.0.0.1": True, "fd00:1::1": True})), wanted=DUAL)
    assert found["pod-packets", "10.0.0.1"].result is Result.OK
    lost = found["pod-packets", "10.0.0.2"]
    assert lost.message == "UDP 8472 from 10.0.0.1 by IPv6 does not come back: pods would not reach each other"


# ---- machines beside each other ---------------------------------------------------------------------------------------


def test_machines_that_share_an_identity_are_told_all_of_them() -> None:
    mac = (Link("eth0", "02:00:00:00:00:99", 1500),)
    same: dict[str, Any] = {"host": "same", "machine_id": "1", "links": mac}
    found = bad(target(**same), target("10.0.0.2", "node", **same), target("10.0.0.3", "node"))
    assert {(one.check, one.where, one.result) for one in found} == {
        (check, address, result)
        for address in ("10.0.0.1", "10.0.0.2")
        for check, result in (("hostname", Result.FAILED), ("mac", Result.FAILED), ("machine-id", Result.WARNING))
    }
    # Containers on one machine share its firmware.
    contained = [target(address, uuid="4c", virtual="docker") for address in ("10.0.0.1", "10.0.0.2")]
    assert bad(*contained) == []
    assert [one.check for one in bad(target(uuid="4c"), target("10.0.0.2", uuid="4c"))] == ["machine-id"] * 2


def test_clocks_that_differ_are_a_warning_that_names_the_one_that_is_off() -> None:
    (found,) = bad(target(), target("10.0.0.2", ahead=25.0))
    assert (found.where, found.message) == ("10.0.0.2", "its clock is 25 s ahead of that of 10.0.0.1")
    (found,) = bad(target(ahead=3.0), target("10.0.0.2", ahead=3.1), target("10.0.0.3", ahead=-4.0))
    assert (found.where, found.message) == ("10.0.0.3", "its clock is 7 s behind of the others'")
    assert bad(target(), target("10.0.0.2", ahead=1.5)) == []
    ours_alone = dataclasses.replace(WANTED_HERE, ours=frozenset({"10.0.0.1"}))
    assert all(one.result is Result.WARNING for one in bad(target(ahead=-9999.0), wanted=ours_alone))


def test_a_way_that_is_closed_is_told_at_the_machine_that_is_not_reached() -> None:
    dropped = ProbeResult({("10.0.0.2", 10250): "silent", ("10.0.0.2", 6443): "refused"}, frozenset({6443}), (0.001,))
    other = ProbeResult({("10.0.0.1", 6443): "ok"}, frozenset({10250, 6443}), (0.001,), {"10.0.0.1": False})
    found = {(one.check, one.where): one for one in bad(target(probe=dropped), target("10.0.0.2", probe=other))}
    assert found.keys() == {("reach", "10.0.0.2"), ("pod-packets", "10.0.0.1")}
    text = found["reach", "10.0.0.2"].message
    assert text == "is not reached on TCP 6443 from 10.0.0.1 (refused by a firewall); TCP 10250 from 10.0.0.1 (no answer)"
    # Where nothing could listen a refusal shows that the machine is reached.
    quiet = dataclasses.replace(other, listened=frozenset(), packets={})
    refused = ProbeResult({("10.0.0.2", 6443): "refused"}, frozenset(), (0.001,))
    assert bad(target(probe=refused), target("10.0.0.2", probe=quiet)) == []


def test_settings_of_the_kernel_that_only_a_profile_wants_are_asked_for_with_one() -> None:
    fixed = target(readonly=("/proc/sys/kernel/panic",))
    assert bad(fixed) == []
    (found,) = bad(fixed, wanted=dataclasses.replace(WANTED_HERE, sysctls=profiles.sysctls("cis")))
    assert (found.check, found.result, found.message) == ("sysctl", Result.FAILED, "kernel/panic cannot be set")
    # One that is as it should be already need not be set.
    assert 'echo "readonly /proc/sys/$name"' in SCRIPT
    assert "kernel/panic=10" in SCRIPT


def test_packets_of_one_size_are_wanted() -> None:
    small = (Link("eth0", "02:00:00:00:00:02", 1450),)
    (found,) = bad(target(), target("10.0.0.2", links=small))
    assert (found.check, found.where) == ("mtu", "10.0.0.2")


def test_a_machine_inside_the_pod_network_is_a_fault() -> None:
    found = [one for one in bad(target("100.64.3.4")) if one.check == "networks"]
    assert "lies in PodCIDR 100.64.0.0/10" in found[0].message
    assert "-e PodCIDR=" in found[0].remedy


# ---- clusters that are there ------------------------------------------------------------------------------------------


def test_a_machine_of_the_very_same_cluster_is_ours_with_all_it_holds() -> None:
    held: dict[str, Any] = {
        "ports": frozenset({6443, 31000}),
        "left": ("/etc/kubernetes/admin.conf",),
        "networks": ("10-flannel.conflist",),
        "routes": (Route("cni0", "100.64.0.0/24"), Route("eth0", "0.0.0.0/0", "10.0.0.9")),
        "drops": ("FORWARD",),
        "hosts": (("10.0.0.1", "apiserver.cluster.local"), ("127.0.0.1", "localhost")),
        "containers": {"k8s.io": 9},
    }
    targets = [target(cluster="lab 01", **held, **place("/var/lib/slipway", free=0)), target("10.0.0.2", "node")]
    mine = ours(targets, "lab")
    assert mine == {"10.0.0.1"}
    assert bad(*targets, wanted=dataclasses.replace(WANTED_HERE, ours=mine)) == []


def test_another_cluster_of_the_same_name_is_not_ours() -> None:
    targets = [target(cluster="lab 01"), target("10.0.0.2", "node", cluster="lab 02")]
    assert ours(targets, "lab") == {"10.0.0.1"}
    assert ours([target(), target("10.0.0.2", "node", cluster="lab 02")], "lab") == frozenset()
    assert ours([target(cluster="other 01")], "lab") == frozenset()


def test_of_members_only_what_goes_together_with_the_new_ones_is_judged() -> None:
    wanted = dataclasses.replace(WANTED_HERE, ours=frozenset({"10.0.0.1"}))
    members = [target(cluster="lab 01", memory=1), target("10.0.0.2", cluster=None)]
    found = evaluate([target("10.0.0.9", "node", host="host-1")], wanted, members)
    faults = {(one.check, one.where) for one in found if one.result is Result.FAILED}
    assert faults == {("member", "10.0.0.2"), ("hostname", "10.0.0.9"), ("hostname", "10.0.0.1")}
    (away,) = same_names([target("10.0.0.9", host="gone")], {"gone": "10.0.0.4"})
    assert str(away).startswith("10.0.0.9: has the host name of 10.0.0.4")
    assert same_names([target("10.0.0.9", host="gone")], {"gone": "10.0.0.9"}) == ()


# ---- telling ----------------------------------------------------------------------------------------------------------


def test_everything_is_told_at_once_and_what_is_equal_only_once() -> None:
    six = [target(f"10.0.0.{number}", memory=1) for number in range(1, 7)]
    with pytest.raises(CheckError, match="2 things must be put right first; nothing has been changed") as caught:
        require(evaluate([*six, target("10.0.0.9", systemd=False)], WANTED_HERE))
    lines = caught.value.message.splitlines()
    assert lines[1] == "10.0.0.1-10.0.0.6: has 0 MiB of memory: too small [memory]"
    assert lines[2] == "  hint: give it 2 GiB or more"
    assert lines[3] == "10.0.0.9: does not run systemd [systemd]"
    assert caught.value.hint == "--skip-check ID continues in spite of one"


def test_addresses_are_told_in_few_words() -> None:
    assert addresses(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", "node-1"]) == "10.0.0.1-10.0.0.3, 10.0.0.9, node-1"
    assert addresses(["10.0.0.2", "10.0.0.1"]) == "10.0.0.1, 10.0.0.2"
    assert addresses(["fd00::1"]) == "fd00::1"


def test_warnings_alone_do_not_stop(capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate([target(cpus=1), target("10.0.0.2", cpus=1)], WANTED_HERE)
    assert gather.require(found) == f"{len(CHECKS) - 1} checks on 2 machines"
    said = capsys.readouterr().err
    assert said.count("one processor") == 1
    assert "10.0.0.1, 10.0.0.2: has one processor (two make a cluster usable) [cpu]" in said


def test_what_is_skipped_stops_nobody_and_is_seen_all_the_same() -> None:
    found = evaluate([target(memory=1)], WANTED_HERE)
    gather.require(found, gather.skipping(["swap, memory"]))
    skipped = [one for one in skip(found, ["memory", "cpu"]) if one.result is Result.SKIPPED]
    assert [one.message for one in skipped] == ["has 0 MiB of memory: too small"]
    with pytest.raises(UsageError, match="--skip-check memry: no such check") as caught:
        gather.skipping(["memry"])
    assert caught.value.hint == "did you mean memory?"
    with pytest.raises(UsageError, match="cannot be skipped"):
        gather.skipping(["cluster"])


def test_machines_that_keep_us_out_have_their_own_exit_code() -> None:
    access = Finding.of("access", "10.0.0.9", findings.failed("no answer", "start it"))
    memory = Finding.of("memory", "10.0.0.1", findings.failed("too small", "more"))
    require_healthy([dataclasses.replace(memory, result=Result.WARNING)], "not fit")
    with pytest.raises(CheckError, match="1 check does not hold: not fit"):
        require_healthy([memory], "not fit")
    with pytest.raises(NodeError, match="2 checks do not hold"):
        require_healthy([memory, access], "not fit")


def test_what_was_found_is_plain_data() -> None:
    found = to_json(evaluate([target(memory=1), target("10.0.0.2", "node", cpus=1)], WANTED_HERE), CHECKS, {"10.0.0.1": "one"})
    json.dumps(found)
    memory = next(check for check in found["checks"] if check["id"] == "memory")
    assert (found["healthy"], memory["result"]) == (False, "failed")
    assert [one["result"] for one in memory["findings"]] == ["failed", "ok"]
    assert memory["findings"][0] == {
        "where": "10.0.0.1", "name": "one", "result": "failed", "seen": "has 0 MiB of memory: too small", "remedy": "give it 2 GiB or more"
    }  # fmt: skip
    assert found["counts"]["warning"] == 1


def test_the_worst_is_told_first() -> None:
    order = [one.verdict.result for one in group(evaluate([target(memory=1, cpus=1, os={})], WANTED_HERE))]
    assert order == sorted(order, key=["failed", "warning", "unknown", "skipped", "ok"].index)


def test_every_check_says_what_it_is_for() -> None:
    for name, check in {**CHECKS}.items():
        assert check.id == name
        assert name == name.lower().replace(" ", "-")
        assert len(check.why) > 20
    assert {name for name, check in CHECKS.items() if check.needed} == {"access", "sudo", "cluster", "member", "architecture", "hostname"}
    assert fitness.ways(target(), [target()], WANTED_HERE) == ()


# ---- machines that answer oddly ---------------------------------------------------------------------------------------

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


def odd_answers() -> list[str]:
    """What a machine says, with each line's value, and each of its words, replaced by odd ones; and cut at odd places."""
    lines = SAID.splitlines()
    found = []
    for index, line in enumerate(lines):
        key, *words = line.split(" ")
        for odd in ODD:
            variants = [f"{key} {odd}", f"{key}{odd}", *(" ".join([key, *words[:at], odd, *words[at + 1 :]]) for at in range(len(words)))]
            found += ["\n".join([*lines[:index], other, *lines[index + 1 :]]) for other in variants]
        found.append("\n".join(lines[:index]))
    return found


def test_a_machine_that_answers_oddly_is_understood_or_told_and_never_a_surprise() -> None:
    understood = 0
    for text in odd_answers():
        node = StandIn("10.0.0.1")
        node.answers = {"uname -n": text}
        try:
            facts = gather.ask(node)
        except NodeError:
            continue
        understood += 1
        evaluate([Target("10.0.0.1", "master", facts, ProbeResult(syncs=(0.001,) * 20))], WANTED_HERE)
    assert understood > 1000


def test_what_a_trial_prints_may_be_anything() -> None:
    for odd in ODD:
        for line in (
            f"listening {odd}",
            f"listening 812 {odd}",
            f"reach 10.0.0.1 {odd} ok",
            f"reach {odd} 1 ok",
            f"sync {odd}",
            f"packet {odd}",
            odd,
        ):
            probes.parse(line)
            probes.listening(line)
    assert probes.listening("listening 8²") is None
    assert probes.listening("listening 1 22") is None
    assert probes.listening("listening 812 22 8² 70000 udp") == probes.Listener(812, frozenset({22}), True)
    assert probes.parse("reach 10.0.0.1 8² ok\nsync nan\nsync -1\nsync 0.5").syncs == (0.5,)
