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


def test_lines_come_whole_and_while_the_program_runs(tmp_path: Path) -> None:
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


def test_both_streams_empty_lines_and_an_end_without_a_newline() -> None:
    code, found = lines("echo out; echo err >&2; echo; printf last; exit 7")
    assert code == 7
    assert [line for stream, line in found if stream == "stdout"] == ["out", "", "last"]
    assert [line for stream, line in found if stream == "stderr"] == ["err"]


def test_what_is_no_text_and_lines_without_end_do_no_harm() -> None:
    code, found = lines("printf '\\377\\n'; head -c 300000 /dev/zero | tr '\\0' x")
    assert code == 0
    assert found[0] == ("stdout", "\ufffd")
    assert "".join(line for _, line in found[1:]) == "x" * 300000
    assert all(len(line) < 200000 for _, line in found)


def test_program_is_ended_when_its_reader_stops() -> None:
    stop = threading.Event()
    # It would end well by itself.
    found: list[str] = []

    def take(_: str, line: str) -> None:
        found.append(line)
        stop.set()

    assert process.stream(["sh", "-c", f"echo begun; exec sleep {HANG}"], take, stop=stop) != 0
    assert found == ["begun"]


def test_a_listener_that_fails_leaves_no_program_behind() -> None:
    def fails(_stream: str, _line: str) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        process.stream(["sh", "-c", "echo now; exec sleep 60"], fails)


def test_program_that_is_missing_is_reported() -> None:
    with pytest.raises(CommandError, match="no such program"):
        process.stream(["no-such-program-of-ours"], lambda *_: None)


def test_output_goes_into_a_file_on_request(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        result = process.run(["sh", "-c", "printf '\\000\\377'; echo err >&2"], output=file)
    assert (path.read_bytes(), result.stdout, result.stderr) == (b"\x00\xff", "", "err\n")


def test_ctrl_c_ends_what_threads_of_the_process_run() -> None:
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
