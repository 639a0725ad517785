"""A home with canaries for each test, and machines that lie."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host import apt
from tests.hostile.canary import Home
from tests.hostile.sshd import Sshd, sshd


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    apt.ensure("ssh", "openssh-client")


@pytest.fixture
def home() -> Iterator[Home]:
    """A short path, as sockets of ssh lie below it."""
    root = Path(tempfile.mkdtemp(prefix="hst-", dir="/tmp"))
    try:
        yield Home(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Sshd]:
    """Two machines: a control-plane node at 127.0.0.1, a worker at 127.0.0.2."""
    with sshd(tmp_path, "127.0.0.1", "127.0.0.2") as server:
        yield server
