"""No test judges by how long something took: on a busy machine it would fail for nothing. Read from the source of the tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import HANG, until

ROOT = Path(__file__).parents[2]
CLOCKS = {"monotonic", "perf_counter", "process_time", "time"}
SHORTEST = 60
"""Seconds: limits below are no limits for what hangs."""

TESTS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "kubefiles").glob("*/test_*.py")])


def faults(source: str) -> Iterator[int]:
    """The lines of a test that judge by elapsed time."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare) and _elapsed(node.test):
            yield node.lineno
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "communicate":
            limits = [word.value.value for word in node.keywords if word.arg == "timeout" and isinstance(word.value, ast.Constant)]
            if any(isinstance(limit, int | float) and limit < SHORTEST for limit in limits):
                yield node.lineno


def _elapsed(compared: ast.Compare) -> bool:
    """Whether a difference to a clock must be less than a number."""
    clock = any(isinstance(one, ast.Call) and _called(one) in CLOCKS for one in ast.walk(compared.left))
    less = isinstance(compared.ops[0], ast.Lt | ast.LtE) and isinstance(compared.comparators[0], ast.Constant)
    return isinstance(compared.left, ast.BinOp) and clock and less


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""


def test_tests_do_not_judge_by_elapsed_time() -> None:
    found = [f"{path.relative_to(ROOT)}:{line}" for path in TESTS for line in faults(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    ["assert time.monotonic() - started < 3", "assert perf_counter() - began <= 0.5", "process.communicate(timeout=25)"],
)
def test_faults_assertion_on_elapsed_time_is_found(line: str) -> None:
    assert list(faults(f"def test() -> None:\n    {line}\n")) == [2]


@pytest.mark.parametrize(
    "line",
    ["assert time.monotonic() - started < HANG", "assert time.monotonic() - asked >= 1", "process.communicate(timeout=HANG)"],
)
def test_faults_limit_for_hang_is_accepted(line: str) -> None:
    assert list(faults(f"def test() -> None:\n    {line}\n")) == []


def test_until_returns_value_of_condition() -> None:
    answers = iter([0, "", "there"])
    assert until(lambda: next(answers), pause=0) == "there"


def test_until_timeout_raises_with_description(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, HANG + 1])
    monkeypatch.setattr("tests.waiting.time.monotonic", lambda: next(clock))
    with pytest.raises(AssertionError, match="it hangs: the answer"):
        until(lambda: False, lambda: "the answer", pause=0)
