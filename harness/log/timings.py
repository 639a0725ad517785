"""Timeline of one command: its steps and what it ran on each node, in the JSON format of Chrome's trace viewer and Perfetto.

Nothing is kept unless ``record`` was called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import UsageError

_LONGEST = 200
"""Letters of a title. Scripts that nodes run are longer."""

STEP, COMMAND, SHOWN = "step", "command", "shown"
"""Kinds of spans: a step of a plan on one node, a command on a node, a step as it is displayed."""


@dataclasses.dataclass(frozen=True)
class KeptSpan:
    """One span. ``started`` is in seconds since the recorder began."""

    title: str
    lane: str
    kind: str
    started: float
    seconds: float
    failed: bool = False
    note: str = ""


class Recorder:
    """The spans of one process, in lanes: one for each thread that has steps, one for each connection at work on a node.

    ``path`` is the file that ``write`` fills; None for a timeline that is only read by ``spans``.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.started = time.monotonic()
        self._spans: list[dict[str, Any]] = []
        self._lanes: dict[tuple[str, int], int] = {}
        self._busy: set[int] = set()
        self._lock = threading.Lock()

    def add(self, title: str, lane: int, started: float, seconds: float, *, kind: str, failed: bool, note: str = "") -> None:
        """One span. ``started`` is in seconds of the monotonic clock."""
        span = {
            "name": title[:_LONGEST], "cat": kind, "ph": "X", "pid": os.getpid(), "tid": lane,
            "ts": round((started - self.started) * 1e6), "dur": round(seconds * 1e6),
            "args": {**({"note": note} if note else {}), **({"failed": True} if failed else {})},
        }  # fmt: skip
        with self._lock:
            self._spans.append(span)

    def lane(self, name: str) -> int:
        """A lane called ``name`` in which nothing runs now, so that spans of one lane never overlap. Give it back with ``leave``."""
        with self._lock:
            number = next(index for index in range(len(self._lanes) + 1) if self._lanes.get((name, index)) not in self._busy)
            lane_number = self._lanes.setdefault((name, number), len(self._lanes) + 1)
            self._busy.add(lane_number)
            return lane_number

    def leave(self, lane: int) -> None:
        with self._lock:
            self._busy.discard(lane)

    def spans(self) -> tuple[KeptSpan, ...]:
        """Return the spans until now, in the order in which they began."""
        with self._lock:
            lanes = {number: name for (name, _), number in self._lanes.items()}
            kept = [
                KeptSpan(
                    one["name"], lanes[one["tid"]], one["cat"], one["ts"] / 1e6, one["dur"] / 1e6,
                    failed="failed" in one["args"], note=one["args"].get("note", ""),
                )
                for one in self._spans
            ]  # fmt: skip
        return tuple(sorted(kept, key=lambda span: span.started))

    def document(self) -> dict[str, Any]:
        """Content of the file: times in microseconds since the start of the command."""
        with self._lock:
            names = [
                {"name": "thread_name", "ph": "M", "pid": os.getpid(), "tid": lane, "args": {"name": name}}
                for (name, _), lane in self._lanes.items()
            ]
            return {"traceEvents": [*names, *sorted(self._spans, key=lambda span: span["ts"])], "displayTimeUnit": "ms"}


@dataclasses.dataclass
class _State:
    recorder: Recorder | None = None


_state = _State()


def record(path: Path) -> None:
    """Keep a timeline from now on; ``write`` puts it into ``path``. Raises UsageError when nothing can be written there."""
    try:
        path.open("a").close()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="--timings takes a file that can be written") from error
    _state.recorder = Recorder(path)


def write() -> None:
    """Write what was kept, if ``record`` was called. Raises OSError."""
    recorder, _state.recorder = _state.recorder, None
    if recorder is not None and recorder.path is not None:
        recorder.path.write_text(json.dumps(recorder.document()) + "\n")


@contextlib.contextmanager
def kept() -> Iterator[Recorder]:
    """Keep a timeline of the block in memory, which no file gets."""
    former, _state.recorder = _state.recorder, Recorder()
    try:
        yield _state.recorder
    finally:
        _state.recorder = former


@contextlib.contextmanager
def span(title: str, lane: str, *, kind: str = COMMAND, clean: Callable[[str], str] = str) -> Iterator[dict[str, str]]:
    """Keep what the block takes, in the lane of that name. ``["note"]`` of the mapping that it gives is kept with it.

    ``clean`` takes secrets out of the title, and is called only where a timeline is recorded.
    """
    recorder, notes = _state.recorder, {"note": ""}
    if recorder is None:
        yield notes
        return
    number, started, failed = recorder.lane(lane), time.monotonic(), True
    try:
        yield notes
        failed = False
    finally:
        recorder.add(clean(title), number, started, time.monotonic() - started, kind=kind, failed=failed, note=notes["note"])
        recorder.leave(number)
