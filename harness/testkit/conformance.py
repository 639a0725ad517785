"""The clauses of the CloudImage format as a pytest suite, for authors of tools that write CloudImages: one test a clause.

    pytest --pyargs harness.testkit.conformance --image build/web.tar

or, in a test file of another project,

    from harness.testkit.conformance import test_clause  # noqa: F401

with the fixture ``image_to_check`` overridden. Its value is the path of an archive or of an OCI image layout, or a name of the local store.
"""

from __future__ import annotations

import pytest

from harness.cloudimage.conformance import CLAUSES, ClauseOutcome, ConformanceReport

__all__ = ["test_clause"]


@pytest.mark.parametrize("clause", CLAUSES)
def test_clause(clause: str, conformance_report: ConformanceReport) -> None:
    """The image satisfies the clause, as docs/format.md has it. Skipped when the image has nothing that the clause is about."""
    result = next(result for result in conformance_report.results if result.clause.id == clause)
    evidence = "\n".join(result.evidence)
    if result.outcome is ClauseOutcome.FAILED:
        pytest.fail(f"{clause}: {result.clause.title}\n{evidence}", pytrace=False)
    if result.outcome is ClauseOutcome.NOT_APPLICABLE:
        pytest.skip(evidence)
