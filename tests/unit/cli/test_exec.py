"""Commands on the machines of a cluster: command lines, and lines of their output."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pytest

from harness.cli import exec as cli_exec
from tests.unit.cli.test_app import HOSTILE, SHOWN


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exec", "mine", "--", "-x", "--help"], "nothing is known of a cluster mine"),
        (["exec", "--", "true"], "nothing is known of a cluster default"),
        (["exec", "mine"], "no command is given"),
        (["exec", "mine", "--"], "no command is given"),
        (["exec", "mine", "--jobs", "0", "--", "true"], "greater than or equal to 1"),
        (["exec", "mine", "true", "--", "true"], "unexpected extra argument"),
    ],
)
def test_exec_invalid_command_line_is_refused_before_any_change(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)


@pytest.mark.parametrize(("terminal_", "line"), [(True, f"{SHOWN}: {SHOWN}\n"), (False, f"{SHOWN}: {HOSTILE}\n")])
def test_exec_output_control_characters_are_escaped_on_terminal_only(terminal_: bool, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return terminal_

    for name in ("stdout", "stderr"):
        screen = Screen(newline="")
        monkeypatch.setattr("sys." + name, screen)
        cli_exec._show_line(HOSTILE, name, HOSTILE)
        assert screen.getvalue() == line
