"""Backup and restore: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["backup", "mine"], "--to"),
        (["backup", "mine", "--to", "b.tar", "--password-env", "NOT_SET_HERE"], "NOT_SET_HERE: it is not set"),
        (["restore", "--from", "absent.tar"], "absent.tar: no such file"),
        (["restore", "--yes"], "--from"),
    ],
)
def test_backup_and_restore_invalid_command_line_is_refused_before_any_change(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)
