"""Removal of a cluster: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.cli import app


def test_delete_unknown_cluster_is_refused(refused: Callable[[Sequence[str], str], None]) -> None:
    refused(["delete", "mine", "--yes"], "nothing is known of a cluster mine")


def test_delete_forget_unknown_cluster_exits_0_and_reports_not_forgotten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["delete", "mine", "--forget"]) == 0
    assert capsys.readouterr().out == "nothing to forget: no cluster mine is known on this machine\n"
    assert app.execute(["delete", "mine", "--forget", "--output", "json"]) == 0
    assert '"forgotten": false' in capsys.readouterr().out
    assert not (home / "clusters/mine").exists()
