"""Preflight checks of machines as ``check --pre`` makes them: each that can be asked is, and nothing is changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import NodeError, UsageError
from harness.lifecycle import check, run
from harness.lifecycle.checks.findings import Finding, Report, Result
from harness.lifecycle.checks.preflight import CHECKS
from harness.lifecycle.steps.context import ClusterSpec
from harness.nodes import Machine
from harness.nodes.ssh import SshConnections
from harness.oci.store import Store
from tests.unit.lifecycle.checks.machines import SAID
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import asked, build, store

__all__ = ["store"]  # a fixture

FIRST, SECOND, THIRD = "10.0.0.1", "10.0.0.2", "10.0.0.3"
AWAY = "nothing listens on port 22"


class LoginStandIn(StandIn):
    """A machine behind a login, which it may refuse."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.refuses: NodeError | None = None
        self.connected = False
        self.answers = {"uname -n": self.facts}
        self.changes: dict[str, str] = {}
        """Lines of its facts, by their first word."""

    def facts(self) -> str:
        own = {"host": f"machine-{self.address[-1]}", "begun": str(time.time()), "time": str(time.time()), **self.changes}
        usual = [line for line in SAID.splitlines() if line.split()[0] not in {"cluster", *own}]
        return "\n".join([*usual, *(f"{key} {text}" for key, text in own.items())])

    def connect(self) -> None:
        if self.refuses:
            raise self.refuses
        self.connected = True
        self.name = f"machine-{self.address[-1]}"

    def disconnect(self) -> None:
        self.connected = False


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, LoginStandIn]:
    """Machines in place of those that ssh would reach, by address."""
    machines = {address: LoginStandIn(address) for address in (FIRST, SECOND, THIRD)}
    monkeypatch.setattr("harness.nodes.ssh.SshNode", lambda _, machine: machines[machine.address])
    monkeypatch.setattr(SshConnections, "prepare", lambda _: None)
    return machines


@pytest.fixture
def pre(tmp_path: Path, there: dict[str, LoginStandIn]) -> Callable[..., Report]:
    """Check machines, given by their addresses; afterwards no connection is open."""

    def checked(*control_plane: str, workers: tuple[str, ...] = (), **options: Any) -> Report:
        machines = [[Machine(address) for address in group] for group in (control_plane, workers)]
        report = check.pre(*machines, home=tmp_path, **options)
        assert [machine.address for machine in there.values() if machine.connected] == []
        return report

    return checked


def found(report: Report, name: str) -> dict[str, Result]:
    """Results of a check by address."""
    return {finding.where: finding.result for finding in report.findings if finding.check == name}


def only(report: Report, name: str, where: str) -> Finding:
    (finding,) = (one for one in report.findings if (one.check, one.where) == (name, where))
    return finding


def ways(machine: LoginStandIn) -> list[str]:
    """The connections that a machine was to try."""
    (script,) = (command for command in machine.commands if "command -v timeout" in command)
    return [line for line in script.splitlines() if line.startswith("reach ")]


# Machines


