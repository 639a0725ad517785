"""The guard of this ring: a unit test starts no process, opens no connection and talks to no engine."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3  # noqa: F401 -- tries out a socket while it is imported, so that must be over before the first test

from harness.clusterfile import secrets
from harness.oci.store import Store
from harness.templates import jinja

FORBIDDEN = {
    "subprocess.Popen": "starts a process",
    "os.system": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.spawn": "starts a process",
    "os.exec": "starts a process",
    "os.fork": "starts a process",
    "os.forkpty": "starts a process",
    "pty.spawn": "starts a process",
    "socket.connect": "opens a connection",
    "socket.bind": "listens",
    "socket.sendto": "sends a packet",
    "socket.getaddrinfo": "asks for an address",
    "socket.gethostbyname": "asks for an address",
}
"""Audit events (see the table in Python's documentation), and what they mean."""


class _Guard:
    """An audit hook cannot be taken away again, so it looks whether a test of this folder is running."""

    def __init__(self) -> None:
        self.watches = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.watches and event in FORBIDDEN:
            # Not an ordinary exception: code that swallows those must not hide it.
            pytest.fail(f"a unit test {FORBIDDEN[event]} ({event}: {str(arguments)[:200]}); such tests belong into tests/integration")


_guard = _Guard()
sys.addaudithook(_guard)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    """Around fixtures and tests of this folder."""
    _guard.watches = True
    try:
        return (yield)
    finally:
        _guard.watches = False


@pytest.fixture(autouse=True)
def own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords of one test are ordinary words of the next; verbosity, the format of the output and a login are settings of one command."""
    from rich.console import Console

    from harness import log

    monkeypatch.setattr(log, "_hidden", {})
    monkeypatch.setattr(log, "_state", log._State(log.Plain(Console(stderr=True))))
    # Only where it is loaded already: most tests of this ring need no command line.
    if app := sys.modules.get("harness.cli.app"):
        monkeypatch.setattr(app, "_state", app._State())
    if access := sys.modules.get("harness.lifecycle.cluster.access"):
        access.give(access.GivenLogin())


@pytest.fixture(autouse=True)
def hasty_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written need not outlive a power cut: waiting for the disk was most of the time that these tests took."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of the engine is refused when it is made, not only when it connects."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a unit test talks to the Docker engine; such tests belong into tests/integration")

    docker = sys.modules.get("docker")
    if docker is not None:
        monkeypatch.setattr(docker.APIClient, "__init__", refuse)


@pytest.fixture(scope="session", autouse=True)
def own_sockets() -> Iterator[None]:
    """Shared connections of commands on this machine that were killed are nothing that a unit test should end."""
    with tempfile.TemporaryDirectory(prefix="u-", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_RUNTIME_DIR", folder)
        yield


@pytest.fixture(autouse=True)
def declared_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that the image of one test calls secret are not secrets of the next."""
    monkeypatch.setattr(secrets, "_declared", set())


@pytest.fixture(autouse=True)
def jinja_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jinja is rendered in the process of the test, since it may start none."""
    monkeypatch.setattr(
        "harness.templates.jinja_process.evaluate_apart", lambda requests: [jinja.evaluate(**request) for request in requests]
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")
