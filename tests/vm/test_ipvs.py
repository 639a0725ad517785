"""Balancing by rules of a kernel, on a real one: a virtual machine is the worker, and servers of ours stand for the control-plane nodes.

One machine for all, since it takes its minute to boot; so the tests stand in the order in which a worker lives.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import process
from harness.build import container_images
from harness.errors import CommandError, NodeError
from harness.host import docker
from harness.lifecycle import delete
from harness.lifecycle.checks.preflight import gather
from harness.lifecycle.cluster import membership
from harness.lifecycle.provision import ipvs, node_files
from harness.nodes.files import STATE, NodeFile, install_files
from harness.nodes.ssh import SshConnections, SshNode
from harness.runtimes import ROOTFS, ClusterNetwork, Facts, Member, RuntimeCluster
from harness.runtimes.pki import Authority
from tests.unit.lifecycle.standin import StandIn
from tests.vm.control_plane import ControlPlaneNode, serving
from tests.vm.machine import ADDRESS, answering, booted

CONTROL_PLANE = ("198.18.77.11", "198.18.77.12", "198.18.77.13")
VIP = ipvs.ADDRESSES[4]
RUNTIME = "slipway.dev/runtime:13"
NETWORK = ClusterNetwork("100.64.0.0/10", "10.96.0.0/22")
_CA = "/etc/kubernetes/pki/ca.crt"
_PATIENCE = 600
"""Seconds after which something hangs; on a machine that does nothing else it takes a few."""


class Lab:
    """The worker, and what it is told."""

    def __init__(self, ssh: SshConnections, control_plane: list[ControlPlaneNode], authority: Authority) -> None:
        self.ssh, self.worker, self.control_plane, self.authority = ssh, ssh.nodes[0], control_plane, authority
        worker = self.worker
        members = [
            Member(StandIn(address), f"control-plane-{address[-1]}", address, "control-plane", registry=True) for address in CONTROL_PLANE
        ]
        self.member = Member(worker, "worker", ADDRESS, "worker", virtual_ip=VIP)
        self.cluster = RuntimeCluster("lab", Facts("v1.36.3"), NETWORK, (*members, self.member), virtual_ip=VIP)

    def run(self, command: str, check: bool = True) -> str:
        return self.worker.run(command, check=check, timeout=120).stdout

    def rules(self) -> str:
        return self.run(f"{ROOTFS}/bin/ipvsadm -S -n")

    def servers(self, port: int = 6443) -> set[str]:
        lines = [line.split() for line in self.rules().splitlines() if line.startswith(f"-a -t {VIP}:{port} ")]
        return {words[4].rpartition(":")[0] for words in lines}

    def client(self, path: str = "/who", port: int = 6443, seconds: int = 60) -> str:
        """Shell text that asks the virtual address as the kubelet does: by a name, and trusting the cluster's authority only."""
        options = f"-quiet -CAfile {_CA} -verify_return_error -verify_ip {VIP} -connect apiserver.cluster.local:{port}"
        return f"printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | timeout {seconds} {ROOTFS}/bin/openssl s_client {options} 2>/dev/null"

    def who(self, port: int = 6443, times: int = 1) -> list[list[str]]:
        """Who answered, and whom it took for the one who asked; nothing for those of ``times`` connections that failed."""
        said = self.run(f"for i in $(seq {times}); do {self.client(port=port)} | tail -n 1; done", check=False)
        return [line.split() for line in said.splitlines()]


def reached(worker: SshNode, command: str) -> str:
    """What a machine says that may be starting; nothing while it does not answer."""
    try:
        return worker.run(command, check=False, timeout=60).stdout
    except (NodeError, CommandError):
        return ""


