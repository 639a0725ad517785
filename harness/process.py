"""The one door to other programs: argv lists, captured output in the error, logged as a line that one can paste."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
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
) -> Result:
    """Run a program to its end.

    ``input`` is text, bytes or an open file for its standard input (else empty); ``env`` is added to ours; ``timeout`` in seconds.
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
            capture_output=True,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as missing:
        raise CommandError(f"{words[0]}: no such program", hint=f"install {words[0]} or put it on PATH") from missing
    except subprocess.TimeoutExpired as late:
        raise CommandError(f"{shlex.join(words)}: not done after {timeout:g} s") from late
    result = Result(words, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
    if check and not result.ok:
        raise CommandError(f"{shlex.join(words)}: exit code {result.returncode}", details=result.output)
    return result
