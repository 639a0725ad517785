"""Values of a report: its outcome, and the way to another process."""

from __future__ import annotations

import pytest

from harness.report.model import CaseOutcome, CheckedCase, ReportDocument, ReportedCluster, of_text, to_text, worst
from tests.unit.report.examples import CASES, CLUSTER, FAILED, audit, document


def test_outcome_of_document_follows_worst_check() -> None:
    assert document().outcome is CaseOutcome.PASSED
    assert document(cases=(*CASES, FAILED)).outcome is CaseOutcome.FAILED
    assert audit().outcome is CaseOutcome.FAILED
    warned = CheckedCase("1", "1", CaseOutcome.WARNING)
    assert document(cases=(*CASES, warned)).outcome is CaseOutcome.WARNING


def test_outcome_without_passed_check_or_of_broken_run_is_failed() -> None:
    assert document(cases=()).outcome is CaseOutcome.FAILED
    assert document(cases=(CheckedCase("1", "1", CaseOutcome.SKIPPED),)).outcome is CaseOutcome.FAILED
    assert document(complete=False).outcome is CaseOutcome.FAILED


def test_counts_are_by_outcome() -> None:
    counts = document(cases=(*CASES, FAILED)).counts
    assert (counts[CaseOutcome.PASSED], counts[CaseOutcome.SKIPPED], counts[CaseOutcome.FAILED], counts[CaseOutcome.WARNING]) == (
        3,
        1,
        1,
        0,
    )


@pytest.mark.parametrize("value", [CLUSTER, document(cases=(*CASES, FAILED)), audit(), ReportedCluster("empty")])
def test_values_pass_through_text_unchanged(value: ReportedCluster | ReportDocument) -> None:
    assert of_text(type(value), to_text(value)) == value


def test_worst_outcome_is_first_in_order() -> None:
    assert worst([CaseOutcome.PASSED, CaseOutcome.UNKNOWN, CaseOutcome.WARNING]) is CaseOutcome.WARNING
    with pytest.raises(ValueError, match="empty"):
        worst([])
