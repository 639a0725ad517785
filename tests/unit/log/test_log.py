"""What a person reads: sizes, durations, steps."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from harness import log
from tests.unit.clock import Clock


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (250_000_000, "250 MB"), (999_600, "1.0 MB"), (3e13, "30 TB")]
)
def test_size_bytes_are_shown_with_unit(count: float, text: str) -> None:
    assert log.size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (99.6, "1 min 39 s"), (185, "3 min 05 s")])
def test_duration_seconds_are_shown_with_unit(seconds: float, text: str) -> None:
    assert log.duration(seconds) == text


def test_step_failure_is_marked_and_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(log._state, "display", log.Plain(Console(file=stream, width=80)))

    def work() -> None:
        with log.step("outer"), log.step("inner") as shown:
            shown.note = "half done"
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        work()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "- outer ..."
    assert lines[1].startswith("  x inner (half done) ")
    assert lines[2].startswith("x outer ")


def test_running_step_is_reported_in_log_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(log._state, "display", log.Plain(Console(file=stream, width=80)))
    monkeypatch.setattr("harness.log.time.monotonic", clock)
    with log.step("outer"), log.step("compile") as shown:
        for second in range(1, 131):
            clock.sleep(1)
            shown.note = f"{second} packages"
            log.running(shown)
    assert stream.getvalue().splitlines() == [
        "- outer ...",
        "  - compile (60 packages) 60 s ...",
        "  - compile (120 packages) 2 min 00 s ...",
        "  + compile (130 packages) 2 min 10 s",
        "+ outer 2 min 10 s",
    ]


def test_running_step_on_terminal_prints_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(log._state, "display", log.Terminal(Console(file=stream, width=80)))
    step = log.ProgressStep("compile", 0, clock())
    clock.sleep(100)
    monkeypatch.setattr("harness.log.time.monotonic", clock)
    log.running(step)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("verbose", "printed"), [(False, ""), (True, "  > kubectl get nodes\n")])
def test_debug_prints_with_verbose_only(verbose: bool, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(log, "_state", log._State(log.Plain(Console(file=stream)), verbose=verbose))
    log.debug("kubectl get nodes")
    assert stream.getvalue() == printed


HOSTILE = "web\x1b]0;owned\x07\x1b[2J\r\u202enot"


@pytest.mark.parametrize("display", [log.Plain, log.Terminal])
def test_log_lines_escape_control_characters(display: type[log.Plain | log.Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(log, "_state", log._State(display(Console(file=stream, width=200)), verbose=True))
    log.info(f"{HOSTILE}\nnext line")
    log.warning(HOSTILE)
    log.debug(HOSTILE)
    with log.step(HOSTILE) as step:
        step.note = HOSTILE
    said = stream.getvalue()
    for character in "\x1b\x07\r\u202e":
        assert character not in said
    assert "web\\x1b]0;owned\\x07\\x1b[2J\\r\\u202enot\nnext line\n" in said


@pytest.mark.parametrize("display", [log.Plain, log.Terminal])
def test_step_note_hides_known_secret(display: type[log.Plain | log.Terminal], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(log, "_state", log._State(display(Console(file=stream, width=200))))
    log.hide("correct-horse")
    with log.step("launch") as step:
        step.note = "it said correct-horse"
    assert "launch" in stream.getvalue()
    assert "it said ***" in stream.getvalue()
    assert "correct-horse" not in stream.getvalue()
