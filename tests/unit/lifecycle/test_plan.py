"""A plan runs in its order, as much at once as that allows, and once only."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness import log
from harness.errors import CommandError, NodeError
from harness.lifecycle.plan import Insertion, Journal, Plan, Step, check, describe, execute
from harness.nodes import Node
from tests.unit.lifecycle.standin import StandIn
from tests.waiting import HANG


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    log.setup(quiet=True)
    yield
    log.setup()


class Notes:
    """What was done, in order; safe in threads."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._lock = threading.Lock()

    def note(self, text: str) -> None:
        with self._lock:
            self.done.append(text)

    def step(self, name: str, *nodes: Node, **options: object) -> Step:
        def action(node: Node | None = None) -> None:
            self.note(f"{name} {node.address}" if node else name)

        return Step(name, name, action, tuple(nodes), **options)  # type: ignore[arg-type]


ONE, TWO = StandIn("10.0.0.1"), StandIn("10.0.0.2")


def test_a_step_comes_after_what_it_waits_for() -> None:
    notes = Notes()
    execute([notes.step("a"), notes.step("b", after=("a",)), notes.step("c", after=("b", "a"))])
    assert notes.done == ["a", "b", "c"]


def test_a_node_goes_on_without_waiting_for_the_others() -> None:
    second_may = threading.Event()
    notes = Notes()

    def first(node: Node) -> None:
        if node is TWO:
            assert second_may.wait(HANG)
        notes.note(f"first {node.address}")

    def second(node: Node) -> None:
        notes.note(f"second {node.address}")
        second_may.set()

    execute([Step("first", "", first, (ONE, TWO)), Step("second", "", second, (ONE, TWO), after=("first",))])
    assert notes.done == ["first 10.0.0.1", "second 10.0.0.1", "first 10.0.0.2", "second 10.0.0.2"]


def test_a_step_may_wait_for_all_nodes_of_another() -> None:
    notes = Notes()
    steps = [notes.step("first", ONE, TWO), notes.step("second", ONE, after_all=("first",))]
    execute(steps)
    assert notes.done[-1] == "second 10.0.0.1"
    assert len(notes.done) == 3


def test_a_step_on_another_node_waits_for_all_of_it() -> None:
    notes = Notes()
    execute([notes.step("first", ONE), notes.step("workers", TWO, after=("first",)), notes.step("here", after=("workers",))])
    assert notes.done == ["first 10.0.0.1", "workers 10.0.0.2", "here"]


def test_steps_that_wait_for_nothing_run_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=HANG)
    execute([Step("a", "", both.wait), Step("b", "", both.wait)])


def test_after_a_failure_nothing_new_starts_and_what_runs_is_let_end() -> None:
    notes, failed = Notes(), threading.Event()

    def fail() -> None:
        failed.set()
        raise CommandError("it broke")

    def slow() -> None:
        assert failed.wait(HANG)
        notes.note("slow ended")

    with pytest.raises(CommandError, match="it broke"):
        execute([Step("fail", "", fail), Step("slow", "", slow), notes.step("after", after=("fail",)), notes.step("late", after=("slow",))])
    assert notes.done == ["slow ended"]


def test_failures_of_several_nodes_are_reported_together() -> None:
    def action(node: Node) -> None:
        raise NodeError(f"{node.address} is gone") if node is ONE else CommandError(f"{node.address} broke")

    with pytest.raises(NodeError) as caught:
        execute([Step("a", "", action, (ONE, TWO))])
    assert "10.0.0.1 is gone" in caught.value.message
    assert "10.0.0.2 broke" in caught.value.message


def test_what_is_in_the_journal_of_a_node_is_not_done_again() -> None:
    node, notes = StandIn(), Notes()
    steps = [notes.step("a", node, inputs=lambda _: "1"), notes.step("b", node, after=("a",), inputs=lambda _: "1")]
    execute(steps)
    execute(steps)
    assert notes.done == ["a 10.0.0.1", "b 10.0.0.1"]
    assert node.journal == ["a 1", "b 1"]


def test_a_step_whose_inputs_have_changed_is_done_again() -> None:
    node, notes = StandIn(), Notes()
    for value in ("1", "2", "2", "1"):
        execute([notes.step("a", node, inputs=lambda _, value=value: value)])
    assert notes.done == ["a 10.0.0.1"] * 3


def test_a_step_without_inputs_is_done_every_time() -> None:
    node, notes = StandIn(), Notes()
    for _ in range(2):
        execute([notes.step("wait", node)])
    assert len(notes.done) == 2


def test_a_step_that_failed_is_not_in_the_journal() -> None:
    node = StandIn()

    def fail(_: Node) -> None:
        raise CommandError("no")

    with pytest.raises(CommandError):
        execute([Step("a", "", fail, (node,), inputs=lambda _: "1")])
    assert node.journal == []


def test_a_line_of_the_journal_that_a_kill_cut_short_counts_for_nothing() -> None:
    node, notes = StandIn(), Notes()
    node.journal = ["a 1", "b"]
    execute([notes.step("a", node, inputs=lambda _: "1"), notes.step("b", node, inputs=lambda _: "1")], Journal())
    assert notes.done == ["b 10.0.0.1"]


def test_journal_notes_a_step_with_its_inputs_once() -> None:
    node, notes, journal = StandIn(), Notes(), Journal()
    step = notes.step("a", node, inputs=lambda _: "1")
    assert not journal.holds(node, step)
    journal.note(node, step)
    journal.note(node, step)
    assert sum("echo 'a 1'" in command for command in node.commands) == 1
    assert journal.holds(node, step)
    assert not journal.holds(node, notes.step("a", node, inputs=lambda _: "2"))
    unnoted = notes.step("b", node)
    journal.note(node, unnoted)
    assert not journal.holds(node, unnoted)
    assert not journal.knows(node, "b")


