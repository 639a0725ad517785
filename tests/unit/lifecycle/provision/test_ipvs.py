"""Who is led to the control-plane nodes by rules of its kernel, what is refused, and what the keeper of the rules is told."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.errors import CheckError
from harness.lifecycle.cluster import membership
from harness.lifecycle.provision import ipvs, node_files
from harness.lifecycle.provision.ipvs import Choice, IpvsSupport, Wish
from harness.runtimes import ClusterNetwork, Facts, Member, RuntimeCluster
from tests.unit.lifecycle.cluster.test_membership import gathered
from tests.unit.lifecycle.standin import StandIn

ABLE, UNABLE = IpvsSupport(), IpvsSupport(lacks="its kernel has no ip_vs")
NETWORK = ClusterNetwork("100.64.0.0/10", "10.96.0.0/22")
VIP = "10.103.97.2"


def wish(load_balancing: str = "auto", balanced: tuple[str, ...] = ("10.0.0.7", "10.0.0.8"), **changes: Any) -> Wish:
    return Wish(
        **{"load_balancing": load_balancing, "balanced": balanced, "network": NETWORK, "env": {}, "brings": lambda: True, **changes}
    )


def answers(**by_number: IpvsSupport) -> dict[str, IpvsSupport]:
    """One that can for each machine that is not named: ``_7=UNABLE`` is the answer of 10.0.0.7."""
    return {
        **{f"10.0.0.{number}": ABLE for number in (1, 7, 8)},
        **{f"10.0.0{name.replace('_', '.')}": one for name, one in by_number.items()},
    }


@pytest.mark.parametrize("asked", ["auto", "ipvs"])
def test_choose_all_balanced_kernels_capable_uses_ipvs(asked: str) -> None:
    assert ipvs.choose(wish(asked), answers()) == Choice(VIP, frozenset({"10.0.0.7", "10.0.0.8"}))


def test_choose_ignores_incapable_kernel_of_unbalanced_node() -> None:
    assert ipvs.choose(wish("ipvs"), answers(_1=UNABLE)).virtual_ip == VIP


def test_choose_one_incapable_kernel_uses_haproxy_for_all() -> None:
    assert ipvs.choose(wish(), answers(_8=UNABLE)) == Choice()
    assert ipvs.choose(wish("haproxy"), answers()) == Choice()


def test_choose_without_balanced_nodes_follows_control_plane_kernels() -> None:
    assert ipvs.choose(wish(balanced=()), answers()) == Choice(VIP)
    assert ipvs.choose(wish(balanced=()), answers(_1=UNABLE)) == Choice()


def test_choose_ipvs_with_incapable_kernels_is_refused_and_names_all() -> None:
    with pytest.raises(CheckError, match="nothing has been changed") as caught:
        ipvs.choose(wish("ipvs"), answers(_7=UNABLE, _8=IpvsSupport(lacks="it may not load ip_vs")))
    assert "10.0.0.7: its kernel has no ip_vs" in caught.value.message
    assert "10.0.0.8: it may not load ip_vs" in caught.value.message


def test_choose_image_without_ipvsadm_uses_haproxy_or_is_refused() -> None:
    assert ipvs.choose(wish(brings=lambda: False), answers()) == Choice()
    with pytest.raises(CheckError, match="the image has no bin/ipvsadm"):
        ipvs.choose(wish("ipvs", brings=lambda: False), answers())


def test_choose_haproxy_does_not_read_image() -> None:
    def brings() -> bool:
        raise AssertionError

    for asked, found in (("haproxy", answers()), ("auto", answers(_7=UNABLE))):
        assert ipvs.choose(wish(asked, brings=brings), found) == Choice()


@pytest.mark.parametrize(
    ("env", "network", "found", "said"),
    [
        ({}, ClusterNetwork("100.64.0.0/10", "10.96.0.0/12"), {}, "the virtual address 10.103.97.2 lies in SvcCIDR 10.96.0.0/12"),
        (
            {"IPvsVIPv4": "100.64.9.9"},
            ClusterNetwork("100.64.0.0/10,fd00::/48", "10.96.0.0/22,fd00:1::/112"),
            {},
            "the virtual address 100.64.9.9 lies in PodCIDR 100.64.0.0/10",
        ),
        ({"IPvsVIPv4": "100.64.9.9"}, NETWORK, {}, "the virtual address 100.64.9.9 lies in PodCIDR"),
        (
            {"IPvsVIPv4": "10.0.0.9"},
            NETWORK,
            {"_7": IpvsSupport(networks=("10.0.0.7/24",))},
            "lies in the network of 10.0.0.7, 10.0.0.7/24",
        ),
        ({"IPvsVIPv4": "10.0.0.300"}, NETWORK, {}, "10.0.0.300"),
        ({"IPvsVIPv4": "fd00::1"}, NETWORK, {}, "fd00::1 is of version 6"),
    ],
)
def test_choose_unusable_virtual_address_is_refused_or_uses_haproxy(
    env: dict[str, str], network: ClusterNetwork, found: dict[str, IpvsSupport], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr("harness.log.warning", warnings.append)
    given: dict[str, Any] = {"env": env, "network": network}
    with pytest.raises(CheckError) as caught:
        ipvs.choose(wish("ipvs", **given), answers(**found))
    assert said in caught.value.message
    assert "-e IPvsVIPv4=ADDRESS" in caught.value.message
    assert ipvs.choose(wish(**given), answers(**found)) == Choice()
    assert len(warnings) == 1
    assert said in warnings[0]


def test_choose_takes_virtual_address_from_env() -> None:
    assert ipvs.choose(wish(env={"IPvsVIPv4": "172.31.255.2"}), answers()).virtual_ip == "172.31.255.2"


def test_choose_ipv6_nodes_get_ipv6_virtual_address() -> None:
    found = ipvs.choose(wish(balanced=("fd00::7",), network=ClusterNetwork("fd01::/64", "fd02::/112")), {"fd00::1": ABLE, "fd00::7": ABLE})
    assert found.of("fd00::7") == "1248:4003:10bb:6a01:83b9:6360:c66d:2"
    assert found.of("fd00::1") is None


# ---- a cluster that is there ------------------------------------------------------------------------------------------

HOLDER = IpvsSupport(virtual_ip=VIP)
LED = IpvsSupport(virtual_ip=VIP, balancer="ipvs")
HAPROXY = IpvsSupport(balancer="haproxy")


def test_choose_repeated_or_interrupted_run_keeps_choice() -> None:
    ours = {"10.0.0.1", "10.0.0.7", "10.0.0.8"}
    there = answers(_1=HOLDER, _7=LED, _8=LED)
    assert ipvs.choose(wish(), there, ours) == Choice(VIP, frozenset({"10.0.0.7", "10.0.0.8"}))
    # Killed before the last one was set up.
    assert ipvs.choose(wish(), answers(_1=HOLDER, _7=LED), ours) == Choice(VIP, frozenset({"10.0.0.7", "10.0.0.8"}))


def test_choose_cluster_begun_with_haproxy_keeps_haproxy() -> None:
    ours = {"10.0.0.1", "10.0.0.7"}
    assert ipvs.choose(wish(), answers(_7=HAPROXY), ours) == Choice()
    with pytest.raises(CheckError, match="this cluster was begun with haproxy"):
        ipvs.choose(wish("ipvs"), answers(_7=HAPROXY), ours)


def test_choose_ignores_balancer_of_another_cluster() -> None:
    assert ipvs.choose(wish(), answers(_7=HAPROXY)).virtual_ip == VIP


def test_joining_node_follows_cluster_balancer_and_own_kernel() -> None:
    joining = wish(balanced=("10.0.0.7", "10.0.0.8"))
    there = {"10.0.0.1": HOLDER, "10.0.0.7": LED}
    assert ipvs.joining(joining, {**there, "10.0.0.8": ABLE}).led == {"10.0.0.7", "10.0.0.8"}
    assert ipvs.joining(joining, {**there, "10.0.0.8": UNABLE}) == Choice(VIP, frozenset({"10.0.0.7"}))
    assert ipvs.joining(dataclasses.replace(joining, brings=lambda: False), {**there, "10.0.0.8": ABLE}).led == {"10.0.0.7"}
    assert ipvs.joining(dataclasses.replace(joining, load_balancing="haproxy"), {**there, "10.0.0.8": ABLE}).led == {"10.0.0.7"}
    with pytest.raises(CheckError, match=r"10\.0\.0\.8: its kernel has no ip_vs"):
        ipvs.joining(dataclasses.replace(joining, load_balancing="ipvs"), {**there, "10.0.0.8": UNABLE})


def test_joining_cluster_without_virtual_address_uses_haproxy() -> None:
    there = {"10.0.0.1": ABLE, "10.0.0.7": HAPROXY, "10.0.0.8": ABLE}
    assert ipvs.joining(wish(), there) == Choice()
    with pytest.raises(CheckError, match="have no virtual address"):
        ipvs.joining(wish("ipvs"), there)


def test_joining_control_plane_node_with_incapable_kernel_is_accepted() -> None:
    assert ipvs.joining(wish("ipvs", balanced=("10.0.0.7",)), {"10.0.0.1": HOLDER, "10.0.0.7": LED, "10.0.0.2": UNABLE}).led == {"10.0.0.7"}


# ---- what a machine says ----------------------------------------------------------------------------------------------

LOADED = "there ip_vs\nthere ip_vs_rr\n"
LOADABLE = "loadable ip_vs\nloadable ip_vs_rr\n"


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        (f"{LOADED}capabilities 0\nsealed yes\n", None),
        (f"{LOADABLE}capabilities 000001ffffffffff\n", None),
        (LOADABLE, None),
        ("there ip_vs\nloadable ip_vs_rr\n", None),
        ("capabilities 000001ffffffffff\n", "its kernel has no ip_vs and no ip_vs_rr"),
        ("there ip_vs\n", "its kernel has no ip_vs_rr"),
        (f"{LOADABLE}sealed yes\n", "its kernel takes no module any more (kernel.modules_disabled), and ip_vs and ip_vs_rr is not loaded"),
        (f"{LOADABLE}capabilities 00000000a80425fb\n", "it may not load ip_vs and ip_vs_rr (no CAP_SYS_MODULE)"),
    ],
)
def test_ipvs_support_parse_names_missing_kernel_modules(text: str, lacks: str | None) -> None:
    assert IpvsSupport.parse(text).lacks == lacks


def test_ask_returns_balancer_virtual_address_and_networks() -> None:
    node = StandIn("10.0.0.7")
    node.answers = {"modprobe": f"{LOADED}balancer ipvs\nvirtual {VIP}\nnetwork 10.0.0.7/24\nnetwork fd00::7/64\n"}
    assert ipvs.ask([node]) == {"10.0.0.7": IpvsSupport(None, "ipvs", VIP, ("10.0.0.7/24", "fd00::7/64"))}


def test_ask_runs_modprobe_only_as_dry_run() -> None:
    node = StandIn()
    ipvs.ask([node])
    (command,) = node.commands
    assert "modprobe -n" in command
    assert command.count("modprobe") == 1


# ---- what members get -------------------------------------------------------------------------------------------------


def member(number: int, role: str = "control-plane", **facts: Any) -> Member:
    return Member(StandIn(f"10.0.0.{number}"), f"{role}-{number}", f"10.0.0.{number}", role, **facts)


CONTROL_PLANE = tuple(member(number, registry=number < 4) for number in (1, 2, 3, 4))
WORKER = member(9, "worker", virtual_ip=VIP)
CLUSTER = RuntimeCluster("lab", Facts("v1.36.3"), NETWORK, (*CONTROL_PLANE, WORKER), virtual_ip=VIP)


def test_balancer_config_of_keeper_lists_api_servers_and_image_holders() -> None:
    lines = node_files.balancer_config(CLUSTER, WORKER).splitlines()
    assert lines[:2] == [f"virtual {VIP}", "source 10.0.0.9"]
    ports = {line.split()[2]: line.split()[3:] for line in lines[2:]}
    assert ports["6443"][0] == "/readyz"
    assert set(ports["6443"][1:]) == {"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"}
    assert ports["5000"][0] == "/"
    assert set(ports["5000"][1:]) == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_config_spreads_first_control_plane_node_over_members() -> None:
    control_plane = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    firsts = {ipvs.config(VIP, f"10.0.0.{number}", control_plane, []).split("/readyz ")[1].split()[0] for number in range(11, 20)}
    assert firsts == set(control_plane)


def test_member_config_of_control_plane_node_without_images_has_registry_only() -> None:
    fourth = dataclasses.replace(CONTROL_PLANE[3], virtual_ip=VIP)
    text = ipvs.member_config(CLUSTER, fourth)
    assert "balance registry 5000" in text
    assert "balance api" not in text


def test_node_files_of_led_worker_contain_keeper_instead_of_haproxy() -> None:
    files = node_files.files(CLUSTER, WORKER)
    assert ipvs.is_config(files[ipvs.CONFIG].data.decode())
    assert files[ipvs.KEEPER].data.startswith(b"#!/bin/sh\n")
    assert b"ipvs.sh keep" in files["/etc/systemd/system/slipway-balancer.service"].data
    assert not any("balancer.cfg" in path or "balancer.sh" in path for path in files)
    assert node_files.hosts_lines(WORKER) == (f"{VIP} apiserver.cluster.local # slipway",)


def test_node_files_contain_virtual_address_mark_only_if_cluster_has_one() -> None:
    assert node_files.files(CLUSTER, CONTROL_PLANE[0])[ipvs.MARK].data == f"{VIP}\n".encode()
    assert node_files.hosts_lines(CONTROL_PLANE[0]) == ("10.0.0.1 apiserver.cluster.local # slipway",)
    assert ipvs.MARK not in node_files.files(dataclasses.replace(CLUSTER, virtual_ip=None), CONTROL_PLANE[0])


def test_node_files_of_member_without_virtual_address_contain_haproxy() -> None:
    files = node_files.files(CLUSTER, dataclasses.replace(WORKER, virtual_ip=None))
    assert "/var/lib/slipway/balancer.cfg" in files
    assert ipvs.CONFIG not in files


def test_start_balancer_waits_for_ready_file_only_with_ipvs() -> None:
    led, other = StandIn(), StandIn()
    node_files.start_balancer(led, ipvs.member_config(CLUSTER, WORKER))
    node_files.start_balancer(other, node_files.balancing([("m", "10.0.0.1")], []))
    assert "/run/slipway-balancer/ready" in led.commands[0]
    assert "/run/slipway-balancer/ready" not in other.commands[0]
    assert all("reload-or-restart slipway-balancer" in node.commands[0] for node in (led, other))


# ---- how it is --------------------------------------------------------------------------------------------------------


def test_status_of_led_member_lists_servers_of_kernel() -> None:
    node = StandIn("10.0.0.9", "nine")
    node.answers = {"is-active slipway-balancer": "active active\nkind ipvs\nserver 10.0.0.1:6443\nserver 10.0.0.2:6443\n"}
    servers = ["10.0.0.1:6443", "10.0.0.2:6443"]
    assert ipvs.status(node) == {"node": "nine", "address": "10.0.0.9", "kind": "ipvs", "active": True, "servers": servers}


def test_status_of_node_without_balancer_is_empty() -> None:
    assert ipvs.status(StandIn()) == {}


def test_balancers_use_ipvs_or_haproxy_format_of_each_node(tmp_path: Any) -> None:
    found = gathered(tmp_path, workers=2)
    led: Any = found.workers[0]
    led.answers = {"modprobe": f"{LOADED}balancer ipvs\nvirtual {VIP}\n"}
    control_plane = [(node.name, node.address) for node in found.control_plane]
    texts = membership.balancers(found, control_plane, frozenset({"10.0.0.1"}))
    assert texts[led.address] == ipvs.config(VIP, led.address, [address for _, address in control_plane], ["10.0.0.1"])
    assert "frontend api" in texts[found.workers[1].address]


@pytest.mark.parametrize(
    ("changed", "signals", "restarts"),
    [((ipvs.CONFIG,), 1, 0), ((ipvs.KEEPER, ipvs.CONFIG), 0, 1), ((), 0, 0)],
)
def test_tell_balancer_signals_keeper_only_if_nothing_but_its_config_changed(
    changed: tuple[str, ...], signals: int, restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[Any] = []

    def place(_: Any, files: Any) -> tuple[str, ...]:
        placed.append(files)
        return changed

    monkeypatch.setattr(membership, "install_files", place)
    node, text = StandIn("10.0.0.9"), ipvs.config(VIP, "10.0.0.9", ["10.0.0.1"], [])
    assert membership.tell_balancer(node, text) == bool(changed)
    assert placed == [ipvs.files(text)]
    assert placed[0][ipvs.CONFIG].data.decode() == text
    # What the unit makes of a reload.
    assert "\nExecReload=/bin/kill -HUP $MAINPID\n" in placed[0]["/etc/systemd/system/slipway-balancer.service"].data.decode()
    assert len(node.commands) == signals + restarts
    commands = "\n".join(node.commands)
    assert commands.count("systemctl reload-or-restart slipway-balancer") == signals
    assert commands.count("systemctl daemon-reload; systemctl restart slipway-balancer") == restarts
    # The rules are in place before it ends.
    assert commands.count("READY=/run/slipway-balancer/ready\n") == commands.count('until [ -e "$READY" ]') == signals
