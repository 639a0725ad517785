"""What is wrong with machines is seen before anything on them is changed, all of it at once."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.errors import CheckError, NodeError
from harness.lifecycle.preflight import NEEDED, WANTED, Finding, MachineFacts, Target, Wanted, gather, judge, ours, parse, require
from harness.oci.model import Platform
from harness.runtimes import Network
from tests.unit.lifecycle.standin import StandIn

GIB = 1 << 30
SAID = """host Web-1.example.com
arch x86_64
kernel 6.1.0
cpus 4
memory 4194304
disk 104857600
capabilities 000001ffffffffff
cgroup 1
systemd yes
tool systemctl
tool tar
port 0016
port 192B
resolved yes
vendor QEMU
cluster lab 0123
address 10.0.0.1
address 172.17.0.1
time 1000.5
"""


def good(host: str = "one", **changes: Any) -> MachineFacts:
    facts = MachineFacts(
        host=host,
        arch="amd64",
        cpus=4,
        memory=4 * GIB,
        disk=100 * GIB,
        systemd=True,
        tools=frozenset((*NEEDED, *WANTED)),
        addresses=("10.0.0.1",),
    )
    return dataclasses.replace(facts, **changes)


def target(address: str = "10.0.0.1", role: str = "master", **changes: Any) -> Target:
    return Target(address, role, good(**{"host": f"host-{address[-1]}", "addresses": (address,), **changes}))


WANTED_HERE = Wanted("lab", (Platform("linux", "amd64"),), 1 * GIB, Network("100.64.0.0/10", "10.96.0.0/22"))


def faults(*targets: Target, wanted: Wanted = WANTED_HERE) -> list[str]:
    return [str(finding) for finding in judge(targets, wanted) if not finding.warning]


def warnings(*targets: Target) -> list[str]:
    return [str(finding) for finding in judge(targets, WANTED_HERE) if finding.warning]


def test_the_facts_of_a_machine_are_read() -> None:
    facts = parse(SAID, now=990.0)
    assert (facts.host, facts.arch, facts.cpus, facts.memory, facts.disk) == ("web-1.example.com", "amd64", 4, 4 * GIB, 100 * GIB)
    assert facts.ports == {22, 6443}
    assert (facts.systemd, facts.resolved, facts.docker, facts.cgroup) == (True, True, False, 1)
    assert (facts.cluster, facts.addresses) == ("lab 0123", ("10.0.0.1", "172.17.0.1"))
    assert facts.ahead == pytest.approx(10.5)
    assert not facts.restrict_oom


@pytest.mark.parametrize(("said", "restricted"), [("0000003ffeffffff", True), ("0000003fffffffff", False)])
def test_a_machine_that_may_not_lower_oom_scores_is_known_by_its_capabilities(said: str, restricted: bool) -> None:
    assert parse(SAID.replace("000001ffffffffff", said), 0).restrict_oom is restricted


def test_a_clock_without_nanoseconds_is_read_too() -> None:
    assert parse(SAID.replace("1000.5", "1000.%N"), now=1000).ahead == 0


def test_an_answer_that_is_none_is_an_error_of_that_node() -> None:
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: its facts cannot be read"):
        gather([StandIn()])


def test_machines_that_are_fit_are_let_through() -> None:
    assert judge([target(), target("10.0.0.2", "node")], WANTED_HERE) == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch": "arm64"}, "is linux/arm64, the image is for linux/amd64 (build it with --platform linux/arm64)"),
        ({"memory": GIB // 2}, "512 MiB of memory: too small"),
        ({"disk": 2 * GIB}, "has 2.0 GiB free in /var/lib, the image needs 2.5 GiB"),
        ({"systemd": False}, "does not run systemd"),
        ({"tools": frozenset({*NEEDED, *WANTED} - {"tar", "iptables"})}, "has no tar, iptables"),
        ({"ports": frozenset({6443})}, "port 6443 is in use, the API server needs it"),
        ({"ports": frozenset({2379})}, "port 2379 is in use, etcd needs it"),
        ({"left": ("/etc/kubernetes/admin.conf",)}, "has /etc/kubernetes/admin.conf of another Kubernetes"),
        ({"cluster": "other 99"}, "belongs to a cluster other"),
        ({"host": "Web_1"}, "cannot be the name of a node"),
        ({"host": "localhost"}, "cannot be the name of a node"),
    ],
)
def test_a_machine_that_is_not_fit_is_told_with_a_remedy(changes: dict[str, Any], says: str) -> None:
    found = faults(target(**changes))
    assert len(found) == 1, found
    assert found[0].startswith("10.0.0.1: ")
    assert says in found[0]
    assert found[0].endswith(")")


def test_etcds_ports_do_not_matter_on_a_worker() -> None:
    assert faults(target(role="node", ports=frozenset({2379}))) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"cpus": 1}, "one processor"), ({"tools": frozenset(NEEDED)}, "has no conntrack, socat"), ({"docker": True}, "runs Docker")],
)
def test_what_can_be_lived_with_is_a_warning(changes: dict[str, Any], says: str) -> None:
    found = warnings(target(**changes))
    assert says in found[0]
    assert faults(target(**changes)) == []


def test_two_machines_of_one_name_are_told_once_with_both_addresses() -> None:
    found = faults(target(host="same"), target("10.0.0.2", host="same"))
    assert found == ["10.0.0.1, 10.0.0.2: have the same host name same (give each its own: hostnamectl set-hostname NAME)"]


def test_clocks_that_differ_are_a_warning_that_names_both() -> None:
    found = warnings(target(), target("10.0.0.2", ahead=25.0))
    assert "10.0.0.2: its clock is 25 s ahead of that of 10.0.0.1" in found[0]
    assert warnings(target(), target("10.0.0.2", ahead=5.0)) == []


def test_a_machine_inside_the_pod_network_is_a_fault() -> None:
    found = faults(target("100.64.3.4"))
    assert "lies in PodCIDR 100.64.0.0/10" in found[0]
    assert "-e PodCIDR=" in found[0]


def test_a_machine_of_the_very_same_cluster_is_ours_with_all_it_holds() -> None:
    targets = [target(cluster="lab 01", ports=frozenset({6443}), left=("/etc/kubernetes/admin.conf",), disk=0), target("10.0.0.2", "node")]
    mine = ours(targets, "lab")
    assert mine == {"10.0.0.1"}
    assert faults(*targets, wanted=dataclasses.replace(WANTED_HERE, ours=mine)) == []


def test_another_cluster_of_the_same_name_is_not_ours() -> None:
    targets = [target(cluster="lab 01"), target("10.0.0.2", "node", cluster="lab 02")]
    assert ours(targets, "lab") == {"10.0.0.1"}
    assert ours([target(), target("10.0.0.2", "node", cluster="lab 02")], "lab") == frozenset()
    assert ours([target(cluster="other 01")], "lab") == frozenset()


def test_everything_is_told_at_once_and_nothing_was_changed() -> None:
    findings = judge([target(memory=0, systemd=False), target("10.0.0.2", arch="arm64")], WANTED_HERE)
    with pytest.raises(CheckError, match="3 things must be put right first; nothing has been changed") as caught:
        require(findings)
    for text in ("10.0.0.1: has 0 MiB", "10.0.0.1: does not run systemd", "10.0.0.2: is linux/arm64", "hint:"):
        assert text in caught.value.message


def test_warnings_alone_do_not_stop(capsys: pytest.CaptureFixture[str]) -> None:
    require([Finding("10.0.0.1", "has one processor", "two are better", warning=True)])
    assert "10.0.0.1: has one processor" in capsys.readouterr().err
