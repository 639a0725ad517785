"""A plan is a list of steps that know what they wait for. One loop runs it, as much at once as that allows, journalled on the nodes."""

from __future__ import annotations

import contextlib
import dataclasses
import graphlib
import hashlib
import json
import posixpath
import queue
import shlex
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from harness import assets, log, process
from harness.errors import SlipwayError
from harness.log import timings
from harness.nodes import Node, claim, no_thread, together
from harness.nodes.files import STATE

JOURNAL = f"{STATE}/journal"
_MOST_AT_ONCE = 96

Action = Callable[..., object]
"""Called with a node, or without arguments for a step that is done here. Text that it returns is shown behind the title."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing to do, on some nodes at the same time or, without nodes, here."""

    id: str
    """Noted in the journal of its nodes, which outlives the slipway that wrote it: on a node an id means the same result in every version
    and to every verb, whichever way the verb takes to it, and is never reused for another. ``run`` repeats nothing that ``join`` or
    ``upgrade`` have noted under the ids of ``run``.
    """
    title: str
    action: Action
    nodes: tuple[Node, ...] = ()
    after: tuple[str, ...] = ()
    """Steps that come first: on the same node where they run there, else everywhere."""
    after_all: tuple[str, ...] = ()
    """Steps that come first on all of their nodes."""
    inputs: Callable[[Node], str] | None = None
    """The inputs that the result depends on. With them, a finished step is noted on its node and not repeated until its inputs change."""

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.after, *self.after_all)))


OPTIONAL = frozenset(
    {
        "check-machines",
        "finish-cluster",
        "hooks",
        "import-images",
        "leave-etcd",
        "send-images",
        "start-registry",
        "tell-balancers",
        "tell-nodes",
    }
)
"""Steps that not every plan has. What names them does not wait for them where there are none."""


@dataclasses.dataclass(frozen=True)
class Insertion:
    """Steps that are put before the first of some others, each of which waits for the last of them."""

    steps: Sequence[Step]
    before: Collection[str]


class Plan:
    """Steps in the order in which they are shown, built from the first to the last; ``insertions`` are found a place on the way."""

    def __init__(self, *insertions: Insertion) -> None:
        self.steps: list[Step] = []
        self._insertions = [insertion for insertion in insertions if insertion.steps]

    @property
    def last(self) -> str:
        """The id of the last step."""
        return self.steps[-1].id

    def add(self, *steps: Step, after: tuple[str, ...] | None = None, after_all: tuple[str, ...] | None = None) -> None:
        """Append steps, which wait for ``after`` and ``after_all`` instead of what they name themselves, where that is given."""
        for step in steps:
            waits = self._inserted(step.id)
            names = step.after if after is None else after
            names_all = (*(step.after_all if after_all is None else after_all), *waits)
            self.steps.append(dataclasses.replace(step, after=self._present(names), after_all=self._present(names_all)))

    def _inserted(self, before: str) -> list[str]:
        """The last steps of the insertions that come before a step; they are in the plan by now."""
        last = []
        for insertion in self._insertions:
            if before in insertion.before:
                last.append(insertion.steps[-1].id)
                if all(step.id != last[-1] for step in self.steps):
                    self.steps += insertion.steps
        return last

    def _present(self, names: Iterable[str]) -> tuple[str, ...]:
        ids = {step.id for step in self.steps}
        return tuple(name for name in names if name in ids or name not in OPTIONAL)


def digest(*parts: object) -> str:
    """A short hash of anything that JSON can write."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check(steps: Sequence[Step]) -> None:
    """Raises ValueError when an id stands twice, or a step waits for one that is not before it: a fault of ours, not the user's."""
    seen: set[str] = set()
    for step in steps:
        missing = [name for name in step.needs if name not in seen]
        if step.id in seen or missing:
            raise ValueError(f"step {step.id}: {'stands twice' if step.id in seen else f'waits for {missing}, not before it'}")
        seen.add(step.id)


