"""Facts about machines, read from the output of the script."""

from __future__ import annotations

from typing import Any

import pytest

from harness.lifecycle.checks.facts import Link, Place, Route, parse, release
from tests.unit.lifecycle.checks.machines import (
    GIB,
    MIB,
    NFTABLES,
    SAID,
    good,
)


def test_parse_machine_output_gives_all_facts() -> None:
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


def test_parse_clock_offset_is_measured_at_both_ends_of_query() -> None:
    # Asked at 999, answered at 1000; it said 1010 first and 1011 last: eleven seconds ahead, however long the answer took.
    assert parse(SAID, 999.0, 1000.0).ahead == pytest.approx(11.0)
    assert parse("arch x86_64\ntime 1000.%N\n", 1000, 1000).ahead == 0


def test_address6_is_permanent_ipv6_address_on_interface_of_ipv4_address() -> None:
    facts = parse(SAID, 999.0, 1000.0)
    assert (facts.address6("10.0.0.1"), facts.address6("172.17.0.1"), facts.address6("10.9.9.9")) == ("fd00:1::1", None, None)
    assert (facts.passing, facts.advertised) == (frozenset({"fd00:1::99"}), frozenset({"fd00:1::1"}))
    assert (facts.without6, facts.unforward6, facts.nat6) == (True, ("/etc/sysctl.d/99-hard.conf",), "no ip6tables: no table")


@pytest.mark.parametrize(("said", "restricted"), [("0000003ffeffffff", True), ("0000003fffffffff", False)])
def test_parse_capabilities_without_sys_resource_restrict_oom_scores(said: str, restricted: bool) -> None:
    assert parse(SAID.replace("000001ffffffffff", said), 0, 0).restrict_oom is restricted


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
def test_nftables_requires_recent_kernel_recent_program_and_module(changes: dict[str, Any], able: bool) -> None:
    assert good(**{**NFTABLES, **changes}).nftables is able


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("6.1.0-13-amd64", (6, 1, 0)), ("5.15", (5, 15, 0)), ("nftables v1.0.6 (Lester Gooch #5)", (1, 0, 6)), ("", ()), ("six", ())],
)
def test_release_returns_first_version_in_text(text: str, numbers: tuple[int, ...]) -> None:
    assert release(text) == numbers


def test_place_parse_sizes_are_bytes_and_invalid_numbers_are_zero() -> None:
    place = Place.parse("/var/log 8 / 10 x 100 -1")
    assert (place.total, place.free, place.inodes, place.free_inodes, place.kind) == (10240, 0, 100, 0, "")


@pytest.mark.parametrize("text", ["", "time 1.0", "arch x86_64", "arch x86_64\ntime soon"])
def test_parse_without_architecture_or_time_raises(text: str) -> None:
    with pytest.raises(ValueError, match="the machine gave no"):
        parse(text, 0, 0)


def test_parse_invalid_routes_are_left_out() -> None:
    lines = [
        "route eth0 00000000 0100000A 00000000",
        "route eth0 zz 00000000 00000000",
        "route",
        "route6 eth0 fd00 40",
        "route6 eth0 zz 40 0",
    ]
    facts = parse("\n".join(["arch x86_64", "time 1.0", *lines]), 1, 1)
    assert facts.routes == (Route("eth0", "0.0.0.0/0", "10.0.0.1"),)
    assert facts.routes[0].is_default