def test_a_step_is_noted_after_the_disk_has_what_it_did() -> None:
    node = StandIn()
    Journal().add(node, "a", "1")
    command = next(command for command in node.commands if "echo" in command)
    assert 'sync -f "$place"' in command
    assert command.index("if synced") < command.index("echo 'a 1'")


def test_a_step_that_could_not_be_synced_holds_until_the_next_boot() -> None:
    node, notes = StandIn(), Notes()
    node.journal = ["a 1 b00t", "b 1 other", "c 1", "boot-now b00t"]
    execute([notes.step(name, node, inputs=lambda _: "1") for name in "abc"], Journal())
    assert notes.done == ["b 10.0.0.1"]


def test_the_journal_of_a_node_is_read_once() -> None:
    node, notes = StandIn(), Notes()
    execute([notes.step(name, node, inputs=lambda _: "1") for name in "abcdef"])
    assert sum("cat " in command for command in node.commands) == 1


def test_a_plan_is_described_without_running() -> None:
    notes = Notes()
    steps = [notes.step("a", ONE, TWO), notes.step("b", after=("a",))]
    assert describe(steps) == [
        {"id": "a", "title": "a", "nodes": ["10.0.0.1", "10.0.0.2"], "after": []},
        {"id": "b", "title": "b", "nodes": [], "after": ["a"]},
    ]
    assert notes.done == []


def test_plan_that_waits_for_a_later_step_is_a_fault_of_slipway() -> None:
    notes = Notes()
    with pytest.raises(ValueError, match="step a: waits for"):
        check([notes.step("a", after=("b",)), notes.step("b")])
    with pytest.raises(ValueError, match="stands twice"):
        check([notes.step("a"), notes.step("a")])


def test_the_display_tells_what_was_done_before_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    node, notes = StandIn(), Notes()
    steps = [notes.step("send", node, inputs=lambda _: "1")]
    execute(steps)
    execute(steps)
    assert "+ send (done before)" in capsys.readouterr().err

    def fail() -> None:
        raise CommandError("no")

    with pytest.raises(CommandError):
        execute([Step("start", "start it", fail)])
    assert "x start it" in capsys.readouterr().err


def test_being_interrupted_is_not_swallowed() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute([Step("a", "", interrupt)])


def test_tasks_do_not_have_a_thread_each() -> None:
    nodes = [StandIn(f"10.0.{number // 250}.{number % 250}") for number in range(500)]
    names: set[str] = set()
    most = [0]
    lock, running = threading.Lock(), [0]

    def action(_: Node) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            names.add(threading.current_thread().name)
        with lock:
            running[0] -= 1

    before = threading.active_count()
    seen: list[int] = []
    steps = [Step(f"s{number}", "", action, tuple(nodes)) for number in range(6)]
    execute([*steps, Step("count", "", lambda: seen.append(threading.active_count()), after=tuple(step.id for step in steps))])
    assert most[0] <= 96
    assert len(names) <= 96
    # One for each step that is shown, besides.
    assert seen[0] <= before + 96 + len(steps) + 1


class Refusing(threading.Thread):
    """Threads of which only some may start."""

    left = 0

    def start(self) -> None:
        if Refusing.left == 0:
            raise RuntimeError("can't start new thread")
        Refusing.left -= 1
        super().start()


@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_work_goes_on_with_the_threads_that_there_are(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    steps = [notes.step("a", ONE, TWO), notes.step("b", ONE, TWO, after=("a",))]
    monkeypatch.setattr(Refusing, "left", allowed + 1)  # one shows the first step
    monkeypatch.setattr(threading, "Thread", Refusing)
    execute(steps)
    assert sorted(notes.done) == ["a 10.0.0.1", "a 10.0.0.2", "b 10.0.0.1", "b 10.0.0.2"]


def test_without_any_thread_the_task_fails_and_nothing_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(Refusing, "left", 0)
    monkeypatch.setattr(threading, "Thread", Refusing)
    with pytest.raises(CommandError, match="starts no more threads"):
        execute([notes.step("a", ONE, TWO), notes.step("b", after=("a",))])
    assert notes.done == []


def test_plan_step_that_waits_for_an_optional_one_that_is_missing_does_not_wait() -> None:
    plan = Plan()
    plan.add(Notes().step("a", after=("send-images",), after_all=("start-registry",)))
    plan.add(Notes().step("b", after=("a",)), after=(), after_all=("a", "hooks"))
    assert [(step.id, step.after, step.after_all) for step in plan.steps] == [("a", (), ()), ("b", (), ("a",))]
    plan.add(Notes().step("c", after=("send-imges",)))
    with pytest.raises(ValueError, match=r"step c: waits for \['send-imges'\]"):
        check(plan.steps)


def test_plan_insertion_comes_before_the_first_of_its_steps_and_each_waits_for_its_last() -> None:
    notes = Notes()
    plan = Plan(Insertion((notes.step("x"), notes.step("y", after=("x",))), ("b", "c")), Insertion((), ("a",)))
    plan.add(*(notes.step(name) for name in "abcd"))
    assert [(step.id, step.needs) for step in plan.steps] == [("a", ()), ("x", ()), ("y", ("x",)), ("b", ("y",)), ("c", ("y",)), ("d", ())]
    assert plan.last == "d"