def describe(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """The plan as plain data, for ``--plan``: nothing is touched to make it."""
    return [
        {"id": step.id, "title": step.title, "nodes": [node.address for node in step.nodes], "after": list(step.needs)} for step in steps
    ]


_BOOT = "{ read -r boot < /proc/sys/kernel/random/boot_id; } 2> /dev/null"

_SYNC = assets.script("synced", state=STATE)


class Journal:
    """Finished steps of each node: lines ``step-id hash`` in a file there. Safe in threads.

    A line is written once the disk has what the step has done, so that it holds after a power cut. Where the disk cannot be told to,
    the line ends with the id of the boot and holds until the next one.
    """

    def __init__(self, path: str = JOURNAL) -> None:
        self._path = shlex.quote(path)
        self._folder = shlex.quote(posixpath.dirname(path))
        self._known: dict[str, dict[str, str]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def _of(self, node: Node) -> dict[str, str]:
        with self._lock:
            lock = self._locks.setdefault(node.address, threading.Lock())
        with lock:
            if node.address not in self._known:
                text = node.run(f"cat {self._path} 2>/dev/null; boot=; {_BOOT}; printf '%s %s\\n' {_NOW} \"$boot\"").stdout
                self._known[node.address] = _finished(text)
            return self._known[node.address]

    def has(self, node: Node, step: str, inputs: str) -> bool:
        return self._of(node).get(step) == inputs

    def knows(self, node: Node, step: str) -> bool:
        """Return True when a step was ever finished on the node, with any inputs."""
        return step in self._of(node)

    def add(self, node: Node, step: str, inputs: str) -> None:
        claim.check()
        line = f"if synced; then echo '{step} {inputs}'; else boot=unknown; {_BOOT}; echo \"{step} {inputs} $boot\"; fi >> {self._path}"
        node.run(f"{_SYNC}mkdir -p {self._folder} && {line}", timeout=600)
        self._of(node)[step] = inputs

    def holds(self, node: Node, step: Step) -> bool:
        """Return True when a step is finished on a node with its present inputs. False for a step that is never noted."""
        return step.inputs is not None and self.has(node, step.id, step.inputs(node))

    def note(self, node: Node, step: Step) -> None:
        """Note a step as finished on a node, unless it is noted already or never is."""
        if step.inputs is not None and not self.has(node, step.id, inputs := step.inputs(node)):
            self.add(node, step.id, inputs)


_NOW = "boot-now"
"""Begins the line behind a journal that says which boot this is."""


def _finished(text: str) -> dict[str, str]:
    """The steps of a journal that hold, with what they were given."""
    lines = [line.split() for line in text.splitlines()]
    boot = next((words[1] for words in lines if words[:1] == [_NOW] and len(words) == 2), "")
    # The last line may have been cut by a kill: it has no hash then, or a wrong one, and its step is done again.
    return {words[0]: words[1] for words in lines if words[:1] != [_NOW] and (len(words) == 2 or (len(words) == 3 and words[2] == boot))}


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    step: Step
    node: Node | None


@dataclasses.dataclass(frozen=True)
class _Ended:
    task: _Task
    error: BaseException | None
    skipped: bool
    note: str


class _Shown:
    """The display of one step, in a thread of its own: steps overlap, and what is shown nests by thread."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self.left = max(1, len(step.nodes))
        self.skipped = 0
        self.notes: list[str] = []
        self.failed = False
        self._ended = threading.Event()
        self._thread: threading.Thread | None = threading.Thread(target=self._show, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as refused:
            # Work is more important than its display.
            self._thread = None
            log.debug(f"{step.id} is not shown: {refused}")

    def _show(self) -> None:
        try:
            with log.step(self.step.title) as shown:
                self._ended.wait()
                shown.note = self._note()
                if self.failed:
                    raise _FailedError
        except _FailedError:
            pass

    def _note(self) -> str:
        notes = list(dict.fromkeys(note for note in self.notes if note))
        if self.skipped:
            notes.append("done before" if self.skipped == max(1, len(self.step.nodes)) else f"{self.skipped} done before")
        return ", ".join(notes[:3])

    def end(self, *, failed: bool = False) -> None:
        self.failed = self.failed or failed
        self._ended.set()
        if self._thread is not None:
            self._thread.join()


class _FailedError(Exception):
    """Makes the display show a cross; what went wrong is told once, at the end."""


def execute(steps: Sequence[Step], journal: Journal | None = None) -> None:
    """Run a plan. Each task starts as soon as what it waits for has ended.

    After a failure nothing new starts; what runs is let end, then all failures are raised as one error.
    """
    check(steps)
    order = _order(steps)
    journal = journal or Journal()
    ended: queue.Queue[_Ended] = queue.Queue()
    shown: dict[str, _Shown] = {}
    pool = _Pool(lambda task: _work(task, journal, ended), min(_MOST_AT_ONCE, sum(max(1, len(step.nodes)) for step in steps)))
    failures: list[BaseException] = []
    running = 0

    def start(task: _Task) -> None:
        if task.step.id not in shown:
            shown[task.step.id] = _Shown(task.step)
        try:
            pool.put(task)
        except RuntimeError as refused:
            ended.put(_Ended(task, no_thread(refused), skipped=False, note=""))

    try:
        while order.is_active():
            for task in order.get_ready() if not failures else ():
                start(task)
                running += 1
            if not running:
                break
            result = _next(ended)
            running -= 1
            _account(shown[result.task.step.id], result)
            if result.error is not None:
                failures.append(result.error)
            order.done(result.task)
    finally:
        pool.close()
        # Those left are steps of which not every node was begun, or all of them when we were interrupted.
        for display in shown.values():
            if display.left:
                display.end(failed=True)
    if failures:
        raise together(failures)


def _next(ended: queue.Queue[_Ended]) -> _Ended:
    while True:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=process.HEED)


def _account(display: _Shown, result: _Ended) -> None:
    display.left -= 1
    display.skipped += result.skipped
    display.notes.append(result.note)
    display.failed = display.failed or result.error is not None
    if display.left == 0:
        display.end()


class _Pool:
    """Threads that take tasks from a queue: as many as there are tasks that wait or run, but never more than ``most``."""

    def __init__(self, work: Callable[[_Task], None], most: int) -> None:
        self._work = work
        self._most = most
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0

    def put(self, task: _Task) -> None:
        """Have a task done. Raises RuntimeError when no thread does it and none can be started; another one may do it later."""
        with self._lock:
            self._open += 1
            self._tasks.put(task)
            if self._open <= self._threads or self._threads == self._most:
                return
            try:
                threading.Thread(target=self._take, daemon=True).start()
            except RuntimeError:
                if self._threads:
                    return
                self._open -= 1
                self._tasks.get_nowait()
                raise
            self._threads += 1

    def close(self) -> None:
        """Let every thread end once it has done what it does; what none has begun is not begun any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in range(self._threads):
            self._tasks.put(None)

    def _take(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                self._work(task)
            finally:
                with self._lock:
                    self._open -= 1


def _work(task: _Task, journal: Journal, ended: queue.Queue[_Ended]) -> None:
    step, node = task.step, task.node
    error: BaseException | None = None
    skipped, note = False, ""
    began = time.monotonic()
    try:
        # Another command may have taken over while this one waited or slept.
        claim.check()
        with timings.span(step.title, f"{node.name} steps" if node else "steps", kind=timings.STEP, clean=log.hidden):
            skipped, note = _act(step, node, journal)
    except BaseException as failure:
        error = failure
        if isinstance(failure, SlipwayError):
            log.debug(f"{step.id} failed: {failure.message}")
    log.debug(f"{step.id} {node.name if node else 'here'}: {time.monotonic() - began:.2f} s{' (skipped)' if skipped else ''}")
    ended.put(_Ended(task, error, skipped, note))


def _act(step: Step, node: Node | None, journal: Journal) -> tuple[bool, str]:
    """Do a step on one node, or here without one. Return True for a step that was done before, and its note."""
    if node is None:
        return False, _text(step.action())
    inputs = step.inputs(node) if step.inputs else None
    if inputs is not None and journal.has(node, step.id, inputs):
        return True, ""
    note = _text(step.action(node))
    if inputs is not None:
        journal.add(node, step.id, inputs)
    return False, note


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _order(steps: Sequence[Step]) -> graphlib.TopologicalSorter[_Task]:
    order: graphlib.TopologicalSorter[_Task] = graphlib.TopologicalSorter()
    tasks: dict[str, dict[str, _Task]] = {}
    for step in steps:
        tasks[step.id] = {node.address: _Task(step, node) for node in step.nodes} or {"": _Task(step, None)}
        for address, task in tasks[step.id].items():
            order.add(task, *_before(step, address, tasks))
    order.prepare()
    return order


def _before(step: Step, address: str, tasks: dict[str, dict[str, _Task]]) -> Iterable[_Task]:
    for name in step.needs:
        others = tasks[name]
        if name not in step.after_all and address in others:
            yield others[address]
        else:
            yield from others.values()
