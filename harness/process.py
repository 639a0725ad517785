"""The one door to other programs: argv lists, captured output in the error, logged as a line that one can paste."""

from __future__ import annotations

import dataclasses
import os
import selectors
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from harness import log
from harness.errors import CommandError


@dataclasses.dataclass(frozen=True)
class Result:
    """What a program said. ``stdout`` and ``stderr`` are text, undecodable bytes replaced."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def output(self) -> str:
        """Both streams, standard output first, without the blank edges."""
        return "\n".join(part for part in (self.stdout.strip(), self.stderr.strip()) if part)


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    input: str | bytes | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float | None = None,
    output: IO[bytes] | None = None,
) -> Result:
    """Run a program to its end.

    ``input`` is text, bytes or an open file for its standard input (else empty); ``env`` is added to ours; ``timeout`` in seconds;
    standard output goes to the open file ``output`` when there is one, and is empty in the result.
    Raises CommandError when the program is missing or too slow and, with ``check``, when it ends with anything but 0.
    """
    words = tuple(str(word) for word in argv)
    log.debug(shlex.join(words))
    stream = input if input is not None and not isinstance(input, str | bytes) else None
    data = input.encode() if isinstance(input, str) else input if isinstance(input, bytes) else None
    if stream is None and data is None:
        data = b""
    try:
        done = subprocess.run(
            words,
            stdin=stream,
            input=data,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.PIPE,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as missing:
        raise CommandError(f"{words[0]}: no such program", hint=f"install {words[0]} or put it on PATH") from missing
    except subprocess.TimeoutExpired as late:
        raise CommandError(f"{shlex.join(words)}: not done after {timeout:g} s") from late
    result = Result(words, done.returncode, (done.stdout or b"").decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and not result.ok:
        raise CommandError(f"{shlex.join(words)}: exit code {result.returncode}", details=result.output)
    return result


Take = Callable[[str, str], None]
"""Is given each line, without its end, and where it was said: ``stdout`` or ``stderr``."""

_LONGEST_LINE = 64 << 10
"""Bytes after which a line that does not end is handed on in parts."""


def stream(argv: Sequence[str | Path], take: Take, *, env: Mapping[str, str] | None = None, stop: threading.Event | None = None) -> int:
    """Run a program and hand its output on line by line while it runs; its exit code. Standard input is empty.

    When ``stop`` is set the program is ended. Raises CommandError when there is no such program.
    """
    words = tuple(str(word) for word in argv)
    log.debug(shlex.join(words))
    try:
        running = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env} if env else None,
        )
    except FileNotFoundError as missing:
        raise CommandError(f"{words[0]}: no such program", hint=f"install {words[0]} or put it on PATH") from missing
    with running:
        try:
            _hand_on(running, take, stop)
        except BaseException:
            running.terminate()
            raise
    return running.returncode


def _hand_on(running: subprocess.Popen[bytes], take: Take, stop: threading.Event | None) -> None:
    begun = {"stdout": b"", "stderr": b""}
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("stdout", running.stdout), ("stderr", running.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select(timeout=None if stop is None else 0.5):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                *whole, rest = (begun[key.data] + data).split(b"\n")
                if rest and (not data or len(rest) > _LONGEST_LINE):
                    whole, rest = [*whole, rest], b""
                begun[key.data] = rest
                for line in whole:
                    take(key.data, line.decode(errors="replace"))
            if stop is not None and stop.is_set():
                running.terminate()
                return
