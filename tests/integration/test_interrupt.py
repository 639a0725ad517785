"""Ctrl-C while machines or a registry do not answer: the process ends, whatever its threads wait for."""

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

def ask(_, end=None):
    os.write(1, b"asked\n")
    if sys.argv[1:] == ["here"]:
        # As when it arrives just before the main thread begins to wait: it is noted, and ends no wait.
        place = None
        while place != place_of_main_thread() or place[0] != "wait":
            place = place_of_main_thread()
            time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    (end or threading.Event()).wait()
"""
IN_THE_MAIN_THREAD = "each([1, 2], ask)"
IN_A_STEP = """
from harness.lifecycle.plan import Step, execute
execute([Step("ask", "ask the machines", lambda: each([1, 2], ask))])
"""


IN_A_BUILD = """
import pathlib
import tempfile
from types import SimpleNamespace
from harness.build import image_set
from harness.errors import StoreError
from harness.oci.model import Platform
from harness.oci.registry.manifest import Manifest
from harness.oci.store import Store
from tests.unit.oci import memory

image = memory.made("a")

class SilentBlob:
    size = 100

    def __init__(self):
        self.ended = threading.Event()

    def read(self, _):
        ask(None, self.ended)
        raise StoreError("it was ended")

    def close(self):
        pass

    def abort(self):
        self.ended.set()

class SilentRegistry(memory.Memory):
    def blob(self, reference, digest, size):
        return SilentBlob() if digest == memory.layer_of(image) else super().blob(reference, digest, size)

with tempfile.TemporaryDirectory() as folder:
    wanted = [SimpleNamespace(name="test.io/a:1", where="Kubefile:1")]
    image_set.collect(
        (), wanted, store=Store(pathlib.Path(folder)), sources=[SilentRegistry(a=image)], platform=Platform.parse("linux/amd64")
    )
"""


IN_A_PULL = """
import pathlib
import socket
import tempfile
from harness.oci.reference import Reference
from harness.oci.registry.errors import RetryPolicy
from harness.oci.registry.referrers import LocalReferrers, RemoteReferrers
from harness.oci.store import Store
from harness.transfer import access, attachments
from tests.waiting import HANG

def serve(listening):
    while True:
        kept.append(listening.accept())
        threading.Thread(target=ask, args=[None], daemon=True).start()

kept = []
with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listening:
    threading.Thread(target=serve, args=[listening], daemon=True).start()
    image = Reference("127.0.0.1:" + str(listening.getsockname()[1]), "web", None, "sha256:" + "0" * 64)
    patient = RetryPolicy(read=HANG * 10, rate_window=HANG * 10)
    with access.client(access.RegistryAccess(plain_http=True), retry=patient) as client:
        local = LocalReferrers(Store(pathlib.Path(folder)), image)
        attachments.copy_referrers(RemoteReferrers(client, image), local, image.digest)
"""


PLACES = pytest.mark.parametrize(
    "place", [IN_THE_MAIN_THREAD, IN_A_STEP, IN_A_BUILD, IN_A_PULL], ids=["main thread", "step", "build", "pull"]
)


@PLACES
def test_ctrl_c_while_machines_or_registry_are_silent_ends_process(place: str) -> None:
    assert _ended(place, lambda running: running.send_signal(signal.SIGINT)) == -signal.SIGINT


@PLACES
def test_ctrl_c_that_another_thread_takes_ends_process(place: str) -> None:
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