def until(what: str, holds: Callable[[], object]) -> None:
    """Wait until something holds, and say how long that took."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < _PATIENCE, f"not within {_PATIENCE} s: {what}"
        time.sleep(0.2)
    print(f"{what}: {time.monotonic() - began:.1f} s")


def programs(worker: SshNode) -> None:
    """The part of the rootfs that this is about: the programs of the image that every cluster gets them from."""
    image = container_images.package_image(docker.connect(timeout=3600), RUNTIME)
    container = process.run(["docker", "create", image, "none"]).stdout.strip()
    try:
        for path in ("bin/ipvsadm", "bin/openssl", "lib/balancer"):
            with tempfile.TemporaryFile() as tar:
                process.run(["docker", "cp", f"{container}:/rootfs/{path}", "-"], output=tar)
                tar.seek(0)
                worker.put_tar(tar, f"{ROOTFS}/{path.partition('/')[0]}")
    finally:
        process.run(["docker", "rm", "--force", container])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if platform.machine() != "x86_64":
        pytest.skip("the virtual machine is made for amd64 only")
    folder: Path = tmp_path_factory.mktemp("vm")
    authority = Authority.make("kubernetes")
    with booted(folder) as (ssh, link), serving(folder, link, CONTROL_PLANE, authority, VIP) as control_plane:
        yield Lab(ssh, control_plane, authority)


_KERNEL = """cat /proc/modules | cut -d ' ' -f 1 | grep ip_vs | sort
ip route show table local | sort
cat /etc/hosts
ls -A /etc/systemd/system /var/lib | sort
sysctl -a 2>/dev/null | grep '^net.ipv4.\\(vs\\.\\|ip_forward\\)' | sort"""
"""What must be the same before and after."""


@pytest.fixture(scope="module")
def before(lab: Lab) -> str:
    return lab.run(_KERNEL)


def test_ask_kernel_with_ipvs_reports_support_and_loads_no_module(lab: Lab, before: str) -> None:
    answer = ipvs.ask([lab.worker])[ADDRESS]
    assert answer == ipvs.IpvsSupport(networks=(f"{ADDRESS}/24",))
    assert lab.run(_KERNEL) == before
    assert "ip_vs" not in before


def test_gather_ask_kernel_with_policy_support_reports_it_and_loads_no_module(lab: Lab) -> None:
    loaded = lab.run("cut -d ' ' -f 1 /proc/modules | sort")
    assert gather.ask(lab.worker).has == {"nft_queue": True, "ip_set": True}
    assert lab.run("cut -d ' ' -f 1 /proc/modules | sort") == loaded
    assert "nft_queue" not in loaded


def test_balancer_reaches_all_control_plane_nodes_without_proxy_process(lab: Lab, before: str) -> None:
    programs(lab.worker)
    text = node_files.balancer_config(lab.cluster, lab.member)
    lab.worker.run(node_files.note_state({}))
    install_files(lab.worker, {**node_files.files(lab.cluster, lab.member), _CA: NodeFile(lab.authority.certificate)})
    node_files.set_hosts(lab.worker, node_files.hosts_lines(lab.member))
    node_files.start_balancer(lab.worker, text)
    assert lab.servers() == lab.servers(5000) == set(CONTROL_PLANE)
    for port in (6443, 5000):
        answers = lab.who(port, times=9)
        assert sorted(answers) == sorted([node, ADDRESS] for node in CONTROL_PLANE for _ in range(3))
    # It is on no interface, and nothing listens anywhere: there is no process on the way.
    assert VIP not in lab.run("ip addr")
    assert "haproxy" not in lab.run("ps ax")
    assert ipvs.status(lab.worker)["servers"] == sorted(f"{node}:{port}" for node in CONTROL_PLANE for port in (5000, 6443))


def test_balancer_answers_pass_stateful_firewall(lab: Lab) -> None:
    ours = ("-i lo -j ACCEPT", "-p tcp --dport 22 -j ACCEPT", "-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-j DROP")
    lab.run(" && ".join(f"iptables -A INPUT {rule}" for rule in ours))
    try:
        assert len(lab.who(times=3)) == 3
    finally:
        lab.run("iptables -F INPUT")


def test_balancer_refusing_control_plane_node_is_removed_and_returns(lab: Lab) -> None:
    second = lab.control_plane[1]
    second.stop()
    until("one that refuses is left out", lambda: lab.servers() == lab.servers(5000) == {CONTROL_PLANE[0], CONTROL_PLANE[2]})
    assert {node for node, _ in lab.who(times=6)} == {CONTROL_PLANE[0], CONTROL_PLANE[2]}
    second.start()
    until("and taken back", lambda: lab.servers() == set(CONTROL_PLANE))
    assert {node for node, _ in lab.who(times=6)} == set(CONTROL_PLANE)


def test_balancer_vanished_control_plane_node_ends_only_its_own_connection(lab: Lab) -> None:
    lab.run(
        f"for i in 1 2 3; do ({lab.client('/hold', seconds=900)} > /run/held.$i; echo ended >> /run/held.$i) > /dev/null 2>&1 & done",
        check=True,
    )
    until("three connections, one to each", lambda: all(node.held == 1 for node in lab.control_plane))
    lab.control_plane[2].vanish()
    until("one that is silent is left out", lambda: lab.servers() == set(CONTROL_PLANE[:2]))
    # The connection to it is ended at once, not when its end loses patience; the others go on.
    until("and its connection ends", lambda: lab.run("cat /run/held.* | grep -c ended", check=False).strip() == "1")
    assert all(len(lab.who()) == 1 for _ in range(3))
    assert lab.run("cat /run/held.* | grep -c ended").strip() == "1"
    lab.control_plane[2].appear()
    until("it is back", lambda: lab.servers() == set(CONTROL_PLANE))


def test_balancer_all_endpoints_down_keeps_them_and_recovers(lab: Lab) -> None:
    for node in lab.control_plane:
        node.stop()
    # Long enough for two looks.
    until("nobody answers", lambda: all(int(line) > 1 for line in lab.run("cat /run/slipway-balancer/failed.*").split()))
    until("all are in", lambda: lab.servers() == set(CONTROL_PLANE))
    assert lab.who() == []
    for node in lab.control_plane:
        node.start()
    until("somebody answers", lambda: len(lab.who()) == 1)


def test_balancer_flushed_rules_and_route_are_restored(lab: Lab) -> None:
    # As kube-proxy does in its mode ipvs when it starts, and a careful administrator sometimes.
    lab.run(f"{ROOTFS}/bin/ipvsadm -C; ip route del local {VIP} table local")
    until("the way is back", lambda: f"src {ADDRESS}" in lab.run(f"ip route get {VIP}", check=False))
    until("rules are back", lambda: lab.servers() == set(CONTROL_PLANE))
    assert len(lab.who()) == 1


def test_balancer_port_without_rule_is_refused(lab: Lab) -> None:
    refused = lab.worker.run(f"{ROOTFS}/bin/openssl s_client -connect {VIP}:6444 < /dev/null", check=False, timeout=60)
    assert "Connection refused" in refused.output


def test_balancer_update_changes_its_servers(lab: Lab) -> None:
    fewer = ipvs.config(VIP, ADDRESS, CONTROL_PLANE[:2], CONTROL_PLANE[:1])
    assert membership.tell_balancer(lab.worker, fewer)
    assert (lab.servers(), lab.servers(5000)) == (set(CONTROL_PLANE[:2]), {CONTROL_PLANE[0]})
    assert not membership.tell_balancer(lab.worker, fewer)
    assert membership.tell_balancer(lab.worker, node_files.balancer_config(lab.cluster, lab.member))
    assert lab.servers() == set(CONTROL_PLANE)


def test_balancer_restart_and_clean_keep_foreign_rules(lab: Lab) -> None:
    tool = f"{ROOTFS}/bin/ipvsadm"
    lab.run(f"{tool} -A -t 10.96.0.10:53 -s rr && {tool} -a -t 10.96.0.10:53 -r 198.18.77.11:53 -m && systemctl restart slipway-balancer")
    until("the keeper is back", lambda: lab.servers() == set(CONTROL_PLANE))
    assert "-A -t 10.96.0.10:53" in lab.rules()
    lab.run(f"systemctl stop slipway-balancer; sh {ipvs.KEEPER} clean")
    assert "10.96.0.10:53" in lab.rules()
    assert VIP not in lab.rules()
    node_files.start_balancer(lab.worker, node_files.balancer_config(lab.cluster, lab.member))


def test_balancer_rules_exist_after_reboot(lab: Lab) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = lab.run(boot)
    lab.worker.run("systemctl reboot", check=False)
    lab.worker.disconnect()
    until("another boot", lambda: reached(lab.worker, boot) not in ("", before))
    answering(lab.ssh)
    until("rules after a start", lambda: lab.servers() == set(CONTROL_PLANE))
    assert len(lab.who(times=3)) == 3


def test_delete_leaves_kernel_as_before(lab: Lab, before: str) -> None:
    delete.clean(lab.worker)
    assert lab.run(_KERNEL) == before
    assert ipvs.status(lab.worker) == {}
    assert lab.worker.run(f"[ -e {STATE} ]", check=False).returncode != 0
