"""Commands of tests: kept with their output, bounded, without secrets."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.testkit import evidence
from harness.testkit.evidence import EvidenceRecorder


def test_recorder_take_hands_out_commands_once() -> None:
    recorder = EvidenceRecorder()
    recorder.note("m0", "uptime", "up\n", 0, 0.1234)
    ((command,), more) = recorder.take()
    assert (command.where, command.command, command.output, command.code, command.seconds, more) == ("m0", "uptime", "up", 0, 0.123, 0)
    assert recorder.take() == ([], 0)


def test_recorder_inactive_keeps_nothing() -> None:
    recorder = EvidenceRecorder(active=False)
    with recorder.timed("m0", "uptime") as result:
        result["output"] = "up"
    assert recorder.take() == ([], 0)


def test_recorder_secrets_of_command_and_output_are_replaced() -> None:
    recorder = EvidenceRecorder()
    recorder.note("m0", "curl --user admin:sesame-sesame http://web/", "DB_PASSWORD=hunter2hunter2")
    ((command,), _) = recorder.take()
    assert "sesame" not in command.command
    assert "hunter2" not in command.output


def test_recorder_same_command_in_succession_is_kept_once_with_last_output() -> None:
    recorder = EvidenceRecorder()
    for number in range(5):
        recorder.note("m0", "cat /count", str(number), 0, 0.5)
    recorder.note("n0", "cat /count", "other", 0)
    first, second = recorder.take()[0]
    assert (first.times, first.output, first.seconds) == (5, "4", 2.5)
    assert (second.times, second.output) == (1, "other")


def test_recorder_commands_beyond_limit_are_counted() -> None:
    recorder = EvidenceRecorder()
    for number in range(evidence.MOST + 3):
        recorder.note("m0", f"echo {number}", "")
    commands, more = recorder.take()
    assert (len(commands), more) == (evidence.MOST, 3)


def test_recorder_full_report_keeps_commands_without_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_ALL", 10)
    recorder = EvidenceRecorder()
    for number in range(3):
        recorder.note("m0", f"echo {number}", "x" * 20)
    assert [command.output[:9] for command in recorder.take()[0]] == ["x" * 9, "(not kept", "(not kept"]


def test_recorder_timed_command_that_raises_is_kept() -> None:
    recorder = EvidenceRecorder()
    with pytest.raises(ValueError, match="x"), recorder.timed("m0", "reboot"):
        raise ValueError("x")
    ((command,), _) = recorder.take()
    assert (command.command, command.code) == ("reboot", None)


@dataclasses.dataclass
class Answer:
    """A result of testinfra."""

    rc: int
    stdout_bytes: bytes
    stderr_bytes: bytes


class Backend:
    """A backend of testinfra."""

    def run(self, command: str, *args: str, **options: Any) -> Answer:
        return Answer(3, b"out \xff\n", b"err\n")


def test_recorder_watched_backend_keeps_quoted_command_and_both_streams() -> None:
    recorder, backend = EvidenceRecorder(), Backend()
    recorder.watch(backend, "m0")
    assert backend.run("test -e %s", "/a b").rc == 3
    ((command,), _) = recorder.take()
    assert (command.where, command.command, command.output, command.code) == ("m0", "test -e '/a b'", "out \ufffd\nerr", 3)


def test_recorder_watched_backend_command_with_percent_sign_and_no_arguments_is_kept_unchanged() -> None:
    recorder, backend = EvidenceRecorder(), Backend()
    recorder.watch(backend, "m0")
    backend.run("date +%s")
    assert recorder.take()[0][0].command == "date +%s"
