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
def test_logs_invalid_since_is_refused_before_any_change(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)
