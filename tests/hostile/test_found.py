"""Inputs that fuzzing found once: each is tried again."""

from __future__ import annotations

import subprocess
import sys


def test_fuzz_replay_of_recorded_inputs_finds_no_fault() -> None:
    """In a process of its own, whose memory is limited."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", "--replay"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr[-2000:]}"
