"""What a removal does in which order, and what it refuses. Machines are stand-ins."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.errors import CheckError, CommandError, InputError, NodeError
from harness.lifecycle import delete, remove
from harness.lifecycle import plan as lifecycle_plan
from harness.lifecycle.cluster import membership
from harness.lifecycle.kube import drain, etcd
from harness.lifecycle.kube.etcd import EtcdMember
from harness.lifecycle.remove import RemoveWork
from harness.lifecycle.steps.uninstall_hooks import Parting
from harness.nodes import Machine
from tests.unit.lifecycle.cluster.test_membership import CLUSTERFILE, gathered, record
from tests.unit.lifecycle.standin import StandIn


class Etcd(etcd.Etcd):
    """Three members; what is done to them is noted."""

    said: ClassVar[list[str]] = []
    bad: ClassVar[dict[int, str]] = {}
    failures = 0

    def members(self) -> tuple[EtcdMember, ...]:
        return tuple(
            EtcdMember(number, f"host-{number}", (f"https://10.0.0.{number}:2380",), (f"https://10.0.0.{number}:2379",))
            for number in (1, 2, 3)
            if f"out {number}" not in self.said
        )

    def sick(self, members: Any) -> dict[int, str]:
        return self.bad

    def hand_over(self, leaving: Any) -> None: ...

    def remove(self, member: EtcdMember) -> None:
        if type(self).failures:
            type(self).failures -= 1
            raise CommandError("etcdctl: unhealthy cluster")
        self.said.append(f"out {member.id}")


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "Etcd", Etcd)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(remove, "_takes_pods", lambda _: False)
    Etcd.said, Etcd.bad, Etcd.failures = [], {}, 0


def work(tmp_path: Path, *going: int, gone: tuple[str, ...] = (), **options: Any) -> RemoveWork:
    found = gathered(tmp_path, gone=gone, **options)
    nodes = tuple(node for node in found.members if int(node.address.rpartition(".")[2]) in going)
    return RemoveWork(remove._led_by_one_that_stays(found, nodes), nodes, False, 60)


def ids(found: RemoveWork) -> list[str]:
    recipe = remove.plan(found)
    lifecycle_plan.check(recipe)
    return [step.id for step in recipe]


def test_remove_worker_plan_drains_deletes_node_cleans_and_records(tmp_path: Path) -> None:
    assert ids(work(tmp_path, 4)) == ["drain", "delete-nodes", "clean", "record"]


def test_remove_control_plane_node_plan_leaves_balancers_and_etcd_before_clean(tmp_path: Path) -> None:
    recipe = ["drain", "tell-balancers", "stop-control-plane", "leave-etcd", "delete-nodes", "clean", "record"]
    assert ids(work(tmp_path, 1)) == recipe


def test_remove_unreachable_machine_plan_has_no_clean_step(tmp_path: Path) -> None:
    assert ids(work(tmp_path, 4, gone=("10.0.0.4",))) == ["drain", "delete-nodes", "record"]


def test_remove_is_led_by_reachable_control_plane_node_that_stays(tmp_path: Path) -> None:
    assert work(tmp_path, 1).first.address == "10.0.0.2"
    assert work(tmp_path, 1, gone=("10.0.0.1", "10.0.0.2")).first.address == "10.0.0.3"


def test_remove_all_control_plane_nodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="no control-plane node would be left") as caught:
        remove._check(work(tmp_path, 1, 2, 3))
    assert "slipway join" in str(caught.value.hint)
    assert "slipway delete" in str(caught.value.hint)


def test_remove_only_reachable_control_plane_node_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="none of the control-plane nodes that would stay answers"):
        remove._check(work(tmp_path, 1, gone=("10.0.0.2", "10.0.0.3")))


def test_remove_that_breaks_etcd_quorum_is_refused(tmp_path: Path) -> None:
    Etcd.bad = {1: "does not answer"}
    with pytest.raises(CheckError, match="would lose its quorum"):
        remove._check(work(tmp_path, 2, gone=("10.0.0.1",)))
    remove._check(work(tmp_path, 1, gone=("10.0.0.1",)))


def test_remove_last_reachable_image_holder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "holders", lambda _: frozenset({"10.0.0.1"}))
    with pytest.raises(CheckError, match="no other node that answers holds the container images"):
        remove._check(work(tmp_path, 1))
    remove._check(work(tmp_path, 1, record=record(registry="elsewhere")))


def test_remove_to_even_control_plane_and_without_workers_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from harness import log

    log.setup()
    remove._check(work(tmp_path, 1, 4))
    said = capsys.readouterr().err
    assert "2 control-plane nodes survive no more losses than 1 would" in said
    assert "no worker is left" in said


def test_remove_unknown_node_is_refused_with_known_nodes(tmp_path: Path) -> None:
    found = gathered(tmp_path)
    assert [node.address for node in remove._going(found, ["10.0.0.4", "host-4", "host-1"])] == ["10.0.0.4", "10.0.0.1"]
    vars(found.workers[0])["machine"] = Machine("10.0.0.4", host="w4.example.com")
    assert [node.address for node in remove._going(found, ["w4.example.com"])] == ["10.0.0.4"]
    with pytest.raises(InputError) as caught:
        remove._going(found, ["10.0.0.4", "10.9.9.9", "nosuch"])
    assert [fault.where for fault in caught.value.faults] == ["10.9.9.9", "nosuch"]
    assert "host-4 10.0.0.4" in str(caught.value.faults[0].hint)


def test_remove_unlisted_machine_is_accepted_only_with_mark_of_cluster(tmp_path: Path) -> None:
    half, other, gone = StandIn("10.0.0.7", "half"), StandIn("10.0.0.8", "other"), StandIn("10.0.0.9", "gone")
    half.answers, other.answers = {"/cluster 2>": "lab 01"}, {"/cluster 2>": "lab 99"}
    others: Any = (half, other, gone)
    found = gathered(tmp_path, others=others, gone=("10.0.0.9",))
    found.first.answers = {"/cluster 2>": "lab 01"}  # type: ignore[attr-defined]
    assert [node.address for node in remove._going(found, ["10.0.0.7"])] == ["10.0.0.7"]
    with pytest.raises(InputError) as caught:
        remove._going(found, ["10.0.0.8", "10.0.0.9"])
    assert [fault.where for fault in caught.value.faults] == ["10.0.0.8", "10.0.0.9"]


@dataclasses.dataclass(frozen=True)
class Remembered:
    """Takes the place of the connections: machines that are remembered here."""

    nodes: tuple[StandIn, ...]


def test_remove_remembered_machine_that_joined_another_cluster_is_refused(tmp_path: Path) -> None:
    own, clean, other, again = (StandIn(f"10.0.0.{number}") for number in (6, 7, 8, 9))
    own.answers, other.answers, again.answers = {"/cluster 2>": "lab 01"}, {"/cluster 2>": "prod 02"}, {"/cluster 2>": "lab 99"}
    ssh: Any = Remembered((own, clean, other, again))
    found = gathered(tmp_path, ssh=ssh)
    found.first.answers = {"/cluster 2>": "lab 01"}  # type: ignore[attr-defined]
    assert [node.address for node in remove._going(found, ["10.0.0.6", "10.0.0.7"])] == ["10.0.0.6", "10.0.0.7"]
    with pytest.raises(InputError) as caught:
        remove._going(found, ["10.0.0.7", "10.0.0.8", "10.0.0.9"])
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("10.0.0.8", "is no node of lab: it belongs to another cluster prod by now"),
        ("10.0.0.9", "is no node of lab: it belongs to another cluster lab by now"),
    ]


def test_remove_remembered_machine_that_does_not_answer_is_accepted_unasked(tmp_path: Path) -> None:
    silent = StandIn("10.0.0.8")
    ssh: Any = Remembered((silent,))
    found = gathered(tmp_path, ssh=ssh, gone=("10.0.0.8",))
    assert [node.address for node in remove._going(found, ["10.0.0.8"])] == ["10.0.0.8"]
    assert not silent.commands


def test_remove_machine_left_uncleaned_that_joined_another_cluster_is_refused(tmp_path: Path) -> None:
    stale, moved, silent = (StandIn(f"10.0.0.{number}") for number in (7, 8, 9))
    stale.answers, moved.answers = {"/cluster 2>": "lab 01"}, {"/cluster 2>": "prod 02"}
    others: Any = (stale, moved, silent)
    left = record(left="10.0.0.7 10.0.0.8 10.0.0.9")
    found = gathered(tmp_path, others=others, gone=("10.0.0.9",), record=left)
    found.first.answers = {"/cluster 2>": "lab 01"}  # type: ignore[attr-defined]
    assert [node.address for node in remove._going(found, ["10.0.0.7", "10.0.0.9"])] == ["10.0.0.7", "10.0.0.9"]
    with pytest.raises(InputError, match=r"10\.0\.0\.8"):
        remove._going(found, ["10.0.0.8"])


def test_remove_half_joined_control_plane_node_leaves_etcd(tmp_path: Path) -> None:
    half: Any = StandIn("10.0.0.3", "host-3")
    found = gathered(tmp_path, control_plane=2, workers=0, others=(half,))
    assert remove._strays(found, [half]) == {"10.0.0.3"}
    work = RemoveWork(found, (half,), False, 60, remove._strays(found, [half]))
    assert "leave-etcd" in ids(work)
    run(work, "leave-etcd")
    assert Etcd.said == ["out 3"]
    assert remove._strays(found, [StandIn("10.0.0.7")]) == frozenset()  # type: ignore[list-item]


def run(found: RemoveWork, step: str) -> None:
    """One step of the plan, as the plan would do it."""
    chosen = next(one for one in remove.plan(found) if one.id == step)
    for node in chosen.nodes:
        chosen.action(node)
    if not chosen.nodes:
        chosen.action()


def test_remove_leave_etcd_retries_after_refusal_and_repeat_changes_nothing(tmp_path: Path) -> None:
    Etcd.failures = 2
    run(work(tmp_path, 1), "leave-etcd")
    assert Etcd.said == ["out 1"]
    # A removal that is done again finds it gone.
    run(work(tmp_path, 1), "leave-etcd")
    assert Etcd.said == ["out 1"]


def test_remove_reachable_node_is_drained_and_unreachable_one_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def note(what: str) -> int:
        said.append(what)
        return 1

    monkeypatch.setattr(drain, "let_go", lambda _, node: note(f"let go {node}"))
    monkeypatch.setattr(drain, "drain", lambda _, node, *, machine, **options: note(f"drain {node} of {machine.address} {options}"))
    run(work(tmp_path, 3, 4, gone=("10.0.0.4",)), "drain")
    assert said == ["drain host-3 of 10.0.0.3 {'force': False, 'timeout': 60}", "let go host-4"]


def test_remove_machine_of_other_cluster_is_let_go_with_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drain, "let_go", lambda *_: 1)
    found = gathered(tmp_path)
    errors = {"10.0.0.4": NodeError("10.0.0.4 belongs to a cluster prod by now and is left as it is")}
    work = RemoveWork(dataclasses.replace(found, errors=errors), found.members[-1:], False, 60)
    assert "clean" not in ids(work)
    run(work, "drain")
    assert "10.0.0.4 belongs to a cluster prod by now and is left as it is: pods of host-4 are started elsewhere" in capsys.readouterr().err


def test_remove_clean_skips_already_clean_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delete, "clean", lambda _: pytest.fail("cleaned"))
    found = work(tmp_path, 4)
    run(found, "clean")
    assert found.cleaned == []


def test_remove_record_lists_uncleaned_machine_as_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: dict[str, Any] = {}
    monkeypatch.setattr(membership, "update", lambda _, **words: noted.update(words) or record())
    monkeypatch.setattr(membership, "remember", lambda *_, **__: None)
    found = work(tmp_path, 4, gone=("10.0.0.4",))
    run(found, "record")
    assert noted == {"gone": ["10.0.0.4"], "left": ["10.0.0.4", "host-4"], "back": []}


def test_remove_control_plane_node_is_dropped_from_balancers_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str] = {}
    monkeypatch.setattr(membership, "tell_balancer", lambda node, text: told.setdefault(node.address, text) == text)
    run(work(tmp_path, 1), "tell-balancers")
    assert list(told) == ["10.0.0.4"]
    assert "10.0.0.1" not in told["10.0.0.4"]
    assert "server host-2 10.0.0.2:6443" in told["10.0.0.4"]


HOOKS = """
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: wipe}
spec: {phases: [PreDelete], on: [disk=ssd], data: "wipefs /dev/sdb"}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: bye}
spec: {phases: [post-clean-host], on: [node], data: "echo bye"}
"""


def parting(found: RemoveWork) -> RemoveWork:
    """With the hooks of what the cluster keeps, as ``prepared`` reads them."""
    found.parting = Parting.of(
        found.found.record.clusterfile, found.found.alive(found.found.control_plane), found.found.members, found.going
    )
    return found


def test_remove_hooks_run_once_after_drain_and_post_clean_hook_at_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parting(work(tmp_path, 1, 4, record=record(CLUSTERFILE + HOOKS)))
    recipe = ids(found)
    assert recipe[:2] == ["drain", "hooks"]
    for node in found.going:
        node.answers = {"/cluster 2>": "lab 01", "ls -A /var/lib/slipway": "journal\n"}  # type: ignore[attr-defined]
    run(found, "hooks")
    run(found, "hooks")
    said = {node.name: [command for command in node.commands if "launch-" in command] for node in found.going}  # type: ignore[attr-defined]
    assert said["host-1"] == []
    # Once: put, run, removed.
    assert len(said["host-4"]) == 3
    monkeypatch.setattr(delete, "clean", lambda _: None)
    run(found, "clean")
    assert len([command for command in found.going[1].commands if "launch-" in command]) == 6  # type: ignore[attr-defined]


def test_remove_hooks_are_not_run_for_unreachable_and_clean_machines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import log

    log.setup()
    monkeypatch.setattr(drain, "let_go", lambda *_: 1)
    dead = parting(work(tmp_path, 4, gone=("10.0.0.4",), record=record(CLUSTERFILE + HOOKS)))
    assert "hooks" not in ids(dead)
    run(dead, "drain")
    assert "hooks are not run there: wipe, bye" in capsys.readouterr().err
    clean = parting(work(tmp_path, 4, record=record(CLUSTERFILE + HOOKS)))
    run(clean, "hooks")
    node: Any = clean.going[0]
    assert node.journal == []
