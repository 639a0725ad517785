"""Commands that tests run on the machines of a cluster, with their output, for the report of the run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any

from harness.report import text
from harness.report.model import ShownCommand

MOST = 40
"""Commands of one test that are kept; more are counted."""
OUTPUT = 4000
"""Characters of the output of one command."""
_COMMAND = 2000
"""Characters of a command."""
_ALL = 4 << 20
"""Characters of all outputs together; what comes later is kept without."""


class EvidenceRecorder:
    """Keeps what the running test does; ``take`` hands it out. Safe in threads, as tests may have some.

    Without ``active`` it keeps nothing: no report is wanted.
    """

    def __init__(self, *, active: bool = True) -> None:
        self._active = active
        self._commands: list[ShownCommand] = []
        self._more = 0
        self._size = 0
        self._lock = threading.Lock()

    def note(self, where: str, command: str, output: str, code: int | None = None, seconds: float = 0.0, *, most: int = OUTPUT) -> None:
        """Keep a command, or other evidence without an exit code. Secrets are taken out of both texts."""
        if not self._active:
            return
        shown = ShownCommand(where, text.clean(command, _COMMAND), text.clean(output, most).rstrip(), code, round(seconds, 3))
        with self._lock:
            if self._size > _ALL and shown.output:
                shown = dataclasses.replace(shown, output="(not kept: the report is full)")
            last = self._commands[-1] if self._commands else None
            if last is not None and (last.where, last.command) == (shown.where, shown.command):
                # A test that waits for something asks for it again and again.
                self._size -= len(last.output)
                shown = dataclasses.replace(shown, times=last.times + 1, seconds=round(last.seconds + shown.seconds, 3))
                self._commands.pop()
            elif len(self._commands) >= MOST:
                self._more += 1
                return
            self._size += len(shown.output)
            self._commands.append(shown)

    def take(self) -> tuple[list[ShownCommand], int]:
        """Return the commands since the last call, and the number of those that were not kept."""
        with self._lock:
            kept, self._commands = self._commands, []
            more, self._more = self._more, 0
        return kept, more

    @contextlib.contextmanager
    def timed(self, where: str, command: str, *, most: int = OUTPUT) -> Iterator[dict[str, Any]]:
        """Keep a command that the block runs; it puts ``output`` and ``code`` into the mapping."""
        started = time.monotonic()
        result: dict[str, Any] = {"output": "", "code": None}
        try:
            yield result
        finally:
            self.note(where, command, str(result["output"]), result["code"], time.monotonic() - started, most=most)

    def watch(self, backend: Any, where: str) -> None:
        """Keep what the backend of a testinfra host runs from now on, whichever of its modules runs it."""
        run = backend.run

        @functools.wraps(run)
        def watched(command: str, *args: str, **options: Any) -> Any:
            with self.timed(where, _command(command, args)) as result:
                answer = run(command, *args, **options)
                result["output"], result["code"] = _output(answer), answer.rc
            return answer

        backend.run = watched


def _command(command: str, args: tuple[str, ...]) -> str:
    """A command as testinfra puts it together."""
    return command % tuple(shlex.quote(argument) for argument in args) if args else command


def _output(answer: Any) -> str:
    """Both streams of a result of testinfra; bytes that are not text are replaced."""
    streams = (answer.stdout_bytes, answer.stderr_bytes)
    return "\n".join(part for stream in streams if (part := stream.decode(errors="replace").rstrip()))
