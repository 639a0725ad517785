"""On whom a command runs, what is shown of it, and how it is judged."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandError, NodeError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster.access import Known
from harness.lifecycle.exec import ExecTarget, Outcome, addresses_with, judge, on_each, select, shell_text, targets
from harness.nodes import Machine
from harness.nodes.ssh import SshConnections, _own_code


class Speaker:
    """A machine that says lines and ends with a code, or cannot be reached."""

    def __init__(self, address: str, lines: list[str], code: int = 0, error: str | None = None) -> None:
        self.address, self.lines, self.code, self.error = address, lines, code, error
        self.machine = Machine(address, host=f"node{address[-1]}.example.com")

    def stream(self, command: str, take: Any, *, stop: threading.Event | None = None) -> int:
        assert command
        if self.error:
            raise NodeError(self.error)
        for line in self.lines:
            take("stdout", line)
        return self.code


def target(address: str, role: str = "worker", lines: list[str] | None = None, code: int = 0, error: str | None = None) -> ExecTarget:
    node: Any = Speaker(address, lines or [], code, error)
    return ExecTarget(node, f"host-{address[-1]}", role)


ALL = (target("10.0.0.1", "control-plane"), target("10.0.0.2"), target("10.0.0.3"))


def chosen(on: list[str], role: str | None, labelled: frozenset[str] = frozenset()) -> list[str]:
    return [one.node.address for one in select(ALL, on, role, lambda: labelled)]


def test_shell_text_keeps_single_word_quotes_several_and_refuses_empty() -> None:
    assert shell_text(["df -h | tail -1"]) == "df -h | tail -1"
    assert shell_text(["echo", "a  b", "$HOME"]) == "echo 'a  b' '$HOME'"
    for nothing in ([], [""], [" "]):
        with pytest.raises(UsageError):
            shell_text(nothing)


def test_select_by_role_address_or_name_returns_matching_machines() -> None:
    assert chosen([], None) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert chosen([], "control-plane") == chosen([], "master") == ["10.0.0.1"]
    assert chosen([], "worker") == chosen([], "node") == ["10.0.0.2", "10.0.0.3"]
    assert chosen(["host-3", "10.0.0.1"], None) == ["10.0.0.1", "10.0.0.3"]
    assert chosen(["host-3", "10.0.0.1"], "worker") == ["10.0.0.3"]
    assert chosen(["node2.example.com"], None) == ["10.0.0.2"]
    assert chosen([], "storage", frozenset({"10.0.0.3"})) == ["10.0.0.3"]


def test_select_unknown_machine_or_unused_role_raises_usage_error() -> None:
    with pytest.raises(UsageError, match=r"10\.0\.0\.9, host-x: no machine of this cluster"):
        chosen(["10.0.0.9", "10.0.0.1", "host-x"], None)
    with pytest.raises(UsageError, match="no machine has the role storage"):
        chosen([], "storage")


def test_addresses_with_role_label_returns_node_addresses() -> None:
    def node(address: str, **labels: str) -> dict[str, Any]:
        named = {key.replace("_", "/"): value for key, value in labels.items()}
        addresses = [{"type": "Hostname", "address": "x"}, {"type": "InternalIP", "address": address}]
        return {"metadata": {"labels": named}, "status": {"addresses": addresses}}

    nodes = [
        node("10.0.0.1", **{"node-role.kubernetes.io/storage": ""}),
        node("10.0.0.2", **{"kubernetes.io/role": "storage"}),
        node("10.0.0.3"),
    ]
    assert list(addresses_with(nodes, "storage")) == ["10.0.0.1", "10.0.0.2"]


def test_targets_take_names_from_cluster_state(tmp_path: Path) -> None:
    state = ClusterState.of("lab", tmp_path)
    state.remember({"controlPlane": [{"address": "10.0.0.1", "name": "one"}]})
    found = Known(state, (Machine("10.0.0.1"),), (Machine("10.0.0.2"),))
    named = targets(found, SshConnections(tmp_path / "c", (*found.control_plane, *found.workers)))
    assert [(one.name, one.role) for one in named] == [("one", "control-plane"), ("10.0.0.2", "worker")]


def test_on_each_lines_of_parallel_machines_are_shown_one_at_once_in_order() -> None:
    many = [target(f"10.0.0.{number}", lines=[f"{number}-{line}" for line in range(50)]) for number in range(1, 9)]
    shown: list[tuple[str, str]] = []
    inside = threading.Lock()

    def show(name: str, stream: str, line: str) -> None:
        assert stream == "stdout"
        assert inside.acquire(blocking=False), "two lines at once"
        shown.append((name, line))
        inside.release()

    outcomes = on_each(many, "true", jobs=4, show=show)
    for number in range(1, 9):
        assert [line for name, line in shown if name == f"host-{number}"] == [f"{number}-{line}" for line in range(50)]
    # What was shown is not kept as well.
    assert all(not outcome.stdout for outcome in outcomes)


def test_on_each_outcomes_keep_order_output_and_error() -> None:
    outcomes = on_each([target("10.0.0.1", lines=["a", "b"], code=3), target("10.0.0.2", error="10.0.0.2: no answer")], "true", jobs=1)
    assert [(one.code, one.error) for one in outcomes] == [(3, None), (None, "10.0.0.2: no answer")]
    assert outcomes[0].to_json()["stdout"] == "a\nb"


def test_on_each_runs_at_most_given_jobs_at_once() -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Slow(Speaker):
        def stream(self, command: str, take: Any, *, stop: threading.Event | None = None) -> int:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.005)
            with lock:
                running -= 1
            return 0

    nodes: list[Any] = [Slow(f"10.0.0.{number}", []) for number in range(20)]
    on_each([ExecTarget(node, node.address, "worker") for node in nodes], "true", jobs=3)
    assert 1 < most <= 3


def outcome(name: str, code: int | None, error: str | None = None) -> Outcome:
    return Outcome(name, name, "worker", code, 0.1, error=error)


def test_judge_failed_and_unreachable_machines_raise_different_exit_codes() -> None:
    judge([outcome("a", 0)])
    with pytest.raises(CommandError, match="failed on 1 of 2 machines") as failed:
        judge([outcome("a", 0), outcome("b", 3)])
    assert (failed.value.exit_code, failed.value.details) == (6, "b: exit code 3")
    with pytest.raises(NodeError, match="failed on 1 and did not reach 1 of 2") as lost:
        judge([outcome("a", 1), outcome("b", None, "b: no route leads to it")])
    assert lost.value.exit_code == 5
    assert "no route leads to it" in (lost.value.details or "")


def test_own_code_command_ending_in_comment_does_not_swallow_wrapper() -> None:
    # A comment at its end must not swallow what comes behind it.
    assert "\n); code=$?" in _own_code("true # nothing")


def test_on_each_kept_output_beyond_limit_fails_and_shown_output_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OUTPUT_LIMIT", 1 << 20)
    lines = ["x" * 1000] * 2000
    (found,) = on_each([target("10.0.0.1", lines=lines)], "yes")
    assert "printed more than 1 MiB" in str(found.error)
    assert found.code is None
    shown: list[str] = []
    (found,) = on_each([target("10.0.0.1", lines=lines)], "yes", show=lambda _, __, line: shown.append(line))
    assert (found.code, len(shown)) == (0, 2000)
