"""Preflight checks of names, clocks, addresses and connections."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.lifecycle.checks.facts import Link, Route
from harness.lifecycle.checks.findings import Result
from harness.lifecycle.checks.preflight import ProbeResult, Wanted, core, network
from tests.unit.lifecycle.checks.machines import (
    DUAL,
    ROUTES,
    WANTED_HERE,
    bad,
    both,
    only,
    other_of_both,
    target,
    told,
)

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("hostname", {"host": "web_1"}, "cannot be the name of a node"),
    ("hostname", {"host": "localhost"}, "cannot be the name of a node"),
    ("address", {"addresses": ("192.168.0.9",)}, "has 192.168.0.9, and not 10.0.0.1"),
    ("networks", {"addresses": ("10.0.0.1", "100.64.9.9")}, "has 100.64.9.9, in PodCIDR 100.64.0.0/10"),
    ("networks", {"routes": (Route("eth1", "10.96.0.0/16"),)}, "routes 10.96.0.0/16 on eth1, in SvcCIDR"),
    ("networks", {"routes": (Route("tailscale0", "100.100.0.0/16", "10.0.0.9"),)}, "by 10.0.0.9, in PodCIDR"),
    ("networks", {"nameservers": ("100.100.100.100",)}, "asks the name server 100.100.100.100"),
    ("hosts-file", {"hosts": (("10.9.9.9", "apiserver.cluster.local"),)}, "has 10.9.9.9 for apiserver.cluster.local"),
    ("hosts-file", {"hosts": (("10.9.9.9", "localhost"),)}, "has 10.9.9.9 for localhost"),
    ("clock", {"ahead": -3600.0}, "its clock is 60 min behind of this machine's"),
]


@pytest.mark.parametrize(("check", "changes", "says"), FAULTS)
def test_network_fault_is_only_failure_and_has_remedy(check: str, changes: dict[str, Any], says: str) -> None:
    only([finding for finding in bad(target(**changes)) if finding.result is Result.FAILED], check, Result.FAILED, says)


WARNINGS: list[tuple[str, dict[str, Any], str]] = [
    ("time-service", {"services": frozenset()}, "no time service runs"),
    ("default-route", {"routes": (Route("eth0", "10.0.0.0/24"),)}, "no route leads to the addresses of Services"),
    ("networks", {"routes": (Route("eth0", "0.0.0.0/0", "10.0.0.9"), Route("eth0", "10.0.0.0/8", "10.0.0.9"))}, "with SvcCIDR"),
    ("mtu", {"links": (Link("eth0", "02:00:00:00:00:01", 1280),)}, "1280 bytes"),
    ("hosts-file", {"hosts": (("10.0.0.99", "host-1"), ("127.0.0.1", "localhost"))}, "has 10.0.0.99 for host-1, which the machine has not"),
    ("resolver", {"nameservers": ("127.0.0.1",)}, "would ask itself"),
    ("resolver", {"nameservers": ("10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")}, "names 4 servers"),
    ("search-domains", {"searches": ("a.b", "svc.cluster.local")}, "the cluster's own domain"),
    ("search-domains", {"searches": tuple(f"d{number}.example.com" for number in range(30))}, "pods get the first 29 only"),
    ("proxy", {"proxies": ("https_proxy",), "direct": "localhost,10.0.0.0/8"}, "services get https_proxy"),
    ("clock", {"ahead": 9.0}, "its clock is 9 s ahead of this machine's"),
]


@pytest.mark.parametrize(("check", "changes", "says"), WARNINGS)
def test_network_warning_is_only_finding_and_has_remedy(check: str, changes: dict[str, Any], says: str) -> None:
    only(bad(target(**changes)), check, Result.WARNING, says)


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("time-service", {"services": frozenset(), "virtual": "docker"}),
        ("proxy", {"proxies": ("https_proxy",), "direct": "localhost,.cluster.local"}),
        ("default-route", {"routes": (Route("eth0", "10.0.0.0/8", "10.0.0.9"),)}),
        ("search-domains", {"searches": ("a", "b", "c", "d")}),
    ],
)
def test_network_exceptions_pass(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.OK


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("address", {"addresses": ()}),
        ("default-route", {"routes": ()}),
    ],
)
def test_network_without_facts_is_unknown(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.UNKNOWN


def test_ipv6_dual_stack_machine_passes_and_single_stack_needs_no_ipv6() -> None:
    assert bad(both(), wanted=DUAL) == []
    assert told(both(), wanted=DUAL)["ipv6", "10.0.0.1"].message == "fd00:1::1"
    # Who asks for one family needs no other.
    assert bad(both(readonly=("/proc/sys/net/ipv6/conf/all/forwarding",), without6=True, addresses=("10.0.0.1",))) == []


@pytest.mark.parametrize(
    ("changes", "result", "says"),
    [
        ({"addresses": ("10.0.0.1",)}, Result.FAILED, "has no permanent IPv6 address on eth0"),
        ({"on": {"10.0.0.1": "eth0", "fd00:1::1": "eth1"}}, Result.FAILED, "has no permanent IPv6 address on eth0"),
        ({"passing": frozenset({"fd00:1::1"})}, Result.FAILED, "has no permanent IPv6 address on eth0"),
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
def test_ipv6_missing_requirement_is_reported_for_dual_stack(changes: dict[str, Any], result: Result, says: str) -> None:
    (found,) = bad(both(**changes), wanted=DUAL)
    assert (found.check, found.result) == ("ipv6", result)
    assert says in found.message
    assert found.remedy


def test_ipv6_all_missing_requirements_are_reported_at_once() -> None:
    lacking = both(addresses=("10.0.0.1",), readonly=("/proc/sys/net/ipv6/conf/all/forwarding",), without6=True)
    (found,) = bad(lacking, wanted=DUAL)
    assert found.message.count(";") == 2


@pytest.mark.parametrize("wanted", [WANTED_HERE, DUAL])
def test_ipv6_machine_addressed_by_ipv6_is_refused(wanted: Wanted) -> None:
    found = told(target("fd00:1::1"), wanted=wanted)["ipv6", "fd00:1::1"]
    assert found.result is Result.FAILED
    assert "IPv6-only clusters are not supported" in found.message


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
def test_networks_ipv6_overlap_and_missing_default_route_are_reported(
    check: str, changes: dict[str, Any], result: Result, says: str
) -> None:
    (found,) = bad(both(**changes), wanted=DUAL)
    assert (found.check, found.result) == (check, result)
    assert says in found.message


def test_pod_packets_lost_by_one_family_are_reported_with_family() -> None:
    one = both(probe=ProbeResult(syncs=(0.001,) * 20, packets={"10.0.0.2": True, "fd00:1::2": False}))
    found = told(one, other_of_both(ProbeResult(packets={"10.0.0.1": True, "fd00:1::1": True})), wanted=DUAL)
    assert found["pod-packets", "10.0.0.1"].result is Result.OK
    lost = found["pod-packets", "10.0.0.2"]
    assert lost.message == "UDP 8472 from 10.0.0.1 by IPv6 does not come back: pods would not reach each other"


def test_identity_shared_by_machines_is_reported_for_each() -> None:
    mac = (Link("eth0", "02:00:00:00:00:99", 1500),)
    same: dict[str, Any] = {"host": "same", "machine_id": "1", "links": mac}
    found = bad(target(**same), target("10.0.0.2", "worker", **same), target("10.0.0.3", "worker"))
    assert {(one.check, one.where, one.result) for one in found} == {
        (check, address, result)
        for address in ("10.0.0.1", "10.0.0.2")
        for check, result in (("hostname", Result.FAILED), ("mac", Result.FAILED), ("machine-id", Result.WARNING))
    }
    # Containers on one machine share its firmware.
    contained = [target(address, uuid="4c", virtual="docker") for address in ("10.0.0.1", "10.0.0.2")]
    assert bad(*contained) == []
    assert [one.check for one in bad(target(uuid="4c"), target("10.0.0.2", uuid="4c"))] == ["machine-id"] * 2


def test_clock_warns_about_deviating_machine_and_fails_for_new_one_far_behind() -> None:
    (found,) = bad(target(), target("10.0.0.2", ahead=25.0))
    assert (found.where, found.message) == ("10.0.0.2", "its clock is 25 s ahead of that of 10.0.0.1")
    (found,) = bad(target(ahead=3.0), target("10.0.0.2", ahead=3.1), target("10.0.0.3", ahead=-4.0))
    assert (found.where, found.message) == ("10.0.0.3", "its clock is 7 s behind of the others'")
    assert bad(target(), target("10.0.0.2", ahead=1.5)) == []
    ours_alone = dataclasses.replace(WANTED_HERE, ours=frozenset({"10.0.0.1"}))
    (found,) = bad(target(ahead=-9999.0), wanted=ours_alone)
    assert (found.check, found.where, found.result) == ("clock", "10.0.0.1", Result.WARNING)
    assert found.message == "its clock is 3 h behind of this machine's"
    # A new machine cannot have certificates that are not valid yet.
    (found,) = bad(target(ahead=-9999.0))
    assert (found.check, found.where, found.result) == ("clock", "10.0.0.1", Result.FAILED)


def test_reach_closed_port_is_reported_at_unreachable_machine() -> None:
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


def test_mtu_that_differs_between_machines_is_reported() -> None:
    small = (Link("eth0", "02:00:00:00:00:02", 1450),)
    (found,) = bad(target(), target("10.0.0.2", links=small))
    assert (found.check, found.where) == ("mtu", "10.0.0.2")


def test_networks_machine_address_inside_pod_cidr_is_reported() -> None:
    found = [one for one in bad(target("100.64.3.4")) if one.check == "networks"]
    assert "lies in PodCIDR 100.64.0.0/10" in found[0].message
    assert "-e PodCIDR=" in found[0].remedy


def test_network_checks_have_one_case_each() -> None:
    checks = {name for name, rule in {**core.RULES, **core.JOINT_RULES}.items() if rule.__module__ == network.__name__}
    # These have tests of their own.
    assert checks - {check for check, _, _ in (*FAULTS, *WARNINGS)} == {"ipv6", "mac", "machine-id", "pod-packets", "reach"}
