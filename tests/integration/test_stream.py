"""Programs whose output is handed on while they run."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from harness import process
from harness.errors import CommandError
from tests.waiting import HANG


def lines(script: str, **more: object) -> tuple[int, list[tuple[str, str]]]:
    found: list[tuple[str, str]] = []
    code = process.stream(["sh", "-c", script], lambda stream, line: found.append((stream, line)), **more)  # type: ignore[arg-type]
    return code, found


def test_stream_lines_are_passed_whole_while_program_runs(tmp_path: Path) -> None:
    # It goes on only when its first line has been handed on.
    seen = tmp_path / "seen"
    waits = f"i=0; until [ -e {seen} ]; do i=$((i + 1)); [ $i -lt {HANG * 20:.0f} ] || exit 1; sleep 0.05; done"
    script = f"printf par; sleep 0.2; echo tial; {waits}; echo end"
    came: list[str] = []

    def take(_: str, line: str) -> None:
        came.append(line)
        seen.touch()

    assert process.stream(["sh", "-c", script], take) == 0
    assert came == ["partial", "end"]


def test_stream_separates_stdout_and_stderr_and_keeps_empty_and_unterminated_lines() -> None:
    code, found = lines("echo out; echo err >&2; echo; printf last; exit 7")
    assert code == 7
    assert [line for stream, line in found if stream == "stdout"] == ["out", "", "last"]
    assert [line for stream, line in found if stream == "stderr"] == ["err"]


def test_stream_invalid_utf8_is_replaced_and_endless_line_is_split() -> None:
    code, found = lines("printf '\\377\\n'; head -c 300000 /dev/zero | tr '\\0' x")
    assert code == 0
    assert found[0] == ("stdout", "\ufffd")
    assert "".join(line for _, line in found[1:]) == "x" * 300000
    assert all(len(line) < 200000 for _, line in found)


def test_stream_stop_event_ends_program() -> None:
    stop = threading.Event()
    # It would end well by itself.
    found: list[str] = []

    def take(_: str, line: str) -> None:
        found.append(line)
        stop.set()

    assert process.stream(["sh", "-c", f"echo begun; exec sleep {HANG}"], take, stop=stop) != 0
    assert found == ["begun"]


def test_stream_failing_listener_raises_its_error() -> None:
    def fails(_stream: str, _line: str) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        process.stream(["sh", "-c", "echo now; exec sleep 60"], fails)


def test_stream_missing_program_raises_command_error() -> None:
    with pytest.raises(CommandError, match="no such program"):
        process.stream(["no-such-program-of-ours"], lambda *_: None)


def test_run_output_to_file_keeps_bytes_and_captures_stderr(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        result = process.run(["sh", "-c", "printf '\\000\\377'; echo err >&2"], output=file)
    assert (path.read_bytes(), result.stdout, result.stderr) == (b"\x00\xff", "", "err\n")


def test_end_all_terminates_program_of_other_thread() -> None:
    ended: list[int] = []
    begun = threading.Event()

    def act() -> None:
        ended.append(process.stream(["sh", "-c", "echo begun; exec sleep 3600"], lambda *_: begun.set()))

    thread = threading.Thread(target=act)
    thread.start()
    assert begun.wait(HANG)
    process.end_all()
    thread.join(HANG)
    assert ended == [-15]
