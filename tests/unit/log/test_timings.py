"""The timeline of a command: what it holds, and when it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import log
from harness.cli import app
from harness.errors import UsageError
from harness.log import timings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def spans(file: Path) -> list[dict[str, Any]]:
    return [event for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "X"]


def test_timings_steps_and_node_commands_are_spans_in_own_lanes(file: Path) -> None:
    timings.record(file)
    with log.step("outer"), log.step("inner") as shown, timings.span("systemctl start kubelet", "node-1"):
        shown.note = "half of it"
    timings.write()
    found = {span["name"]: span for span in spans(file)}
    assert list(found) == ["outer", "inner", "systemctl start kubelet"]
    assert len({span["tid"] for span in found.values()}) == 3
    assert found["inner"]["args"] == {"note": "half of it"}
    assert (
        found["outer"]["ts"]
        <= found["inner"]["ts"]
        <= found["inner"]["ts"] + found["inner"]["dur"]
        <= found["outer"]["dur"] + found["outer"]["ts"]
    )
    names = [event["args"]["name"] for event in json.loads(file.read_text())["traceEvents"] if event["ph"] == "M"]
    assert names == ["steps 1", "steps 2", "node-1"]


def test_timings_overlapping_spans_of_node_have_different_lanes(file: Path) -> None:
    timings.record(file)
    with timings.span("a", "node-1"), timings.span("b", "node-1"):
        pass
    with timings.span("c", "node-1"):
        pass
    timings.write()
    a, b, c = (span["tid"] for span in spans(file))
    assert a != b
    assert c in (a, b)


def test_timings_failed_step_is_marked_and_secret_is_hidden(file: Path) -> None:
    log.hide("hunter2-hunter2")
    timings.record(file)
    with pytest.raises(ValueError, match="x"), log.step("login with hunter2-hunter2"):
        raise ValueError("x")
    timings.write()
    (span,) = spans(file)
    assert span["args"]["failed"] is True
    assert "hunter2" not in file.read_text()


def test_timings_without_record_writes_no_file(file: Path) -> None:
    with log.step("outer"):
        pass
    timings.write()
    assert not file.exists()


def test_timings_record_unwritable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        timings.record(tmp_path / "none/run.json")


def test_timings_option_writes_file_after_failed_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["--timings", str(file), "inspect", "no-such-image"]) != 0
    assert json.loads(file.read_text())["traceEvents"] == []
    assert app.execute(["--timings", str(file.parent), "images"]) == 2
    assert "--timings takes a file" in capsys.readouterr().err


def test_timings_kept_in_memory_gives_spans_with_kind_lane_and_failure() -> None:
    with timings.kept() as recorder:
        with log.step("outer") as shown, timings.span("start kubelet", "node-1 steps", kind=timings.STEP):
            shown.note = "2 of 2"
        with pytest.raises(ValueError, match="x"), timings.span("systemctl start", "node-1"):
            raise ValueError("x")
    outer, start, command = recorder.spans()
    assert (outer.title, outer.lane, outer.kind, outer.note, outer.failed) == ("outer", "steps 1", timings.SHOWN, "2 of 2", False)
    assert (start.title, start.lane, start.kind) == ("start kubelet", "node-1 steps", timings.STEP)
    assert (command.lane, command.kind, command.failed) == ("node-1", timings.COMMAND, True)
    assert outer.started <= start.started <= start.started + start.seconds <= command.started + command.seconds


def test_timings_kept_in_memory_leaves_recorded_file_alone(file: Path) -> None:
    timings.record(file)
    with timings.kept(), log.step("of the block"):
        pass
    with log.step("of the command"):
        pass
    timings.write()
    assert [span["name"] for span in spans(file)] == ["of the command"]
