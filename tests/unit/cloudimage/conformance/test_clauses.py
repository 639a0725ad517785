"""Results of clauses: whatever a check meets, and what is shown of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.cloudimage.conformance.clauses import MOST_EVIDENCE, Clause, ClauseOutcome, evaluate, line
from harness.cloudimage.conformance.examined import ExaminedImage
from harness.errors import StoreError
from harness.oci.store import Store


def result_of(store: Store, *values: Any) -> Any:
    def check(_: ExaminedImage) -> Iterator[str | None]:
        for value in values:
            if isinstance(value, Exception):
                raise value
            yield value

    return evaluate(Clause("CI-A-1", "a", "things", check), ExaminedImage(store, None))


def test_evaluate_check_without_faults_passes(store: Store) -> None:
    result = result_of(store, None, None)
    assert (result.outcome, result.checked, result.evidence) == (ClauseOutcome.PASSED, 2, ("things: 2",))


def test_evaluate_check_without_subject_is_not_applicable(store: Store) -> None:
    assert result_of(store).outcome is ClauseOutcome.NOT_APPLICABLE


def test_evaluate_keeps_evidence_of_faults_up_to_limit(store: Store) -> None:
    result = result_of(store, "one", None, *["more"] * MOST_EVIDENCE)
    assert (result.outcome, result.checked, result.faulty) == (ClauseOutcome.FAILED, MOST_EVIDENCE + 2, MOST_EVIDENCE + 1)
    assert result.evidence[0] == "one"
    assert result.evidence[-1] == "and 1 more"
    assert len(result.evidence) == MOST_EVIDENCE + 1


@pytest.mark.parametrize(
    "error", [StoreError("a"), KeyError("a"), TypeError("a"), ValueError("a"), AttributeError("a"), RecursionError("a")]
)
def test_evaluate_check_that_raises_fails_clause(store: Store, error: Exception) -> None:
    result = result_of(store, None, error)
    assert result.outcome is ClauseOutcome.FAILED
    assert "a" in result.evidence[0]


def test_evidence_line_is_escaped_and_shortened() -> None:
    assert line("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"
    assert len(line("x" * 10_000)) == 303
