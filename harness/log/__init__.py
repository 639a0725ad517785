"""Progress for the user: one line a step, with its time. Results go to stdout, everything here to stderr.

Titles, notes and lines may hold what machines, images and registries say: control characters are escaped where they are shown.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

from harness.log import timings
from harness.untrusted import shown

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table


@dataclasses.dataclass
class ProgressStep:
    """One unit of work that is being shown. ``note`` may be changed while it runs; it stands behind the title."""

    title: str
    depth: int
    started: float
    note: str = ""
    seconds: float | None = None
    reported: float | None = None
    """When ``running`` last printed a line about it."""


class Display(Protocol):
    def begin(self, step: ProgressStep) -> None: ...
    def running(self, step: ProgressStep) -> None: ...
    def end(self, step: ProgressStep, *, failed: bool) -> None: ...
    def line(self, text: str, style: str = "") -> None: ...


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def size(count: float) -> str:
    """``512 B``, ``3.4 MB``, ``250 MB``, ``1.2 GB``: decimal units, as registries and disks count."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 9.95 or unit == "B" else f"{value:.1f} {unit}"


class Plain:
    """Timed lines for logs and CI: a line when a step ends, when it begins if it is the outermost, and once a minute while a long one
    reports that it is running.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self, step: ProgressStep) -> None:
        if step.depth == 0:
            self.console.print(f"- {shown(step.title)} ...", markup=False, highlight=False, soft_wrap=True)

    def running(self, step: ProgressStep) -> None:
        self._about(step, "-", f"{duration(time.monotonic() - step.started)} ...")

    def end(self, step: ProgressStep, *, failed: bool) -> None:
        self._about(step, "x" if failed else "+", duration(step.seconds or 0))

    def _about(self, step: ProgressStep, mark: str, time_taken: str) -> None:
        note = f" ({_note(step)})" if step.note else ""
        text = f"{'  ' * step.depth}{mark} {shown(step.title)}{note} {time_taken}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(shown(text, lines=True), style=style, markup=False, highlight=False, soft_wrap=True)


class Terminal:
    """A live display: finished steps stay in the scrollback, running ones spin below them. Its parts are loaded when a step is shown."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown: list[ProgressStep] = []
        self.live: Live | None = None
        self.lock = threading.RLock()

    def _table(self) -> Table:
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for step in list(self.shown):
            label = Text("  " * step.depth + shown(step.title) + (f"  {_note(step)}" if step.note else ""))
            table.add_row(Spinner("dots"), label, Text(duration(time.monotonic() - step.started), style="dim"))
        return table

    def begin(self, step: ProgressStep) -> None:
        from rich.live import Live

        with self.lock:
            self.shown.append(step)
            if self.live is None:
                self.live = Live(get_renderable=self._table, console=self.console, refresh_per_second=8, transient=True)
                self.live.start()

    def running(self, step: ProgressStep) -> None:
        """It spins, with its note."""

    def end(self, step: ProgressStep, *, failed: bool) -> None:
        from rich.text import Text

        with self.lock:
            self.shown.remove(step)
            mark = Text("✗ ", style="red") if failed else Text("✓ ", style="green")
            text = Text("  " * step.depth) + mark + Text(shown(step.title))
            if step.note:
                text.append(f"  {_note(step)}", style="dim")
            text.append(f"  {duration(step.seconds or 0)}", style="dim")
            self.console.print(text, soft_wrap=True)
            if not self.shown and self.live is not None:
                self.live.stop()
                self.live = None

    def line(self, text: str, style: str = "") -> None:
        with self.lock:
            self.console.print(shown(text, lines=True), style=style, markup=False, highlight=False, soft_wrap=True)


class Null:
    """Says nothing (``--quiet``, and tests)."""

    def begin(self, step: ProgressStep) -> None: ...
    def running(self, step: ProgressStep) -> None: ...
    def end(self, step: ProgressStep, *, failed: bool) -> None: ...
    def line(self, text: str, style: str = "") -> None: ...


@dataclasses.dataclass
class _State:
    display: Display
    verbose: bool = False


_state = _State(Plain(Console(stderr=True)))
_nesting = threading.local()
finished: list[ProgressStep] = []
"""Steps that ended, in order: the breakdown that a verb prints at its end."""


_EVERY = 60.0
"""Seconds between two lines about a step that is running."""

GONE = "***"
_SHORTEST = 5
"""Letters of a secret that is replaced wherever it stands: a shorter one is part of other words."""
_hidden: dict[str, None] = {}


def hide(*secrets: str | None) -> None:
    """Never show these values again, whatever text they are in: as they are, in base64, quoted for JSON or for a URL."""
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST:
            forms = (secret, json.dumps(secret)[1:-1], urllib.parse.quote(secret, safe=""), base64.b64encode(secret.encode()).decode())
            _hidden.update(dict.fromkeys(forms))


def hidden(text: str) -> str:
    """The text without the values passed to ``hide``."""
    # The longest first: one may be part of another.
    for secret in sorted(_hidden, key=len, reverse=True):
        text = text.replace(secret, GONE)
    return text


def _note(step: ProgressStep) -> str:
    """A note as it is displayed. It changes while the step runs, and may be the output of a program."""
    return shown(hidden(step.note))


def setup(*, quiet: bool = False, verbose: bool = False) -> None:
    """Choose the display: nothing, plain lines, or live when standard error is a terminal."""
    console = Console(stderr=True)
    live = console.is_terminal and not verbose
    _state.display = Null() if quiet else Terminal(console) if live else Plain(console)
    _state.verbose = verbose


def info(text: str) -> None:
    _state.display.line(hidden(text))


def warning(text: str) -> None:
    _state.display.line(f"warning: {hidden(text)}", style="yellow")


def running(step: ProgressStep) -> None:
    """Report that a long step is under way, as often as its work advances: in a log, a line with its note about once a minute."""
    now = time.monotonic()
    if now - (step.started if step.reported is None else step.reported) >= _EVERY:
        step.reported = now
        _state.display.running(step)


def is_verbose() -> bool:
    return _state.verbose


def debug(text: str) -> None:
    """A line for ``--verbose``: commands, requests. Never hand a secret to it."""
    if _state.verbose:
        _state.display.line(f"  > {hidden(text)}", style="dim")


@contextlib.contextmanager
def step(title: str) -> Iterator[ProgressStep]:
    """Show ``title`` while the block runs, and how long it took when it ends. Nests; safe in threads."""
    depth = getattr(_nesting, "depth", 0)
    now = ProgressStep(hidden(title), depth, time.monotonic())
    _nesting.depth = depth + 1
    _state.display.begin(now)
    failed = True
    try:
        with _lane(now):
            yield now
        failed = False
    finally:
        _nesting.depth = depth
        now.seconds = time.monotonic() - now.started
        finished.append(now)
        _state.display.end(now, failed=failed)
        sys.stderr.flush()


@contextlib.contextmanager
def _lane(now: ProgressStep) -> Iterator[None]:
    """Steps within steps are drawn below each other."""
    with timings.span(now.title, f"steps {now.depth + 1}", kind=timings.SHOWN) as kept:
        try:
            yield
        finally:
            kept["note"] = hidden(now.note)
