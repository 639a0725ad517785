"""Ctrl-C while machines do not answer: the process ends, whatever its threads wait for."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.integration.test_build import heed_ctrl_c
from tests.waiting import HANG

# A machine that never answers.
SILENT = r"""
import os
import threading
from harness.nodes import each

def ask(_):
    os.write(1, b"asked\n")
    threading.Event().wait()
"""
IN_THE_MAIN_THREAD = "each([1, 2], ask)"
IN_A_STEP = """
from harness.lifecycle.plan import Step, execute
execute([Step("ask", "ask the machines", lambda: each([1, 2], ask))])
"""


@pytest.mark.parametrize("place", [IN_THE_MAIN_THREAD, IN_A_STEP], ids=["main thread", "step"])
def test_nodes_each_ctrl_c_while_machines_are_silent_ends_process(place: str) -> None:
    argv = [sys.executable, "-c", f"{SILENT}\n{place}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == b"asked\n"
            running.send_signal(signal.SIGINT)
            running.wait(HANG)  # not its pipe: a thread may be printing
        finally:
            running.kill()
    assert running.returncode == -signal.SIGINT
