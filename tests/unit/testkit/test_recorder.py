"""The record of a run: about the digest that ran, of every test, and only when a cluster was booted."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace
from typing import Any

import pytest

from harness import about
from harness.errors import CheckError
from harness.lifecycle.cluster import record
from harness.oci.model import Platform, digest_of
from harness.oci.statement import Statement
from harness.testkit import cluster
from harness.trust import results
from tests.unit.testkit.test_plugin import Lab, lab, run, write

pytest_plugins = ["pytester"]
__all__ = ["lab"]

DIGEST = digest_of(b"image")
TESTS = """
@pytest.fixture
def broken(cluster):
    yield
    raise OSError("teardown")
def test_good(cluster): pass
def test_bad(cluster): assert False
def test_unclean(broken): pass
@pytest.mark.skip
def test_left_out(cluster): pass
@pytest.mark.topology(control_plane=3, workers=0)
def test_large(cluster): pass
"""


def recorded(pytester: pytest.Pytester, lab: Lab, *words: str) -> dict[str, Any]:
    lab.digests = [DIGEST]
    run(pytester, "--test-result", "out/web.json", *words)
    value: dict[str, Any] = json.loads((pytester.path / "out/web.json").read_text())
    return value


def test_recorder_names_digest_tests_topologies_and_reports(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TESTS)
    value = recorded(pytester, lab, "--junitxml", "web.xml", "--test-report", "web.html")
    statement = Statement.of(value)
    assert statement.subjects == {DIGEST}
    assert statement.predicate_type == results.PREDICATE
    predicate = statement.predicate
    assert results.faults(predicate) == []
    file = "kubefiles/web/test_web.py"
    assert predicate["result"] == "FAILED"
    assert predicate["passedTests"] == [f"{file}::test_good", f"{file}::test_large"]
    assert predicate["failedTests"] == [f"{file}::test_bad", f"{file}::test_unclean"]
    sha = hashlib.sha256((pytester.path / file).read_bytes()).hexdigest()
    assert predicate["configuration"] == [{"name": file, "digest": {"sha256": sha}}]
    (ran,) = predicate["slipwayTestRun"]["runs"]
    assert predicate["slipwayTestRun"]["version"] == about.version()
    assert (ran["image"], ran["platform"], ran["skippedTests"]) == (DIGEST, str(Platform.host()), [f"{file}::test_left_out"])
    one, three = ({"controlPlanes": count, "workers": workers, "given": False} for count, workers in ((1, 1), (3, 0)))
    assert ran["topologies"] == [one, three]
    reports = {name: hashlib.sha256((pytester.path / name).read_bytes()).hexdigest() for name in ("web.xml", "web.html")}
    assert {one["name"]: one["digest"]["sha256"] for one in ran["reports"]} == reports


def test_recorder_all_selected_tests_passing_gives_passed_result(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(cluster): pass\ndef test_other(cluster): pass")
    predicate = recorded(pytester, lab, "-k", "good")["predicate"]
    assert results.passed(predicate)
    # A test that was not wanted is one that was not run.
    assert predicate["slipwayTestRun"]["runs"][0]["skippedTests"] == ["kubefiles/web/test_web.py::test_other"]


def test_recorder_interrupted_run_gives_failed_result(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(cluster): pass\ndef test_stop(cluster): pytest.exit('enough')")
    predicate = recorded(pytester, lab)["predicate"]
    assert (predicate["result"], len(predicate["passedTests"])) == ("FAILED", 1)


def test_recorder_run_without_cluster_removes_earlier_record(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(): pass")
    (pytester.path / "web.json").write_text("earlier")
    run(pytester, "--test-result", "web.json").assert_outcomes(passed=1)
    assert not (pytester.path / "web.json").exists()


def test_recorder_image_changed_between_clusters_is_error(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.digests = [DIGEST, digest_of(b"built again")]
    write(pytester, "def test_small(cluster): pass\n@pytest.mark.topology(3, 0)\ndef test_large(cluster): pass")
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*web:latest changed during the tests: {DIGEST} ran before*"])


def test_recorder_given_machines_are_marked_without_addresses(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(cluster): pass")
    predicate = recorded(pytester, lab, "--control-plane", "10.0.0.1")["predicate"]
    assert predicate["slipwayTestRun"]["runs"][0]["topologies"] == [{"controlPlanes": 1, "workers": 0, "given": True}]
    assert "10.0.0.1" not in json.dumps(predicate)


def test_recorder_with_several_processes_is_usage_error(pytester: pytest.Pytester, lab: Lab) -> None:
    result = run(pytester, "--test-result", "web.json", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--test-result records the tests of one process: leave out -n*"])


def test_require_digest_of_other_image_raises_check_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "NodeKubectl", lambda node: node)
    monkeypatch.setattr(record, "read", lambda _: SimpleNamespace(digest=DIGEST))
    request = cluster.ClusterRequest("web:latest", 1, 0)
    node: Any = None
    cluster._require_digest(node, request, DIGEST)
    with pytest.raises(CheckError, match=f"the cluster runs {DIGEST}, and web:latest was sha256:0"):
        cluster._require_digest(node, request, "sha256:0")
