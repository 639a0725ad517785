"""Ctrl-C while machines do not answer: the process ends, whatever its threads wait for."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.integration.test_build import heed_ctrl_c
from tests.waiting import HANG

# A machine that never answers.
SILENT = r"""
import os
import signal
import sys
import threading
import time
from harness.nodes import each

def place_of_main_thread():
    frame = sys._current_frames()[threading.main_thread().ident]
    return frame.f_code.co_name, frame.f_lasti

def ask(_):
    os.write(1, b"asked\n")
    if sys.argv[1:] == ["here"]:
        # As when it arrives just before the main thread begins to wait: it is noted, and ends no wait.
        place = None
        while place != place_of_main_thread() or place[0] != "wait":
            place = place_of_main_thread()
            time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    threading.Event().wait()
"""
IN_THE_MAIN_THREAD = "each([1, 2], ask)"
IN_A_STEP = """
from harness.lifecycle.plan import Step, execute
execute([Step("ask", "ask the machines", lambda: each([1, 2], ask))])
"""


PLACES = pytest.mark.parametrize("place", [IN_THE_MAIN_THREAD, IN_A_STEP], ids=["main thread", "step"])


@PLACES
def test_nodes_each_ctrl_c_while_machines_are_silent_ends_process(place: str) -> None:
    assert _ended(place, lambda running: running.send_signal(signal.SIGINT)) == -signal.SIGINT


@PLACES
def test_nodes_each_ctrl_c_that_another_thread_takes_ends_process(place: str) -> None:
    assert _ended(place, lambda _: None, "here") == -signal.SIGINT


def _ended(place: str, interrupt: Callable[[subprocess.Popen[bytes]], None], *words: str) -> int:
    """The exit code of a process that asks machines, once they have been asked and ``interrupt`` was called."""
    argv = [sys.executable, "-c", f"{SILENT}\n{place}", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"asked\n"
            interrupt(running)
            running.wait(HANG)  # not its pipe: a thread may be printing
        finally:
            running.kill()
    return running.returncode
