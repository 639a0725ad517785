"""What a machine is told to be: who asks whom, and with what configuration."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from harness.lifecycle import machine
from harness.runtimes import Cluster, Facts, Member, Network
from tests.unit.lifecycle.standin import StandIn


def member(number: int, role: str = "master", **facts: Any) -> Member:
    return Member(StandIn(f"10.0.0.{number}"), f"{role}-{number}", f"10.0.0.{number}", role, **facts)


def cluster(*members: Member) -> Cluster:
    return Cluster("lab", Facts("v1.20.2", pause_image="slipway.dev/pause:3.2"), Network("100.64.0.0/10", "10.96.0.0/22"), members)


MASTERS = tuple(member(number, registry=True) for number in (1, 2, 3))
WORKER = member(9, "node")


def sections(text: str) -> dict[str, str]:
    return {part.split("\n", maxsplit=1)[0]: part for part in text.split("\nlisten ")[1:]}


def test_a_worker_reaches_api_and_registry_of_every_master_that_lives() -> None:
    found = sections(machine.balancer_config(cluster(*MASTERS, WORKER), WORKER))
    assert set(found) == {"api", "registry"}
    for name, port in (("api", 6443), ("registry", 5000)):
        assert f"bind 127.0.0.1:{port}" in found[name]
        assert [line.split()[2] for line in found[name].splitlines() if line.strip().startswith("server")] == [
            f"10.0.0.{number}:{port}" for number in (1, 2, 3)
        ]
        assert "check" in found[name]


def test_a_master_with_images_asks_itself() -> None:
    assert not machine.needs_balancer(MASTERS[0])
    assert machine.hosts_lines(MASTERS[0]) == ("10.0.0.1 apiserver.cluster.local # slipway",)
    assert machine.hosts_lines(WORKER) == ("127.0.0.1 apiserver.cluster.local # slipway",)


def test_the_names_of_the_cluster_are_known_again_whenever_a_machine_boots() -> None:
    service = machine.CONTAINERD_SERVICE.splitlines()
    before = service.index("ExecStartPre=-/bin/sh /var/lib/slipway/hosts.sh")
    assert before < next(index for index, line in enumerate(service) if line.startswith("ExecStart="))
    assert "/var/lib/slipway/hosts.sh" in machine.files(cluster(*MASTERS, WORKER), WORKER)
    node = StandIn()
    machine.set_hosts(node, machine.hosts_lines(WORKER))
    assert "cat > /var/lib/slipway/hosts" in node.commands[0]


def test_a_master_without_images_asks_the_others_for_them_only() -> None:
    fourth = member(4)
    assert machine.needs_balancer(fourth)
    assert set(sections(machine.balancer_config(cluster(*MASTERS, fourth), fourth))) == {"registry"}


def test_an_address_of_version_six_is_written_as_one() -> None:
    six = Member(StandIn("fd00::1"), "m", "fd00::1", "master", registry=True)
    assert "server m [fd00::1]:6443" in machine.balancer_config(cluster(six, WORKER), WORKER)


@pytest.mark.parametrize(
    ("facts", "systemd", "restrict"), [({}, False, False), ({"systemd_cgroups": True, "restrict_oom": True}, True, True)]
)
def test_containerd_suits_its_machine(facts: dict[str, Any], systemd: bool, restrict: bool) -> None:
    found = tomllib.loads(machine.containerd_config("slipway.dev/pause:3.2", member(1, **facts)))
    cri = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert found["version"] == 2
    assert cri["sandbox_image"] == "slipway.dev/pause:3.2"
    assert cri["restrict_oom_score_adj"] is restrict
    assert cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is systemd
    assert cri["registry"]["config_path"] == "/etc/containerd/certs.d"
    assert cri["cni"]["bin_dir"] == "/opt/cni/bin"


def test_an_upstream_kubernetes_leaves_the_pause_image_to_containerd() -> None:
    assert "sandbox_image" not in machine.containerd_config(None, member(1))


def test_only_who_needs_a_balancer_gets_one() -> None:
    whole = cluster(*MASTERS, WORKER)
    unit = "/etc/systemd/system/slipway-balancer.service"
    assert unit in machine.files(whole, WORKER)
    assert unit not in machine.files(whole, MASTERS[0])


def test_cni_plugins_are_where_every_network_looks_for_them() -> None:
    files = machine.files(cluster(*MASTERS), MASTERS[0])
    assert files["/opt/cni/bin/portmap"].link == "/var/lib/slipway/rootfs/bin/cni/portmap"


def test_only_root_looks_into_the_state_of_a_machine() -> None:
    # The last change of the mode counts, however the folder came to be.
    assert machine.NOTE_STATE.rstrip().endswith("chmod 700 /var/lib/slipway")
