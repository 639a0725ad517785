"""etcd's members come and go without its quorum ever being at stake."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import CheckError, CommandError
from harness.lifecycle.kube import etcd
from harness.lifecycle.kube.etcd import Etcd, EtcdMember, admit, order
from harness.process import ProcessResult
from tests.unit.clock import Clock
from tests.unit.lifecycle.standin import StandIn


def member(number: int, *, learner: bool = False, name: str | None = None) -> EtcdMember:
    started = f"control-plane-{number}" if name is None else name
    clients = (f"https://10.0.0.{number}:2379",) if started else ()
    return EtcdMember(number, started, (f"https://10.0.0.{number}:2380",), clients, learner)


class Members(Etcd):
    """An etcd of which only the list of members is real."""

    def __init__(self, *members: EtcdMember, sick: dict[int, str] | None = None, lag: int = 0) -> None:
        super().__init__(())
        self.list, self.bad, self.lag = list(members), sick or {}, lag
        self.said: list[str] = []

    def members(self) -> tuple[EtcdMember, ...]:
        return tuple(self.list)

    def sick(self, members: Any) -> dict[int, str]:
        return self.bad

    def add(self, name: str, address: str) -> EtcdMember:
        self.said.append(f"add {name}")
        new = EtcdMember(90 + len(self.said), "", (f"https://{address}:2380",), (), True)
        self.list.append(new)
        return new

    def promote(self, member: EtcdMember) -> None:
        if self.lag:
            self.lag -= 1
            raise CommandError("can only promote a learner member which is in sync with leader", details="in sync")
        self.said.append(f"promote {member.id}")

    def remove(self, member: EtcdMember) -> None:
        self.said.append(f"remove {member.id}")
        self.list = [one for one in self.list if one.id != member.id]


def admitted(members: Members, *, broken: bool = False) -> list[tuple[str, bool]]:
    """Admit a second control-plane node; how its etcd was started."""
    started: list[tuple[str, bool]] = []
    clock = Clock()

    def start(peers: str, anew: bool) -> None:
        started.append((peers, anew))
        if broken:
            raise CommandError("the disk is full")

    admit(members, "control-plane-2", "10.0.0.2", start, timeout=10, clock=clock, sleep=clock.sleep)
    return started


def test_admit_new_member_is_learner_before_promotion() -> None:
    members = Members(member(1), lag=3)
    started = admitted(members)
    assert started == [("control-plane-1=https://10.0.0.1:2380,control-plane-2=https://10.0.0.2:2380", True)]
    assert members.said == ["add control-plane-2", "promote 91"]


@pytest.mark.parametrize(("refusals", "taken"), [(3, True), (1000, False)])
def test_admit_refused_member_add_is_retried_until_timeout(refusals: int, taken: bool) -> None:
    class Busy(Members):
        left = refusals

        def add(self, name: str, address: str) -> EtcdMember:
            if self.left:
                self.left -= 1
                raise CommandError("etcdctl member add", details="Error: etcdserver: unhealthy cluster")
            return super().add(name, address)

    members = Busy(member(1))
    if taken:
        assert len(admitted(members)) == 1
        assert len(members.members()) == 2
    else:
        with pytest.raises(CommandError):
            admitted(members)
        assert len(members.members()) == 1


def test_admit_with_unhealthy_member_is_refused() -> None:
    members = Members(member(1), member(3), sick={3: "context deadline exceeded"})
    with pytest.raises(CheckError, match="control-plane-3 context deadline exceeded") as caught:
        admitted(members)
    assert "slipway remove" in str(caught.value.hint)
    assert members.said == []


def test_admit_failed_start_removes_added_member() -> None:
    members = Members(member(1))
    with pytest.raises(CommandError, match="the disk is full"):
        admitted(members, broken=True)
    assert members.said == ["add control-plane-2", "remove 91"]
    assert members.members() == (member(1),)


def test_admit_learner_that_does_not_catch_up_is_removed() -> None:
    members = Members(member(1), lag=1000)
    with pytest.raises(CheckError, match="etcd of control-plane-2 has not caught up"):
        admitted(members)
    assert members.said == ["add control-plane-2", "remove 91"]


def test_admit_unstarted_learner_is_replaced() -> None:
    members = Members(member(1), member(2, learner=True, name=""))
    started = admitted(members)
    assert members.said == ["remove 2", "add control-plane-2", "promote 92"]
    assert [anew for _, anew in started] == [True]


def test_admit_running_learner_keeps_data_and_is_promoted() -> None:
    members = Members(member(1), member(2, learner=True))
    assert [anew for _, anew in admitted(members)] == [False]
    assert members.said == ["promote 2"]


def test_admit_voting_member_is_only_started() -> None:
    members = Members(member(1), member(2))
    assert [anew for _, anew in admitted(members)] == [False]
    assert members.said == []


def test_admit_failed_start_keeps_voting_member() -> None:
    members = Members(member(1), member(2))
    with pytest.raises(CommandError):
        admitted(members, broken=True)
    assert members.said == []


def test_order_dead_members_leave_before_living() -> None:
    three = [member(1), member(2), member(3)]
    assert [one.id for one in order(three, {1}, [2, 1])] == [1, 2]


@pytest.mark.parametrize(
    ("sick", "leaving"),
    [({1}, [2]), ({1}, [3]), (set(), [1, 2, 3]), ({1, 2}, [1]), ({1, 2}, [3])],
    ids=["a living one while one is dead", "another one", "all", "a dead one without quorum", "the last one"],
)
def test_order_that_breaks_quorum_is_refused(sick: set[int], leaving: list[int]) -> None:
    with pytest.raises(CheckError, match="etcd"):
        order([member(1), member(2), member(3)], sick, leaving)


@pytest.mark.parametrize(
    ("count", "sick", "leaving"), [(3, set(), [1]), (3, {1}, [1]), (3, set(), [1, 2]), (5, {1, 2}, [1, 2]), (2, set(), [1])]
)
def test_order_that_keeps_quorum_is_accepted(count: int, sick: set[int], leaving: list[int]) -> None:
    members = [member(number + 1) for number in range(count)]
    assert {one.id for one in order(members, sick, leaving)} == set(leaving)


def test_order_learner_may_leave_while_voters_have_quorum() -> None:
    assert [one.id for one in order([member(1), member(2, learner=True)], set(), [2])] == [2]


class Answering(StandIn):
    """A control-plane node whose etcdctl answers."""

    def __init__(self, *, runs: bool = True) -> None:
        super().__init__("10.0.0.1", "one")
        self.runs = runs
        self.exits: dict[str, tuple[int, str]] = {}

    def run(self, command: str, **options: Any) -> ProcessResult:
        self.commands.append(command)
        if not self.runs:
            return ProcessResult((), 75, "", "")
        code, text = next((answer for part, answer in self.exits.items() if part in command), (0, ""))
        return ProcessResult((), code, text if code == 0 or "health" in command else "", text if code else "")


LIST = {
    "members": [
        {"ID": 1746793094343317772, "name": "one", "peerURLs": ["https://10.0.0.1:2380"], "clientURLs": ["https://10.0.0.1:2379"]},
        {"ID": 2, "peerURLs": ["https://10.0.0.2:2380"], "isLearner": True},
    ]
}


def test_members_are_read_from_first_node_with_running_etcd() -> None:
    dead, alive = Answering(runs=False), Answering()
    alive.exits = {"member list": (0, json.dumps(LIST))}
    found = Etcd([dead, alive]).members()
    assert [(one.id, one.name, one.learner) for one in found] == [(1746793094343317772, "one", False), (2, "", True)]
    with pytest.raises(CheckError, match="etcd runs on no control-plane node"):
        Etcd([dead]).members()


def test_sick_asks_voters_only_and_reports_missing_answers() -> None:
    node = Answering()
    answer = [{"endpoint": "https://10.0.0.1:2379", "health": False, "error": "context deadline\nexceeded"}]
    node.exits = {"endpoint health": (1, json.dumps(answer))}
    client = Etcd([node])
    assert client.sick([member(1), member(2, learner=True)]) == {1: "context deadline exceeded"}
    assert "10.0.0.2" not in node.commands[-1]
    assert client.sick([member(1), member(3)])[3] == "does not answer"


@pytest.mark.parametrize("answer", ["[{}]", '[{"endpoint": ["x"], "Status": "x"}]', '[{"Status": {"header": [1]}}]', "{}", "nonsense"])
def test_sick_and_status_of_answers_that_are_not_understood_are_those_of_silent_members(answer: str) -> None:
    node = StandIn()
    node.answers = {"etcdctl": answer}
    members = [member(1)]
    assert Etcd([node]).sick(members) == {1: "does not answer"}
    assert {key: value for key, value in Etcd([node]).status(members).items() if key} == {}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [([{"alarm": 1}, {"alarm": 2}, {"alarm": 1}], ("NOSPACE", "CORRUPT")), ([{"alarm": [1]}, 7], ("[1]",)), ({"a": 1}, ()), (None, ())],
)
def test_alarms_of_any_answer_are_text(listed: Any, expected: tuple[str, ...]) -> None:
    node = StandIn()
    node.answers = {"etcdctl": json.dumps({"alarms": listed})}
    assert Etcd([node]).alarms() == expected


def test_remove_absent_member_passes_and_other_refusal_raises() -> None:
    node = Answering()
    node.exits = {"member remove": (1, "Error: etcdserver: Member not found")}
    Etcd([node]).remove(member(255))
    assert "member remove ff" in node.commands[-1]
    node.exits = {"member remove": (1, "Error: etcdserver: unhealthy cluster")}
    with pytest.raises(CommandError, match="unhealthy cluster"):
        Etcd([node]).remove(member(255))


def test_hand_over_without_endpoint_status_moves_no_leader() -> None:
    node = Answering()
    node.exits = {"member list": (0, json.dumps(LIST)), "endpoint status": (1, "timed out")}
    Etcd([node]).hand_over([member(1)])
    assert not any("move-leader" in command for command in node.commands)


def test_hand_over_moves_leader_to_staying_member() -> None:
    node = Answering()
    two = {
        "members": [
            *LIST["members"][:1],
            {"ID": 7, "name": "two", "peerURLs": ["https://10.0.0.7:2380"], "clientURLs": ["https://10.0.0.7:2379"]},
        ]
    }
    node.exits = {"member list": (0, json.dumps(two)), "endpoint status": (0, json.dumps([{"Status": {"leader": 7}}]))}
    Etcd([node]).hand_over([etcd.EtcdMember(7, "two", ("https://10.0.0.7:2380",), ("https://10.0.0.7:2379",))])
    assert f"move-leader {1746793094343317772:x} --endpoints=https://10.0.0.7:2379" in node.commands[-1]


def test_hand_over_quotes_endpoint_given_by_etcd() -> None:
    class Answering(StandIn):
        def run(self, command: str, **_: Any) -> ProcessResult:
            self.commands.append(command)
            hostile = "https://10.0.0.1:2379; touch /tmp/x"
            members = [{"ID": number, "name": f"m{number}", "peerURLs": [], "clientURLs": [hostile]} for number in (1, 2)]
            status = json.dumps([{"Status": {"leader": 1, "header": {"member_id": 1}}}])
            return ProcessResult((), 0, status if "endpoint status" in command else json.dumps({"members": members}), "")

    node = Answering("10.0.0.1")
    one = etcd.Etcd((node,))
    one.hand_over(one.members()[:1])
    moved = next(command for command in node.commands if "move-leader" in command)
    assert " '--endpoints=https://10.0.0.1:2379; touch /tmp/x'\n" in moved


@pytest.mark.parametrize("entry", [{}, {"ID": "²"}, {"ID": None}, 5, {"ID": 1, "peerURLs": 5}])
def test_members_unreadable_list_raises_command_error(entry: Any) -> None:
    node = StandIn("10.0.0.1")
    node.answers = {"member list": json.dumps({"members": [entry]})}
    with pytest.raises(CommandError, match="cannot be read"):
        etcd.Etcd((node,)).members()
