"""Checks of machines and clusters: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from harness.cli import app


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "mine"], "nothing is known of a cluster mine"),
        (["check", "--post"], "nothing is known of a cluster default"),
        (["check", "--post", "cis"], "nothing is known of a cluster default"),
        (["check", "--post", "cis", "mine"], "nothing is known of a cluster mine"),
        (["check", "mine", "--post", "cis"], "nothing is known of a cluster mine"),
        (["check", "cis"], "nothing is known of a cluster cis"),
        (["check", "--post", "cis", "cis"], "nothing is known of a cluster cis"),
        (["check", "--post", "cis", "mine", "yours"], "one cluster at a time"),
        (["check", "--post", "cis", "--skip", "1.1.99"], "no such check"),
    ],
)
def test_check_invalid_command_line_is_refused_before_any_change(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)


def test_check_list_post_cis_shows_benchmark_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["check", "--list", "--post", "cis"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["cis", "1.2.16"] for line in lines)
    assert app.execute(["check", "--list"]) == 0
    assert "1.2.16" not in capsys.readouterr().out
