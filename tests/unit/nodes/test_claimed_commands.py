"""Commands under a claim, as a machine gets them and as it refuses them. No ssh runs here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandError, LeaseLostError
from harness.nodes import Machine, claim
from harness.nodes.claim import ClusterClaim
from harness.nodes.ssh import SshConnections, SshNode
from harness.process import ProcessResult


class Machines:
    """Takes the place of the door to programs: keeps the commands, and answers all of them alike."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.code, self.errors = 0, ""

    def run(self, argv: Any, **_: Any) -> ProcessResult:
        self.commands.append(str(argv[-1]))
        return ProcessResult((), self.code, "", self.errors)

    def stream(self, argv: Any, take: process.Take, **_: Any) -> int:
        self.commands.append(str(argv[-1]))
        for line in self.errors.splitlines():
            take("stderr", line)
        return self.code


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Machines:
    made = Machines()
    monkeypatch.setattr(process, "run", made.run)
    monkeypatch.setattr(process, "stream", made.stream)
    return made


@pytest.fixture
def node(tmp_path: Path) -> SshNode:
    return SshConnections(tmp_path / "c", [Machine("10.0.0.1")]).nodes[0]


@pytest.fixture
def held() -> Iterator[ClusterClaim]:
    with claim.holding() as made:
        yield made


WAYS = ("run", "fetch", "stream", "put", "get")


def send(node: SshNode, way: str, folder: Path) -> None:
    if way == "fetch":
        with (folder / "fetched").open("wb") as file:
            node.fetch("true", file, limit=10)
    elif way == "stream":
        node.stream("true", lambda *_: None)
    elif way == "put":
        node.put(b"", "/etc/x")
    else:
        getattr(node, way)("true")


@pytest.mark.parametrize("way", WAYS)
def test_command_under_claim_carries_its_id_and_is_fenced_from_second_command(
    way: str, node: SshNode, machines: Machines, held: ClusterClaim, tmp_path: Path
) -> None:
    send(node, way, tmp_path)
    first = machines.commands[0]
    assert held.id in first
    assert f"exit {claim.REFUSED}" not in first
    send(node, way, tmp_path)
    assert held.id in machines.commands[-1]
    assert f"exit {claim.REFUSED}" in machines.commands[-1]


@pytest.mark.parametrize("way", WAYS)
def test_command_refused_by_machine_marks_claim_lost_and_blocks_later_commands(
    way: str, node: SshNode, machines: Machines, held: ClusterClaim, tmp_path: Path
) -> None:
    machines.code, machines.errors = claim.REFUSED, claim.MARK
    with pytest.raises(LeaseLostError, match="another command has taken over"):
        send(node, way, tmp_path)
    assert held.lost == "another command"
    sent = len(machines.commands)
    with pytest.raises(LeaseLostError):
        send(node, way, tmp_path)
    assert len(machines.commands) == sent


def test_command_with_refusal_exit_code_but_without_mark_raises_command_error(
    node: SshNode, machines: Machines, held: ClusterClaim
) -> None:
    machines.code, machines.errors = claim.REFUSED, "its own words"
    with pytest.raises(CommandError, match="exit code 76"):
        node.run("exit 76")
    assert not held.lost


def test_command_without_a_claim_is_sent_as_it_is(node: SshNode, machines: Machines) -> None:
    node.run("true")
    assert machines.commands == ["sh -c true"]
