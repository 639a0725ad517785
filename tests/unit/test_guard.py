"""The ring's own guard: what a unit test may not do fails it, whatever catches exceptions on the way."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Callable

import docker
import pytest

from harness import process


def _connect() -> None:
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


def _listen() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))


def _client() -> None:
    docker.APIClient(base_url="unix:///nowhere")


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda: process.run(["true"]),
        lambda: subprocess.Popen(["true"]),
        lambda: os.system("true"),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        os.fork,
        _connect,
        _listen,
        lambda: socket.getaddrinfo("localhost", 80),
        _client,
    ],
)
def test_guard_forbidden_call_fails_test(forbidden: Callable[[], object]) -> None:
    with pytest.raises(pytest.fail.Exception, match="belong into tests/integration"):
        forbidden()


def test_guard_failure_passes_through_code_that_swallows_exceptions() -> None:
    def careless() -> None:
        try:
            process.run(["true"])
        except Exception:
            return

    with pytest.raises(pytest.fail.Exception, match="starts a process"):
        careless()


def test_guard_event_loop_is_allowed() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert asyncio.run(answer()) == 42
