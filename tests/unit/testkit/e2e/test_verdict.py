"""Outcomes of a run, and the statement that says them about a digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.oci.model import digest_of
from harness.oci.statement import Statement
from harness.testkit.e2e.choice import SpecChoice
from harness.testkit.e2e.junit import SpecOutcome, SpecResult, SuiteReport
from harness.testkit.e2e.verdict import CONFORMANCE_SUITE, SELECTION_SUITE, ImageUnderTest, SuiteVerdict, judged
from harness.trust import results
from harness.trust.results import Topology

IMAGE, SUITE = digest_of(b"image"), digest_of(b"suite")
TESTED = ImageUnderTest(
    "kubernetes:1", IMAGE, "linux/amd64", "v1.36.3", Topology(1, 1), f"conformance:v1.36.3@{SUITE}", ("agnhost:2 (module)",)
)
A, B, C, D = (f"{letter} [Conformance]" for letter in "abcd")
EVERY = SpecChoice.full()


def report(*specs: tuple[str, SpecOutcome], trouble: str = "") -> SuiteReport:
    reason = {SpecOutcome.FAILED: "timed out", SpecOutcome.SKIPPED: "Requires 2 nodes"}
    broken = (SpecResult(trouble, SpecOutcome.FAILED, 0.0, "no node"),) if trouble else ()
    return SuiteReport(tuple(SpecResult(name, outcome, 1.0, reason.get(outcome, "")) for name, outcome in specs), broken)


def named(*names: str) -> SpecChoice:
    return SpecChoice("focus", names, "some")


def test_judged_full_run_has_names_and_reasons_by_outcome() -> None:
    specs = (
        (A, SpecOutcome.PASSED),
        (B, SpecOutcome.FAILED),
        (C, SpecOutcome.SKIPPED),
        (D, SpecOutcome.UNRUN),
        ("other", SpecOutcome.UNRUN),
    )
    verdict = judged(report(*specs), EVERY, {D: "image: not here"})
    assert (verdict.passed, verdict.failed) == ((A,), {B: "timed out"})
    assert verdict.skipped == {C: "Requires 2 nodes", D: "image: not here"}
    assert (verdict.unrun, verdict.conformance, verdict.good) == (0, 4, False)
    assert verdict.counts == "2 run: 1 passed, 1 failed; 2 skipped"


def test_judged_selection_counts_unchosen_conformance_tests() -> None:
    verdict = judged(
        report((A, SpecOutcome.PASSED), (B, SpecOutcome.UNRUN), ("other", SpecOutcome.UNRUN)), named(A), {B: "image: not here"}
    )
    assert (verdict.good, verdict.unrun, verdict.skipped) == (True, 1, {})
    assert verdict.counts == "1 run: 1 passed, 0 failed; 0 skipped; 1 of 2 conformance tests were not chosen"


def test_judged_named_spec_that_is_unknown_or_did_not_run_has_failed() -> None:
    verdict = judged(
        report((A, SpecOutcome.PASSED), (B, SpecOutcome.UNRUN), (C, SpecOutcome.UNRUN)), named(A, B, C, "x"), {C: "image: not here"}
    )
    assert verdict.failed == {"x": "no spec of this version is called so", B: "it was chosen, and did not run"}
    assert verdict.skipped == {C: "image: not here"}


@pytest.mark.parametrize("specs", [(), ((A, SpecOutcome.UNRUN),), ((A, SpecOutcome.SKIPPED),)])
def test_verdict_without_passed_spec_is_not_good(specs: tuple[tuple[str, SpecOutcome], ...]) -> None:
    assert not judged(report(*specs), EVERY, {}).good


def test_verdict_trouble_of_suite_is_not_good_and_not_passed(tmp_path: Path) -> None:
    verdict = judged(report((A, SpecOutcome.PASSED), trouble="[SynchronizedAfterSuite]"), EVERY, {})
    assert not verdict.good
    assert verdict.trouble == ("[SynchronizedAfterSuite]: no node",)
    assert verdict.statement(TESTED, [])["predicate"]["result"] == "FAILED"


@pytest.mark.parametrize(
    ("specs", "suite"),
    [
        (((A, SpecOutcome.PASSED), (B, SpecOutcome.PASSED), ("other", SpecOutcome.UNRUN)), CONFORMANCE_SUITE),
        (((A, SpecOutcome.PASSED), (B, SpecOutcome.FAILED)), CONFORMANCE_SUITE),
        (((A, SpecOutcome.PASSED), (B, SpecOutcome.UNRUN)), SELECTION_SUITE),
        (((A, SpecOutcome.PASSED), (B, SpecOutcome.SKIPPED)), SELECTION_SUITE),
        ((("other", SpecOutcome.PASSED),), SELECTION_SUITE),
    ],
)
def test_verdict_suite_is_conformance_only_when_every_conformance_test_ran(specs: tuple[tuple[str, SpecOutcome], ...], suite: str) -> None:
    assert judged(report(*specs), EVERY, {}).suite == suite


def test_statement_is_about_digest_and_says_reasons(tmp_path: Path) -> None:
    file = tmp_path / "junit_01.xml"
    file.write_text("<testsuites/>")
    verdict: SuiteVerdict = judged(report((A, SpecOutcome.PASSED), (B, SpecOutcome.FAILED), (C, SpecOutcome.UNRUN)), named(A, B), {})
    statement = Statement.of(verdict.statement(TESTED, [file]))
    assert (set(statement.subjects), statement.predicate_type) == ({IMAGE}, results.PREDICATE)
    predicate = statement.predicate
    assert results.faults(predicate) == []
    assert (predicate["result"], predicate["passedTests"], predicate["failedTests"]) == ("FAILED", [A], [B])
    assert predicate["configuration"] == [{"name": "conformance:v1.36.3", "digest": {"sha256": SUITE.partition(":")[2]}}]
    assert results.suite_of(predicate) == SELECTION_SUITE
    (run,) = predicate["slipwayTestRun"]["runs"]
    assert (run["kubernetes"], run["conformanceTests"], run["notChosen"]) == ("v1.36.3", 3, 1)
    assert (run["reasons"], run["builtImages"]) == ({B: "timed out"}, ["agnhost:2 (module)"])
    assert run["reports"][0]["name"] == "junit_01.xml"
    assert results.told(predicate) == "kubernetes-e2e: FAILED: 1 passed, 1 failed, 0 skipped on linux/amd64"
