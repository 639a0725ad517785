"""Logs of a cluster: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["logs", "mine", "--since", "soon"], "no length of time"),
    ],
)
def test_wrong_command_line_of_logs_is_reported_before_anything_is_done(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)
