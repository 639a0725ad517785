"""Programs whose output is handed on while they run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import process
from harness.errors import CommandError
from tests.integration.test_build import heed_ctrl_c
from tests.waiting import HANG, until


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


def is_running(program: int) -> bool:
    """Return True unless the process has ended; init may not have waited for it yet."""
    try:
        return Path(f"/proc/{program}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("deaf", ["", "trap '' TERM; "], ids=["heeds the request", "ignores it"])
def test_stream_failing_listener_raises_its_error_and_ends_program(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_GRACE", 0.5)
    ids: list[int] = []

    def fails(_stream: str, line: str) -> None:
        ids.append(int(line))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        process.stream(["sh", "-c", f"{deaf}echo $$; exec sleep 36000"], fails)
    (program,) = ids
    assert not is_running(program)


def test_stream_missing_program_raises_command_error() -> None:
    with pytest.raises(CommandError, match="no such program"):
        process.stream(["no-such-program-of-ours"], lambda *_: None)


def test_run_output_to_file_keeps_bytes_and_captures_stderr(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file:
        result = process.run(["sh", "-c", "printf '\\000\\377'; echo err >&2"], output=file)
    assert (path.read_bytes(), result.stdout, result.stderr) == (b"\x00\xff", "", "err\n")


CTRL_C = """
import os
import sys
import threading
from harness import process
from harness.cli import app
from harness.cloudimage import listing

def images(_):
    program = ["sh", "-c", "echo $$; exec sleep 36000"]
    thread = threading.Thread(target=process.stream, args=(program, lambda _, line: os.write(1, f"{line}\\n".encode())))
    thread.start()
    thread.join()

listing.images = images
sys.exit(app.execute(["images"]))
"""


def test_execute_ctrl_c_ends_program_of_other_thread(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", CTRL_C]
    env = {**os.environ, "SLIPWAY_HOME": str(tmp_path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, preexec_fn=heed_ctrl_c) as running:
        try:
            assert running.stdout is not None
            program = int(running.stdout.readline())
            # Not to the group, as a terminal does: the program is ended by the command alone.
            running.send_signal(signal.SIGINT)
            _, error = running.communicate(timeout=HANG)
        finally:
            running.kill()
    assert running.returncode == 130, error
    try:
        until(lambda: not is_running(program), "the program runs on")
    finally:
        if is_running(program):
            os.kill(program, signal.SIGKILL)


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
