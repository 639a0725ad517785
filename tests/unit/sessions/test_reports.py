"""Counts of pytest, and lines for people."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.sessions import reports as sessions_reports
from harness.sessions.reports import Counts
from tests.unit.sessions.sessions import JUNIT


def test_counts_read_report_sums_outcomes(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(JUNIT)
    assert str(Counts.read(tmp_path / "unit.xml")) == "4 passed, 3 failed, 3 skipped in 1 min 40 s"


def test_counts_read_missing_report_counts_nothing(tmp_path: Path) -> None:
    assert Counts.read(tmp_path / "unit.xml").passed == 0


def test_counts_read_truncated_report_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(JUNIT[:80])
    assert Counts.read(tmp_path / "unit.xml").passed == 0


@pytest.mark.parametrize(("count", "text"), [(244_000_000, "244 MB"), (1_234_000_000, "1.23 GB")])
def test_size_is_shown_in_decimal_units(count: int, text: str) -> None:
    assert sessions_reports.size(count) == text


def test_read_json_other_output_is_empty() -> None:
    assert sessions_reports.read_json('{"a": 1}') == {"a": 1}
    assert [sessions_reports.read_json(text) for text in ("", "[1]", "1", "null", True, None)] == [{}] * 6


def test_say_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    sessions_reports.say("web:1  容器", "evil\x1b[2J\nnext\u202e")
    assert capsys.readouterr().out == "web:1  容器\nevil\\u001b[2J\\u000anext\\u202e\n"
