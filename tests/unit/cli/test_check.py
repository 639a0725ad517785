"""Checks of machines and clusters: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.cli import app
from harness.lifecycle.checks import postflight
from harness.lifecycle.checks.findings import Finding, Report, failed, ok
from harness.lifecycle.checks.postflight import cis
from tests.unit.website.examples import Page


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
        (["check", "--pre", "--report", "shop.html"], "--report is about a cluster that runs"),
        (["check", "--list", "--report", "shop.html"], "--report is about a cluster that runs"),
        (["check", "--post", "--report", "/dev/null/shop.html"], "/dev/null/shop.html: "),
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


def test_check_report_option_writes_page_also_when_checks_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = (
        Finding.of("1.2.15", "10.0.0.1", failed("--profiling=true", "profiling: false")),
        Finding.of("1.2.16", "10.0.0.1", ok("--audit-log-path=/var/log/audit.log")),
    )
    monkeypatch.setattr(postflight, "against_cis", lambda *_, **__: Report("shop", findings, cis.CHECKS, {}, 1.0, {"10.0.0.1": "worker"}))
    target = tmp_path / "out/shop.html"
    assert app.execute(["check", "--post", "cis", "shop", "--report", str(target)]) == 7
    text = Page(target.read_text()).text
    assert "Cluster shop 1 of 2 checks failed" in text
    assert "1.2.15 API server: profiling" in text
    assert "What to do: profiling: false" in text
    assert "failed" in capsys.readouterr().out
