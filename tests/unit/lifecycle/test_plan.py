"""A plan runs in its order, as much at once as that allows, and once only."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness import log
from harness.errors import CommandError, NodeError
from harness.lifecycle.plan import Insertion, Journal, Plan, Step, check, describe, execute
from harness.log import timings
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


def test_execute_step_runs_after_its_dependencies() -> None:
    notes = Notes()
    execute([notes.step("a"), notes.step("b", after=("a",)), notes.step("c", after=("b", "a"))])
    assert notes.done == ["a", "b", "c"]


def test_execute_node_continues_without_waiting_for_other_nodes() -> None:
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


def test_execute_after_all_waits_for_all_nodes_of_step() -> None:
    notes = Notes()
    steps = [notes.step("first", ONE, TWO), notes.step("second", ONE, after_all=("first",))]
    execute(steps)
    assert notes.done[-1] == "second 10.0.0.1"
    assert len(notes.done) == 3


def test_execute_after_step_on_other_nodes_waits_for_all_of_them() -> None:
    notes, three = Notes(), StandIn("10.0.0.3")
    second_may = threading.Event()

    def first(node: Node) -> None:
        if node is TWO:
            assert second_may.wait(HANG)
        notes.note(f"first {node.address}")

    # While the second node is at the first step, a chain of others runs: what did not wait for that node would run beside it.
    chain = [Step("a", "", lambda _: None, (ONE,), after=("first",)), Step("b", "", lambda _: None, (ONE,), after=("a",))]
    released = Step("c", "", lambda _: second_may.set(), (ONE,), after=("b",))
    others, here = notes.step("others", three, after=("first",)), notes.step("here", after=("others",))
    execute([Step("first", "", first, (ONE, TWO)), others, *chain, released, here])
    assert notes.done == ["first 10.0.0.1", "first 10.0.0.2", "others 10.0.0.3", "here"]


def test_execute_independent_steps_run_concurrently() -> None:
    both = threading.Barrier(2, timeout=HANG)
    execute([Step("a", "", both.wait), Step("b", "", both.wait)])


def test_execute_failure_starts_no_new_step_and_awaits_running_step() -> None:
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


def test_execute_failures_of_several_nodes_are_reported_together() -> None:
    def action(node: Node) -> None:
        raise NodeError(f"{node.address} is gone") if node is ONE else CommandError(f"{node.address} broke")

    with pytest.raises(NodeError) as caught:
        execute([Step("a", "", action, (ONE, TWO))])
    assert "10.0.0.1 is gone" in caught.value.message
    assert "10.0.0.2 broke" in caught.value.message


def test_execute_keeps_span_of_each_step_on_each_node() -> None:
    notes = Notes()
    with timings.kept() as recorder:
        execute([notes.step("a", ONE, TWO), notes.step("b", after=("a",))])
    kept = sorted((span.title, span.lane) for span in recorder.spans() if span.kind == timings.STEP)
    assert kept == [("a", f"{ONE.name} steps"), ("a", f"{TWO.name} steps"), ("b", "steps")]


def test_execute_step_in_journal_is_skipped() -> None:
    node, notes = StandIn(), Notes()
    steps = [notes.step("a", node, inputs=lambda _: "1"), notes.step("b", node, after=("a",), inputs=lambda _: "1")]
    execute(steps)
    execute(steps)
    assert notes.done == ["a 10.0.0.1", "b 10.0.0.1"]
    assert node.journal == ["a 1", "b 1"]


def test_execute_step_with_changed_inputs_is_repeated() -> None:
    node, notes = StandIn(), Notes()
    for value in ("1", "2", "2", "1"):
        execute([notes.step("a", node, inputs=lambda _, value=value: value)])
    assert notes.done == ["a 10.0.0.1"] * 3


def test_execute_step_without_inputs_runs_every_time() -> None:
    node, notes = StandIn(), Notes()
    for _ in range(2):
        execute([notes.step("wait", node)])
    assert len(notes.done) == 2


def test_execute_failed_step_is_not_in_journal() -> None:
    node = StandIn()

    def fail(_: Node) -> None:
        raise CommandError("no")

    with pytest.raises(CommandError):
        execute([Step("a", "", fail, (node,), inputs=lambda _: "1")])
    assert node.journal == []


def test_journal_truncated_line_is_ignored() -> None:
    node, notes = StandIn(), Notes()
    node.journal = ["a 1", "b"]
    execute([notes.step("a", node, inputs=lambda _: "1"), notes.step("b", node, inputs=lambda _: "1")], Journal())
    assert notes.done == ["b 10.0.0.1"]


def test_journal_note_writes_step_with_inputs_once() -> None:
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


def test_journal_add_syncs_disk_before_entry_is_written() -> None:
    node = StandIn()
    Journal().add(node, "a", "1")
    command = next(command for command in node.commands if "echo" in command)
    assert 'sync -f "$place"' in command
    assert command.index("if synced") < command.index("echo 'a 1'")


def test_journal_unsynced_entry_holds_until_next_boot() -> None:
    node, notes = StandIn(), Notes()
    node.journal = ["a 1 b00t", "b 1 other", "c 1", "boot-now b00t"]
    execute([notes.step(name, node, inputs=lambda _: "1") for name in "abc"], Journal())
    assert notes.done == ["b 10.0.0.1"]


def test_execute_reads_journal_of_node_once() -> None:
    node, notes = StandIn(), Notes()
    execute([notes.step(name, node, inputs=lambda _: "1") for name in "abcdef"])
    assert sum("cat " in command for command in node.commands) == 1


def test_describe_lists_steps_without_running_them() -> None:
    notes = Notes()
    steps = [notes.step("a", ONE, TWO), notes.step("b", after=("a",))]
    assert describe(steps) == [
        {"id": "a", "title": "a", "nodes": ["10.0.0.1", "10.0.0.2"], "after": []},
        {"id": "b", "title": "b", "nodes": [], "after": ["a"]},
    ]
    assert notes.done == []


def test_check_dependency_on_later_step_or_duplicate_step_raises_value_error() -> None:
    notes = Notes()
    with pytest.raises(ValueError, match="step a: waits for"):
        check([notes.step("a", after=("b",)), notes.step("b")])
    with pytest.raises(ValueError, match="stands twice"):
        check([notes.step("a"), notes.step("a")])


def test_execute_display_shows_skipped_and_failed_steps(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_execute_keyboard_interrupt_is_raised() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute([Step("a", "", interrupt)])


def test_execute_many_tasks_share_limited_threads() -> None:
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
def test_execute_with_few_available_threads_completes_all_steps(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    steps = [notes.step("a", ONE, TWO), notes.step("b", ONE, TWO, after=("a",))]
    monkeypatch.setattr(Refusing, "left", allowed + 1)  # one shows the first step
    monkeypatch.setattr(threading, "Thread", Refusing)
    execute(steps)
    assert sorted(notes.done) == ["a 10.0.0.1", "a 10.0.0.2", "b 10.0.0.1", "b 10.0.0.2"]


def test_execute_without_available_thread_raises_command_error(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    monkeypatch.setattr(Refusing, "left", 0)
    monkeypatch.setattr(threading, "Thread", Refusing)
    with pytest.raises(CommandError, match="starts no more threads"):
        execute([notes.step("a", ONE, TWO), notes.step("b", after=("a",))])
    assert notes.done == []


def test_plan_add_dependency_on_absent_optional_step_is_dropped() -> None:
    plan = Plan()
    plan.add(Notes().step("a", after=("send-images",), after_all=("start-registry",)))
    plan.add(Notes().step("b", after=("a",)), after=(), after_all=("a", "hooks"))
    assert [(step.id, step.after, step.after_all) for step in plan.steps] == [("a", (), ()), ("b", (), ("a",))]
    plan.add(Notes().step("c", after=("send-imges",)))
    with pytest.raises(ValueError, match=r"step c: waits for \['send-imges'\]"):
        check(plan.steps)


def test_plan_insertion_runs_before_its_steps_which_wait_for_its_last() -> None:
    notes = Notes()
    plan = Plan(Insertion((notes.step("x"), notes.step("y", after=("x",))), ("b", "c")), Insertion((), ("a",)))
    plan.add(*(notes.step(name) for name in "abcd"))
    assert [(step.id, step.needs) for step in plan.steps] == [("a", ()), ("x", ()), ("y", ("x",)), ("b", ("y",)), ("c", ("y",)), ("d", ())]
    assert plan.last == "d"
