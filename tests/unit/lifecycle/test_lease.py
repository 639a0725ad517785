"""One at a time works on machines, also before they are a cluster."""

from __future__ import annotations

import shlex
import socket
from typing import Any

import pytest

from harness.errors import CommandError, NodeError, UsageError
from harness.lifecycle import lease
from harness.process import Result
from tests.unit.lifecycle.standin import StandIn


class Master(StandIn):
    """Keeps who is at work, as the script on a machine does."""

    def __init__(self, address: str, there: str = "") -> None:
        super().__init__(address)
        self.there = there

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> Result:
        super().run(command, input=input, check=check, timeout=timeout)
        said = dict(word.rstrip(";").split("=", maxsplit=1) for word in shlex.split(command) if word.startswith(("who=", "instead=")))
        if "rm -f" in command and self.there == said["who"]:
            self.there = ""
        elif "flock" in command:
            if self.there not in ("", said["who"], said["instead"]):
                return Result((), lease._TAKEN, f"{self.there}\n2026-01-01T00:00:00Z\n", "")
            self.there = said["who"]
        return Result((), 0, "", "")


def test_who_works_on_machines_is_noted_on_each_and_taken_back() -> None:
    masters = [Master("10.0.0.2"), Master("10.0.0.1")]
    with lease.claimed(masters, "lab"):
        assert [master.there for master in masters] == [lease.holder()] * 2
    assert [master.there for master in masters] == ["", ""]


def test_the_second_is_told_and_takes_nothing() -> None:
    masters = [Master("10.0.0.1"), Master("10.0.0.2", there="ops@elsewhere:7"), Master("10.0.0.3")]
    with pytest.raises(UsageError, match="ops@elsewhere:7 is changing the cluster lab since 2026-01-01"), lease.claimed(masters, "lab"):
        pytest.fail("it was let in")
    assert [master.there for master in masters] == ["", "ops@elsewhere:7", ""]
    assert masters[2].commands == []


def test_a_command_of_this_machine_that_was_killed_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(process: int, signal: int) -> None:
        raise ProcessLookupError

    monkeypatch.setattr("os.kill", kill)
    master = Master("10.0.0.1", there=f"ops@{socket.gethostname()}:4711")
    with lease.claimed([master], "lab"):
        assert master.there == lease.holder()


def test_a_machine_that_cannot_note_it_is_told() -> None:
    class Broken(StandIn):
        def run(self, command: str, **_: Any) -> Result:
            return Result((), 1, "", "Read-only file system")

    with pytest.raises(CommandError, match="it could not be noted who is at work"), lease.claimed([Broken()], "lab"):
        pytest.fail("it was let in")


def test_a_machine_that_is_lost_meanwhile_does_not_hide_what_happened() -> None:
    class Lost(Master):
        def run(self, command: str, **more: Any) -> Result:
            if "rm -f" in command:
                raise NodeError("10.0.0.1: the connection was lost")
            return super().run(command, **more)

    with pytest.raises(ValueError, match="what happened"), lease.claimed([Lost("10.0.0.1")], "lab"):
        raise ValueError("what happened")
