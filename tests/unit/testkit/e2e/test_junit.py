"""Reports of ginkgo: an outcome and a reason for each spec, and an error for what is not a report."""

from __future__ import annotations

import pytest

from harness.errors import CheckError
from harness.testkit.e2e import junit
from harness.testkit.e2e.junit import SpecOutcome

REPORT = b"""<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="6" disabled="0" errors="0" failures="1" time="9.5">
  <testsuite name="Kubernetes e2e suite" tests="6" failures="1" time="9.5">
    <properties><property name="SuiteSucceeded" value="false"></property></properties>
    <testcase name="[SynchronizedBeforeSuite]" classname="Kubernetes e2e suite" status="passed" time="0.1"></testcase>
    <testcase name="[It] a passes [Conformance]" status="passed" time="1.5"><system-err>&gt; Enter</system-err></testcase>
    <testcase name="[It] b fails [Conformance]" status="failed" time="4">
      <failure message="[FAILED] timed out&#xA;after 5m" type="failed">\xe2\x80\xa2 more</failure></testcase>
    <testcase name="[It] c is not chosen [Conformance]" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
    <testcase name="[It] d is pending" status="pending" time="0"><skipped message="pending"></skipped></testcase>
    <testcase name="[It] e skips itself [Conformance]" status="skipped" time="0.2">
      <skipped message="skipped - Requires 2 nodes"></skipped></testcase>
    <testcase name="[It] f is cut off" status="timedout" time="NaN"></testcase>
    <testcase name="[ReportAfterSuite] Kubernetes e2e suite report" status="passed" time="0"></testcase>
  </testsuite>
</testsuites>"""


def test_junit_report_gives_outcome_and_reason_of_each_spec() -> None:
    report = junit.read(REPORT, what="report")
    assert [(spec.name, spec.outcome, spec.seconds, spec.reason) for spec in report.specs] == [
        ("a passes [Conformance]", SpecOutcome.PASSED, 1.5, ""),
        ("b fails [Conformance]", SpecOutcome.FAILED, 4.0, "[FAILED] timed out after 5m"),
        ("c is not chosen [Conformance]", SpecOutcome.UNRUN, 0.0, ""),
        ("d is pending", SpecOutcome.UNRUN, 0.0, ""),
        ("e skips itself [Conformance]", SpecOutcome.SKIPPED, 0.2, "Requires 2 nodes"),
        ("f is cut off", SpecOutcome.FAILED, 0.0, "timedout"),
    ]
    assert report.trouble == ()


def test_junit_failed_step_of_suite_is_trouble() -> None:
    text = b'<testsuite><testcase name="[SynchronizedBeforeSuite]" status="failed"><failure message="no node"/></testcase></testsuite>'
    report = junit.read(text, what="report")
    assert report.specs == ()
    assert [(one.name, one.reason) for one in report.trouble] == [("[SynchronizedBeforeSuite]", "no node")]


def case(attributes: str, inside: str = "") -> bytes:
    return f"<testsuite><testcase {attributes}>{inside}</testcase></testsuite>".encode()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<html/>", "not a report of JUnit"),
        (b"<testsuites><html/></testsuites>", None),
        (b"not xml", "not usable XML"),
        (case('status="passed"'), "the name of a test has 0 characters"),
        (case(f'name="[It] {"a" * 3000}" status="passed"'), "the name of a test has 3005 characters"),
        (case('name="[It] a" status="splendid"'), "unknown status splendid"),
        (b'<testsuite><testcase name="[It] a"/><testcase name="[It] a"/></testsuite>', "2 specs under 1 names"),
    ],
)
def test_junit_odd_report_is_refused(data: bytes, problem: str | None) -> None:
    if problem is None:
        assert junit.read(data, what="report").specs == ()
        return
    with pytest.raises(CheckError, match=problem):
        junit.read(data, what="report")


def test_junit_texts_of_cluster_are_harmless_and_short() -> None:
    failure = f'<failure message="&#x202e;{"a" * 700}"/>'
    (spec,) = junit.read(case('name="[It] a&#x200f;b" status="failed"', failure), what="report").specs
    assert spec.name == r"a\u200fb"
    assert spec.reason.startswith(r"\u202eaaa")
    assert len(spec.reason) == junit.LONGEST_REASON + 3


@pytest.mark.parametrize("text", ["", "x", "-1", "inf", "1e999", "9" * 50])
def test_junit_odd_time_counts_as_zero(text: str) -> None:
    (spec,) = junit.read(case(f'name="[It] a" status="passed" time="{text}"'), what="report").specs
    assert spec.seconds == 0.0
