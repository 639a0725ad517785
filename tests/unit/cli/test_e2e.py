"""The verb `e2e`: which specs it asks for, where its reports go, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app, e2e
from harness.testkit.e2e import suite
from harness.testkit.e2e.suite import SuiteRequest
from harness.testkit.e2e.verdict import SuiteVerdict

WORDS = ("e2e", "Kubernetes:1.36", "--suite", "conformance:v1.36.3")


class Runner:
    """Stands in for a run of the tests: keeps the request, and answers with a verdict."""

    def __init__(self, failed: dict[str, str]) -> None:
        self.requests: list[SuiteRequest] = []
        self.failed = failed

    def __call__(self, request: SuiteRequest) -> SuiteVerdict:
        self.requests.append(request)
        return SuiteVerdict("some", ("a [Conformance]",), self.failed, {"c": "no image"}, 3, 5)


def run(monkeypatch: pytest.MonkeyPatch, *words: str, failed: dict[str, str] | None = None) -> tuple[Runner, int]:
    runner = Runner(failed or {})
    monkeypatch.setattr(suite, "run", runner)
    return runner, app.execute([*WORDS, *words])


def test_e2e_full_passed_run_ends_with_0_and_shows_counts_and_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner, code = run(monkeypatch, "--full", "--workers", "2", "--processes", "4", "--reports", "out")
    (request,) = runner.requests
    assert code == 0
    assert (request.image, request.suite_image, request.workers, request.processes) == ("kubernetes:1.36", "conformance:v1.36.3", 2, 4)
    assert (request.folder, request.record) == (Path("out/conformance/kubernetes-1.36"), Path("out/kubernetes-1.36.conformance.json"))
    assert request.command == "slipway e2e kubernetes:1.36 --suite conformance:v1.36.3 --full --workers 2"
    shown = capsys.readouterr().out
    assert "skipped c\n        no image\n" in shown
    assert "kubernetes:1.36: 1 run: 1 passed, 0 failed; 1 skipped; 3 of 5 conformance tests were not chosen" in shown


def test_e2e_failed_spec_ends_with_7_and_reason(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, code = run(monkeypatch, "--focus", "x", failed={"b": "timed out\x1b[1m"})
    assert code == 7
    assert "failed  b\n        timed out\\x1b[1m\n" in capsys.readouterr().out


def test_e2e_json_has_names_and_reasons(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, code = run(monkeypatch, "--focus", "x", "--output", "json", failed={"b": "timed out"})
    value: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 7
    assert (value["passed"], value["failed"], value["notChosen"]) == (["a [Conformance]"], {"b": "timed out"}, 3)


@pytest.mark.parametrize(
    "words", [(), ("--full", "--focus", "x"), ("--full", "--specs", "x"), ("--full", "--workers", "-1"), ("--full", "--processes", "0")]
)
def test_e2e_wrong_words_end_with_2_and_run_nothing(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner, code = run(monkeypatch, *words)
    assert (code, runner.requests) == (2, [])


def test_e2e_missing_specs_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, code = run(monkeypatch, "--specs", str(tmp_path / "none"))
    assert code == 2
    assert f"--specs {tmp_path / 'none'}: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "name"),
    [("kubernetes:latest", "kubernetes"), ("kubernetes:1.37", "kubernetes-1.37"), ("r.example/team/a:1", "r.example-team-a-1")],
)
def test_report_name_is_one_plain_file_name(image: str, name: str) -> None:
    assert e2e.report_name(image) == name
