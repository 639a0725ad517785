"""The packet filter's rules, as two generations of Docker write them, and what is concluded from them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import CheckError
from harness.testkit import isolation
from tests.unit.lifecycle.standin import StandIn

OURS, OTHER = "br-53d11284d5a0", "br-8ad30ea45b41"

DOCKER_20 = f"""*filter
:FORWARD DROP [0:0]
[177:47649] -A FORWARD -j DOCKER-USER
[177:47649] -A FORWARD -j DOCKER-ISOLATION-STAGE-1
[7:700] -A FORWARD -i {OURS} -o {OURS} -j ACCEPT
[90:40588] -A FORWARD -o {OTHER} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[134:13593] -A FORWARD -i {OTHER} ! -o {OTHER} -j ACCEPT
[3:180] -A DOCKER-ISOLATION-STAGE-1 ! -s 172.25.0.0/16 -o {OURS} -j DROP
[12:720] -A DOCKER-ISOLATION-STAGE-1 ! -d 172.25.0.0/16 -i {OURS} -j DROP
[134:13593] -A DOCKER-ISOLATION-STAGE-1 -i {OTHER} ! -o {OTHER} -j DOCKER-ISOLATION-STAGE-2
[9920:306151222] -A DOCKER-ISOLATION-STAGE-1 -j RETURN
[0:0] -A DOCKER-ISOLATION-STAGE-2 -o {OTHER} -j DROP
[3641:253213] -A DOCKER-ISOLATION-STAGE-2 -j RETURN
[9920:306151222] -A DOCKER-USER -j RETURN
COMMIT
"""

DOCKER_28 = f"""*filter
[40:4000] -A FORWARD -j DOCKER-USER
[40:4000] -A FORWARD -j DOCKER-FORWARD
[20:2000] -A DOCKER-FORWARD -j DOCKER-CT
[20:2000] -A DOCKER-FORWARD -j DOCKER-INTERNAL
[9:900] -A DOCKER-FORWARD -j DOCKER-BRIDGE
[11:1100] -A DOCKER-FORWARD -i docker0 -j ACCEPT
[8:800] -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
[0:0] -A DOCKER-INTERNAL ! -s 172.25.0.0/16 -o {OURS} -j DROP
[5:300] -A DOCKER-INTERNAL ! -d 172.25.0.0/16 -i {OURS} -j DROP
COMMIT
"""


@pytest.mark.parametrize(("text", "packets"), [(DOCKER_20, 12), (DOCKER_28, 5)])
def test_filter_state_finds_drop_rule_with_packet_count(text: str, packets: int) -> None:
    found = isolation.filter_state(isolation.parse(text), OURS)
    assert found.drop is not None
    assert found.drop.packets == packets
    assert found.passes == ()


def test_filter_state_of_other_bridge_has_no_drop_rule() -> None:
    assert isolation.filter_state(isolation.parse(DOCKER_20), OTHER).drop is None


def test_filter_state_without_rules_is_empty() -> None:
    assert isolation.filter_state((), OURS) == isolation.PacketFilterState(None, ())


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -d 10.0.0.0/8 -j ACCEPT",
        f"-A FORWARD -i {OURS} -j ACCEPT",
        "-A DOCKER-USER ! -i eth0 -j ACCEPT",
        f"-A DOCKER-USER -i {OURS} -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",
    ],
)
def test_filter_state_reports_accept_rule_before_drop(rule: str) -> None:
    found = isolation.filter_state(isolation.parse(f"[4:240] {rule}\n{DOCKER_20}"), OURS)
    assert [one.packets for one in found.passes] == [4]


@pytest.mark.parametrize(
    "rule",
    [
        f"-A FORWARD -o {OURS} -j ACCEPT",
        f"-A FORWARD -i {OTHER} -j ACCEPT",
        f"-A FORWARD ! -i {OURS} -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A INPUT -j ACCEPT",
    ],
)
def test_filter_state_ignores_accept_rule_for_other_packets(rule: str) -> None:
    assert isolation.filter_state(isolation.parse(f"[4:240] {rule}\n{DOCKER_20}"), OURS).passes == ()


def test_filter_state_ignores_accept_rule_after_drop() -> None:
    assert isolation.filter_state(isolation.parse(f"{DOCKER_20}[4:240] -A FORWARD -j ACCEPT\n"), OURS).passes == ()


def test_filter_state_ignores_drop_rule_limited_to_port() -> None:
    text = f"[4:240] -A FORWARD ! -d 172.25.0.0/16 -i {OURS} -p tcp -m tcp --dport 443 -j DROP\n"
    assert isolation.filter_state(isolation.parse(text), OURS).drop is None


def network(**changes: Any) -> isolation.NodeNetwork:
    facts: dict[str, Any] = {"name": "slipway-t", "bridge": OURS, "internal": True, "ipv6": False, "image": "sha256:0", "strays": ()}
    return isolation.NodeNetwork(**{**facts, **changes})


GOOD = isolation.filter_state(isolation.parse(DOCKER_20), OURS)


def test_violations_of_internal_network_with_drop_rule_are_empty() -> None:
    assert isolation.violations(network(), GOOD) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"internal": False}, "not internal"),
        ({"strays": ("slipway-t-node-1",)}, "slipway-t-node-1 is attached to another network"),
    ],
)
def test_violations_report_network_with_other_way_out(changes: dict[str, Any], says: str) -> None:
    assert says in "".join(isolation.violations(network(**changes), GOOD))


def test_violations_report_passed_packets_with_rule() -> None:
    found = isolation.filter_state(isolation.parse(f"[4:240] -A FORWARD -d 10.0.0.0/8 -j ACCEPT\n{DOCKER_20}"), OURS)
    assert isolation.violations(network(), found) == ["4 packets passed: -A FORWARD -d 10.0.0.0/8 -j ACCEPT"]


class Engine:
    """The engine's answers: one filter listing a question, the last one again and again."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *listings: str,
        reached: tuple[str, ...] = (),
        ipv6: bool = False,
        gateways: tuple[str, ...] = (),
    ) -> None:
        answers = list(listings)
        monkeypatch.setattr("harness.host.docker.run_container", lambda *_, **__: (0, answers.pop(0) if len(answers) > 1 else answers[0]))
        monkeypatch.setattr(isolation, "network", lambda *_: network(ipv6=ipv6))
        monkeypatch.setattr(isolation, "gateways", lambda _: list(gateways))
        monkeypatch.setattr(isolation, "attempt", lambda _: reached)
        self.proof = isolation.Offline(object(), "t", [object()])  # type: ignore[arg-type,list-item]


