"""The process that evaluates Jinja: what it is asked, and what is said when it dies."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from harness import process
from harness.templates import jinja
from harness.templates.jinja_process import evaluate_apart

REQUESTS: list[dict[str, Any]] = [{"text": text, "env": {}, "stand_in": None} for text in ("a", "b", "c")]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Let processes answer, one after the other, with so many lines and a code of their own; returns the texts that each was given."""

    def answer(*processes: tuple[int, int, str]) -> list[list[str]]:
        given: list[list[str]] = []
        waiting = iter(processes)

        def run(argv: list[str], **options: Any) -> SimpleNamespace:
            assert argv[1:3] == ["-I", jinja.__file__]
            texts = [json.loads(line)["text"] for line in options["input"].splitlines()]
            given.append(texts)
            count, code, stderr = next(waiting)
            stdout = "".join(json.dumps({"text": text}) + "\n" for text in texts[:count]) + ('{"te' if count < len(texts) else "")
            return SimpleNamespace(stdout=stdout, stderr=stderr, returncode=code)

        monkeypatch.setattr(process, "run", run)
        return given

    return answer


def test_evaluate_apart_takes_one_process_for_all(answers: Callable[..., list[list[str]]]) -> None:
    given = answers((3, 0, ""))
    assert evaluate_apart(REQUESTS) == [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    assert given == [["a", "b", "c"]]


def test_evaluate_apart_resumes_after_template_that_killed_process(answers: Callable[..., list[list[str]]]) -> None:
    given = answers((1, -9, ""), (1, 0, ""))
    message = "it takes more time or memory than a template may"
    assert evaluate_apart(REQUESTS) == [{"text": "a"}, {"faults": [[1, message, None]]}, {"text": "c"}]
    assert given == [["a", "b", "c"], ["c"]]


def test_evaluate_apart_failed_process_reports_its_error(answers: Callable[..., list[list[str]]]) -> None:
    answers((0, 1, "Traceback\nModuleNotFoundError: jinja2\n"))
    (outcome,) = evaluate_apart(REQUESTS[:1])
    assert outcome == {"faults": [[1, "it cannot be rendered: ModuleNotFoundError: jinja2", None]]}


def test_evaluate_apart_splits_requests_into_batches(answers: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.templates.jinja_process._JINJA_BATCH", 2 * jinja.limit("a"))
    given = answers((2, 0, ""), (1, 0, ""))
    assert len(evaluate_apart(REQUESTS)) == 3
    assert given == [["a", "b"], ["c"]]
