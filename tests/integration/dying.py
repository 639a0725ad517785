"""Processes that are killed at a moment that a test chooses, which is counted in what they do to files: load does not change it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

EVENTS = frozenset({"open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree", "fcntl.flock"})
"""Audit events of Python that are counted."""

# The command line, counted or killed: python -c PROGRAM COUNT FILE BELOW WORDS...
PROGRAM = """
import sys
from pathlib import Path
from tests.integration import dying
count, file, below = int(sys.argv.pop(1)), Path(sys.argv.pop(1)), sys.argv.pop(1)
from harness.cli import app
dying.arm(count, file, below)
sys.exit(app.execute(sys.argv[1:]))
"""


def arm(count: int, file: Path, below: str = "") -> None:
    """Kill this process at its event number ``count``; with 0 keep in ``file`` how many there were.

    With ``below`` only those events count whose path has it: not what Python itself reads.
    """
    seen = 0
    me = os.getpid()
    tally = os.open(file, os.O_WRONLY | os.O_CREAT) if not count else -1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in EVENTS or os.getpid() != me or below not in str(arguments[0]):
            return
        seen += 1
        if tally >= 0:
            os.pwrite(tally, str(seen).encode(), 0)
        elif seen == count:
            os.kill(me, signal.SIGKILL)

    sys.addaudithook(hook)


def command(count: int, file: Path, *words: str | Path, below: str = "") -> list[str]:
    """The command line as an argument list, armed."""
    return [sys.executable, "-c", PROGRAM, str(count), str(file), below, *map(str, words)]


def counted(file: Path) -> int:
    """How many events there were."""
    return int(file.read_text())
