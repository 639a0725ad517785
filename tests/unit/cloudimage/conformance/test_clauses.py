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


def test_things_that_hold_pass(store: Store) -> None:
    result = result_of(store, None, None)
    assert (result.outcome, result.checked, result.evidence) == (ClauseOutcome.PASSED, 2, ("things: 2",))


def test_nothing_to_check_does_not_apply(store: Store) -> None:
    assert result_of(store).outcome is ClauseOutcome.NOT_APPLICABLE


def test_all_faults_are_kept_up_to_a_limit(store: Store) -> None:
    result = result_of(store, "one", None, *["more"] * MOST_EVIDENCE)
    assert (result.outcome, result.checked, result.faulty) == (ClauseOutcome.FAILED, MOST_EVIDENCE + 2, MOST_EVIDENCE + 1)
    assert result.evidence[0] == "one"
    assert result.evidence[-1] == "and 1 more"
    assert len(result.evidence) == MOST_EVIDENCE + 1


@pytest.mark.parametrize(
    "error", [StoreError("a"), KeyError("a"), TypeError("a"), ValueError("a"), AttributeError("a"), RecursionError("a")]
)
def test_an_error_of_a_check_fails_the_clause(store: Store, error: Exception) -> None:
    result = result_of(store, None, error)
    assert result.outcome is ClauseOutcome.FAILED
    assert "a" in result.evidence[0]


def test_evidence_is_harmless_and_short() -> None:
    assert line("a\x1b[31m\n\u202eb") == "a\\x1b[31m\\n\\u202eb"
    assert len(line("x" * 10_000)) == 303