def test_pre_without_machine_is_refused_before_any_connection(there: dict[str, LoginStandIn], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no machine is named") as caught:
        check.pre([], [], home=tmp_path)
    assert "--control-plane 10.0.0.1" in (caught.value.hint or "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("skip", "message"), [("memry", "--skip memry: no such check"), ("cluster", "--skip cluster: this cannot be")])
def test_pre_skip_of_unknown_or_needed_check_is_refused_before_any_connection(
    skip: str, message: str, there: dict[str, LoginStandIn], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        check.pre([Machine(FIRST)], [], skip=["swap", skip], home=tmp_path)
    assert (there[FIRST].commands, list(tmp_path.iterdir())) == ([], [])


def test_pre_report_has_every_check_of_every_machine_and_its_host_name(pre: Callable[..., Report]) -> None:
    report = pre(FIRST, SECOND, workers=(THIRD,), name="lab")
    assert (report.name, report.checks) == ("lab", CHECKS)
    assert report.names == {FIRST: "machine-1", SECOND: "machine-2", THIRD: "machine-3"}
    ids = {finding.check for finding in report.findings}
    assert ids == set(CHECKS) - {"member"}
    assert {name for name in ids if len(found(report, name)) != 3} == set()
    assert set(found(report, "sudo").values()) == set(found(report, "access").values()) == {Result.OK}
    assert 0 <= report.seconds < 60


def test_pre_roles_of_machines_decide_what_is_tried_on_them(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    pre(FIRST, workers=(SECOND,))
    tried = {address: ways(there[address]) for address in (FIRST, SECOND)}
    # The registry is on the control plane, whose machines alone ask the kubelets of others.
    assert f"reach {SECOND} 10250 &" in tried[FIRST]
    assert f"reach {FIRST} 5000 &" in tried[SECOND]
    assert f"reach {FIRST} 10250 &" not in tried[SECOND]
    assert there[THIRD].commands == []


def test_pre_workers_alone_are_checked_as_workers(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    report = pre(workers=(SECOND, THIRD))
    assert set(found(report, "memory")) == {SECOND, THIRD}
    assert [way for address in (SECOND, THIRD) for way in ways(there[address])] == []


def test_pre_machine_of_same_cluster_is_free_and_of_another_is_not(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    for machine in there.values():
        machine.changes["cluster"] = "lab 0123"
    assert found(pre(FIRST, workers=(SECOND,), name="lab"), "cluster") == {FIRST: Result.OK, SECOND: Result.OK}
    assert found(pre(FIRST, workers=(SECOND,), name="shop"), "cluster") == {FIRST: Result.FAILED, SECOND: Result.FAILED}


# Machines that give no access


def test_pre_unreachable_machine_is_reported_and_others_are_checked(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    there[SECOND].refuses = NodeError(f"{SECOND}: {AWAY}", hint="start it")
    report = pre(FIRST, SECOND, workers=(THIRD,))
    assert found(report, "access") == {FIRST: Result.OK, SECOND: Result.FAILED, THIRD: Result.OK}
    assert str(only(report, "access", SECOND)) == f"{SECOND}: {AWAY} (start it)"
    assert set(found(report, "memory")) == {FIRST, THIRD}
    assert report.names == {FIRST: "machine-1", THIRD: "machine-3"}
    assert there[SECOND].commands == []


def test_pre_error_without_hint_has_remedy_all_the_same(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    there[FIRST].refuses = NodeError(f"{FIRST}: {AWAY}")
    assert only(pre(FIRST), "access", FIRST).remedy == "look at its sshd"


def test_pre_no_reachable_machine_reports_all_and_checks_nothing_else(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    for address in (FIRST, SECOND):
        there[address].refuses = NodeError(f"{address}: {AWAY}")
    report = pre(FIRST, workers=(SECOND,))
    assert [(finding.check, finding.where) for finding in report.findings] == [("access", FIRST), ("access", SECOND)]
    assert (report.names, report.faults) == ({}, 1)


def test_pre_user_who_may_not_become_root_fails_check_sudo(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    there[FIRST].refuses = NodeError(f"{FIRST}: ops may not become root without a password", hint="allow it")
    report = pre(FIRST, workers=(SECOND,))
    assert found(report, "sudo") == {FIRST: Result.FAILED, SECOND: Result.OK}
    assert found(report, "access") == {SECOND: Result.OK}
    assert only(report, "sudo", FIRST).message == "ops may not become root without a password"


def test_pre_machine_whose_facts_cannot_be_read_is_reported_and_others_are_checked(
    pre: Callable[..., Report], there: dict[str, LoginStandIn]
) -> None:
    there[FIRST].broken.add("uname -n")
    there[SECOND].answers["uname -n"] = "no facts"
    report = pre(FIRST, workers=(SECOND, THIRD))
    assert found(report, "access") == {FIRST: Result.FAILED, SECOND: Result.FAILED, THIRD: Result.OK}
    for address in (FIRST, SECOND):
        assert only(report, "access", address).message.startswith("its facts cannot be read: ")
        assert only(report, "access", address).remedy == "it must be Linux with a POSIX shell and /proc"
    assert set(found(report, "memory")) == {THIRD}


# Skipped checks


def test_pre_skipped_check_keeps_its_text_and_is_no_fault(pre: Callable[..., Report], there: dict[str, LoginStandIn]) -> None:
    there[FIRST].changes["memory"] = "1024"
    plain, skipped = pre(FIRST), pre(FIRST, skip=["swap,memory"])
    assert (found(plain, "memory"), found(skipped, "memory")) == ({FIRST: Result.FAILED}, {FIRST: Result.SKIPPED})
    assert only(skipped, "memory", FIRST).message == only(plain, "memory", FIRST).message
    assert skipped.faults == plain.faults - 1


# The image


def spec_of(store: Store, control_plane: tuple[str, ...], workers: tuple[str, ...] = ()) -> ClusterSpec:
    """The spec of a cluster of the image ``web``."""
    build(store)
    return run.prepare(asked(control_plane=tuple(map(Machine, control_plane)), workers=tuple(map(Machine, workers))), store).spec


def test_pre_image_of_other_architecture_fails_only_where_it_is_known(
    store: Store, pre: Callable[..., Report], there: dict[str, LoginStandIn]
) -> None:
    there[THIRD].changes["arch"] = "aarch64"
    report = pre(FIRST, workers=(THIRD,), spec=spec_of(store, (FIRST,), (THIRD,)))
    assert found(report, "architecture") == {FIRST: Result.OK, THIRD: Result.FAILED}
    assert "linux/amd64" in only(report, "architecture", THIRD).message
    assert found(pre(FIRST, workers=(THIRD,)), "architecture") == {FIRST: Result.OK, THIRD: Result.OK}


def test_pre_image_is_known_to_workers_when_no_control_plane_answers(
    store: Store, pre: Callable[..., Report], there: dict[str, LoginStandIn]
) -> None:
    there[FIRST].refuses = NodeError(f"{FIRST}: {AWAY}")
    there[THIRD].changes["arch"] = "aarch64"
    report = pre(FIRST, workers=(THIRD,), spec=spec_of(store, (FIRST,), (THIRD,)))
    assert found(report, "access") == {FIRST: Result.FAILED, THIRD: Result.OK}
    assert found(report, "architecture") == {THIRD: Result.FAILED}


def test_pre_control_plane_node_that_is_away_leaves_the_others_to_the_image(
    store: Store, pre: Callable[..., Report], there: dict[str, LoginStandIn]
) -> None:
    there[FIRST].refuses = NodeError(f"{FIRST}: {AWAY}")
    there[THIRD].changes["arch"] = "aarch64"
    report = pre(FIRST, SECOND, THIRD, spec=spec_of(store, (FIRST, SECOND, THIRD)))
    assert found(report, "access") == {FIRST: Result.FAILED, SECOND: Result.OK, THIRD: Result.OK}
    assert found(report, "architecture") == {SECOND: Result.OK, THIRD: Result.FAILED}