def counted(packets: int) -> str:
    return DOCKER_20.replace("[12:720]", f"[{packets}:{packets * 60}]")


def test_prove_counts_dropped_attempts_apart_from_workload_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    proof = Engine(monkeypatch, counted(2), counted(6), counted(7)).proof
    proof.prove()
    assert proof.dropped == 3  # two before the attempts, one after them
    proof.check()


def test_prove_with_uncounted_attempts_raises_check_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="of 3 attempts to get out 1 were dropped"):
        Engine(monkeypatch, counted(2), counted(3)).proof.prove()


def test_prove_with_successful_attempt_reports_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match=r"not shown to be offline: node-1 resolves example\.com"):
        Engine(monkeypatch, counted(2), counted(9), reached=("node-1 resolves example.com",)).proof.prove()


def test_prove_and_check_with_ipv6_gateway_raise_check_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Engine(monkeypatch, counted(2), counted(6), ipv6=True).proof.prove()
    proof = Engine(monkeypatch, counted(2), counted(6), ipv6=True, gateways=("node one sends default by fd00::1",)).proof
    with pytest.raises(CheckError, match="node one sends default by fd00::1"):
        proof.prove()
    with pytest.raises(CheckError, match="default by fd00::1"):
        proof.check()


def test_gateways_list_node_and_default_route() -> None:
    one, two = StandIn("10.0.0.1", "one"), StandIn("10.0.0.2", "two")
    two.answers["ip -6 route"] = "default by fd00::1\n"
    assert isolation.gateways([one, two]) == ["node two sends default by fd00::1"]


def test_check_without_drop_rule_raises_check_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="no rule that drops what leaves slipway-t"):
        Engine(monkeypatch, "").proof.check()


def test_check_after_packet_passes_raises_check_error(monkeypatch: pytest.MonkeyPatch) -> None:
    hole = "[{}:0] -A FORWARD -d 10.0.0.0/8 -j ACCEPT\n"
    proof = Engine(monkeypatch, hole.format(0) + counted(2), hole.format(0) + counted(6), hole.format(1) + counted(6)).proof
    proof.prove()
    with pytest.raises(CheckError, match="1 packets passed"):
        proof.check()
