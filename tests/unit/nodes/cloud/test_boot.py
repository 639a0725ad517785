"""The wait for the first boot of machines. Their connections are stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import pytest

from harness.errors import CommandError, NodeError
from harness.nodes import Login
from harness.nodes.cloud import CloudError, boot

NAMES = {"10.0.0.1": "lab-worker-1", "10.0.0.2": "lab-worker-2"}


class BootingNode:
    """A machine whose connection is lost ``lost`` times while cloud-init runs."""

    def __init__(self, address: str, lost: int) -> None:
        self.address, self.lost, self.named = address, lost, 0
        self.error: Exception = NodeError(f"{address}: the connection was lost")

    def run(self, command: str, **_: Any) -> None:
        if self.lost:
            self.lost -= 1
            raise self.error
        self.named += NAMES[self.address] in command


class Connections:
    def __init__(self, *nodes: BootingNode) -> None:
        self.nodes = nodes
        self.asked: list[tuple[BootingNode, ...]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def reachable(self, among: tuple[BootingNode, ...]) -> Any:
        self.asked.append(among)
        return among, {}


def connections(monkeypatch: pytest.MonkeyPatch, *lost: int) -> Connections:
    monkeypatch.setattr("time.sleep", lambda _: None)
    made = Connections(*(BootingNode(address, times) for address, times in zip(NAMES, lost, strict=True)))
    monkeypatch.setattr(boot, "SshConnections", lambda *_: made)
    return made


def test_wait_lost_connection_is_tried_again_for_that_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = connections(monkeypatch, 0, 2)
    boot.wait(NAMES, Login(), tmp_path, lambda: None)
    first, second = made.nodes
    assert (first.named, second.named) == (1, 1)
    assert made.asked == [(first, second), (second,), (second,)]


def test_wait_connection_lost_until_deadline_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connections(monkeypatch, 0, 1000)
    monkeypatch.setattr(boot, "BOOT_TIMEOUT", -1)
    with pytest.raises(CloudError, match="1 of 2 machines did not boot") as silent:
        boot.wait(NAMES, Login(), tmp_path, lambda: None)
    assert silent.value.details == "lab-worker-2: 10.0.0.2: the connection was lost"


def test_wait_failed_command_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = connections(monkeypatch, 0, 1)
    made.nodes[1].error = CommandError("exit code 1")
    with pytest.raises(CommandError):
        boot.wait(NAMES, Login(), tmp_path, lambda: None)
