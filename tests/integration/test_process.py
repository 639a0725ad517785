"""The door to programs: what they are given, what they print, and that none can hold us up or fill our memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from harness import process
from harness.errors import CommandError


def test_run_large_input_is_written_while_output_is_read() -> None:
    text = "0123456789abcdef" * (1 << 18)
    assert process.run(["cat"], input=text).stdout == text
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        assert process.run(["cat"], input=file).stdout == text
    assert process.run(["cat"]).stdout == ""


def test_run_program_not_reading_its_input_returns_its_exit_code() -> None:
    assert process.run(["true"], input=b"x" * (4 << 20)).ok
    result = process.run(["sh", "-c", "exec <&-; echo no; exit 3"], input=b"x" * (4 << 20), check=False)
    assert (result.returncode, result.stdout) == (3, "no\n")


def test_run_endless_output_raises_command_error() -> None:
    for script in ("yes", "yes >&2"):
        with pytest.raises(CommandError, match="printed more than 1 MiB"):
            process.run(["sh", "-c", script], limit=1 << 20)


def test_run_without_limit_ends_program_after_64_mib_of_output() -> None:
    with pytest.raises(CommandError, match="printed more than 64 MiB"):
        process.run(["yes"])


def test_run_output_to_file_is_limited_too(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, pytest.raises(CommandError, match="printed more than 1 MiB"):
        process.run(["yes"], output=file, limit=1 << 20)
    assert (tmp_path / "out").stat().st_size <= 1 << 20
    with (tmp_path / "out").open("wb") as file:
        result = process.run(["sh", "-c", "printf ab; echo no >&2"], output=file, limit=5)
    assert ((tmp_path / "out").read_bytes(), result.stdout, result.stderr) == (b"ab", "", "no\n")


def test_run_hanging_program_is_ended_at_timeout_despite_open_output_of_child() -> None:
    with pytest.raises(CommandError, match=r"not done after 0\.2 s"):
        process.run(["sh", "-c", "sleep 600 & wait"], timeout=0.2)
    with pytest.raises(CommandError, match="not done after"):
        process.run(["sh", "-c", "exec >&- 2>&-; exec sleep 600"], timeout=0.2)


ATTACH = """
import sys
from harness import process
sys.exit(process.attach(["sh", "-c", "read -r line; echo $SAID $line; echo worse >&2; exit 5"], env={"SAID": "out"}))
"""


def test_attach_program_has_input_and_output_of_process_and_returns_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", ATTACH], input="spoken\nrest\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "out spoken\n", "worse\n")


def test_attach_missing_program_raises_command_error() -> None:
    with pytest.raises(CommandError, match="no such program"):
        process.attach(["no-such-program-here"])


def test_run_failing_program_raises_error_with_its_output() -> None:
    with pytest.raises(CommandError) as failed:
        process.run(["sh", "-c", "echo out; echo err >&2; exit 4"])
    assert failed.value.message.endswith("exit code 4")
    assert failed.value.details == "out\nerr"
    with pytest.raises(CommandError, match="no such program"):
        process.run(["slipway-has-no-such-program"])


def test_parallel_returns_results_in_order_of_items() -> None:
    second = threading.Event()

    def work(number: int) -> int:
        # The first ends behind the second.
        (second.wait if number == 1 else second.set)()
        return number * 10

    assert process.parallel(work, [1, 2], 2) == (10, 20)
    assert process.parallel(work, [], 2) == ()


def test_parallel_first_failure_ends_what_runs_and_begins_nothing_more() -> None:
    began: list[int] = []
    ended = threading.Event()

    def work(number: int) -> None:
        began.append(number)
        if number == 2:
            raise CommandError("it failed")
        ended.wait()

    with pytest.raises(CommandError, match="it failed"):
        process.parallel(work, [1, 2, *range(3, 50)], 2, ended.set)
    assert len(began) < 10
