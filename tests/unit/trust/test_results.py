"""Results of tests as a predicate: what they say, and what is not allowed in one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.model import digest_of
from harness.oci.statement import Statement
from harness.trust import results
from harness.trust.results import SuiteRun, Topology, UnpassedTest

IMAGE = digest_of(b"image")


def run(platform: str = "linux/amd64", **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "passed": ["test_web.py::test_one"],
        "topologies": [Topology(1, 1), Topology(3, 2), Topology(1, 1)],
        "configuration": [{"name": "test_web.py", "digest": {"sha256": "0" * 64}}],
        "reports": [{"name": "web.xml", "digest": {"sha256": "1" * 64}}],
    }
    return SuiteRun(IMAGE, platform, "1.2.3", **{**facts, **changes}).predicate()


def test_predicate_names_tests_result_report_topology_and_version() -> None:
    found = run(skipped=["test_web.py::test_two"])
    assert results.faults(found) == []
    assert (found["result"], found["passedTests"], found["warnedTests"], found["failedTests"]) == (
        "PASSED",
        ["test_web.py::test_one"],
        [],
        [],
    )
    assert found["configuration"] == [{"name": "test_web.py", "digest": {"sha256": "0" * 64}}]
    one, three = {"controlPlanes": 1, "workers": 1, "given": False}, {"controlPlanes": 3, "workers": 2, "given": False}
    assert found["slipwayTestRun"] == {
        "version": "1.2.3",
        "suite": "image",
        "runs": [
            {
                "image": IMAGE,
                "platform": "linux/amd64",
                "topologies": [one, three],
                "reports": [{"name": "web.xml", "digest": {"sha256": "1" * 64}}],
                "skippedTests": ["test_web.py::test_two"],
            }
        ],
    }


def test_predicate_facts_of_run_stand_in_extension_and_suite_is_told() -> None:
    found = run(suite="kubernetes-e2e", facts={"kubernetes": "v1.36.3"})
    assert results.faults(found) == []
    assert found["slipwayTestRun"]["runs"][0]["kubernetes"] == "v1.36.3"
    assert results.told(found) == "kubernetes-e2e: PASSED: 1 passed, 0 failed, 0 skipped on linux/amd64"


@pytest.mark.parametrize("changes", [{"failed": ["test_two"]}, {"complete": False}, {"passed": []}])
def test_predicate_of_failed_incomplete_or_empty_run_has_not_passed(changes: dict[str, Any]) -> None:
    found = run(**changes)
    assert found["result"] == "FAILED"
    assert not results.passed(found)


def test_passed_requires_result_and_no_failed_tests() -> None:
    assert results.passed(run())
    assert not results.passed({**run(), "failedTests": ["test_two"]})
    assert not results.passed(None)


def test_resource_describes_file_by_name_and_digest(tmp_path: Path) -> None:
    (tmp_path / "web.html").write_bytes(b"report")
    assert results.resource(tmp_path / "web.html") == {"name": "web.html", "digest": {"sha256": hashlib.sha256(b"report").hexdigest()}}


def test_summary_line_has_result_counts_and_platform() -> None:
    assert results.told(run(skipped=["a"], failed=["b"])) == "FAILED: 1 passed, 1 failed, 1 skipped on linux/amd64"


@pytest.mark.parametrize("predicate", [None, [], {}, {"result": 5, results.RUN: [], "passedTests": "x"}, {results.RUN: {"runs": [7]}}])
def test_summary_line_of_malformed_predicate_is_given_without_error(predicate: Any) -> None:
    assert results.told(predicate)
    assert not results.passed(predicate)
    assert results.suite_of(predicate) == ""


def test_faults_lists_all_faults_of_predicate() -> None:
    found = results.faults({"result": "GOOD", "passedTests": [1], "failedTests": "x"})
    assert [fault.partition(" ")[0] for fault in found] == ["result", "configuration", "passedTests", "failedTests"]
    assert "failedTests names tests" in results.faults({**run(), "failedTests": ["a"]})[0]
    assert results.faults([]) == ["the predicate is not an object"]


def part(platform: str, **changes: Any) -> tuple[str, Statement]:
    return f"web:1-{platform}", Statement(results.PREDICATE, frozenset([IMAGE]), run(platform, **changes))


def test_joined_results_keep_platforms_of_parts() -> None:
    found = results.joined([part("linux/amd64"), part("linux/arm64")])
    assert results.faults(found) == []
    assert found["passedTests"] == ["linux/amd64 test_web.py::test_one", "linux/arm64 test_web.py::test_one"]
    assert results.platforms_of(found) == ("linux/amd64", "linux/arm64")
    assert (len(found["configuration"]), len(found["slipwayTestRun"]["runs"]), found["slipwayTestRun"]["version"]) == (1, 2, "1.2.3")


def test_joined_names_all_failed_parts() -> None:
    with pytest.raises(StoreError, match=r"web:1-linux/arm64: FAILED.*; web:1-linux/s390x: FAILED"):
        results.joined([part("linux/amd64"), part("linux/arm64", failed=["x"]), part("linux/s390x", passed=[])])


def test_joined_parts_of_different_suites_are_refused() -> None:
    with pytest.raises(StoreError, match="different suites: 'conformance', 'image'"):
        results.joined([part("linux/amd64"), part("linux/arm64", suite="conformance")])


def test_unpassed_of_predicate_has_failed_tests_first_with_reasons() -> None:
    run = {"skippedTests": ["b", 7, ["x"]], "reasons": {"a": "timed out", "b": None}}
    predicate = {"failedTests": ["a", {}], results.RUN: {"runs": [run, {"reasons": "text"}]}}
    assert results.unpassed_of(predicate) == (UnpassedTest("failed", "a", "timed out"), UnpassedTest("skipped", "b"))
    assert len(results.unpassed_of({"failedTests": [str(number) for number in range(1000)]})) == results.MOST_UNPASSED
    assert results.unpassed_of({"failedTests": 5}) == results.unpassed_of("text") == ()


def test_run_facts_of_single_run_have_no_digest_and_of_several_are_none() -> None:
    run = {"image": "sha256:1", "platform": "linux/amd64", "kubernetes": "v1.36.3", "reports": []}
    assert results.run_facts({results.RUN: {"runs": [run]}}) == {"platform": "linux/amd64", "kubernetes": "v1.36.3"}
    assert results.run_facts({results.RUN: {"runs": [run, run]}}) == results.run_facts({}) == {}


def test_reports_of_predicate_are_names_with_valid_digests_only() -> None:
    digest = "a" * 64
    good = {"name": "web.html", "digest": {"sha256": digest}}
    bad: list[object] = [{"name": "x", "digest": {"sha256": "../x"}}, {"name": "y", "digest": "z"}, {"name": "n"}, 7]
    predicate = {results.RUN: {"runs": [{"reports": [good, *bad, good]}, {"reports": "text"}, 5]}}
    assert results.reports_of(predicate) == (("web.html", f"sha256:{digest}"),)
    many = [{"name": str(number), "digest": {"sha256": digest}} for number in range(100)]
    assert len(results.reports_of({results.RUN: {"runs": [{"reports": many}]}})) == results.MOST_REPORTS
    assert results.reports_of({}) == results.reports_of("text") == ()
