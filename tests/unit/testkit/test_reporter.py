"""The page of a run: what is in it of each test and each cluster, and when it is written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import CheckError
from harness.host import durable
from harness.report.model import ReportedCluster
from harness.testkit import snapshot
from harness.testkit.reporter import PageReporter
from tests.unit.report.examples import CLUSTER
from tests.unit.testkit.test_plugin import Lab, Proof, lab, run, write
from tests.unit.website.examples import Page

pytest_plugins = ["pytester"]
__all__ = ["lab"]

EVIL = "</pre></title><script>alert(1)</script><img src=x onerror=alert(1)> \\u202e\\x1b[2J"
TESTS = """
def test_page_answers(cluster):
    \"\"\"The page of the
    Service answers.

    And more.\"\"\"
    print("seen: 200 OK")
def test_cache_holds(cluster):
    print("printed by a failing test")
    assert "PONG" == "gone"
@pytest.mark.skip(reason="no time")
def test_large(cluster): pass
@pytest.mark.xfail(reason="known fault", strict=True)
def test_known(cluster): assert False
"""


def page(pytester: pytest.Pytester, *words: str) -> Page:
    run(pytester, "--test-report", "out/web.html", *words)
    return Page((pytester.path / "out/web.html").read_text())


def test_reporter_page_shows_tests_with_words_outcomes_and_texts(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TESTS)
    text = page(pytester).text
    assert "web:latest 1 of 2 checks failed" in text
    assert "passed Page answers" in text
    assert "The page of the Service answers. Evidence" in text
    assert "And more" not in text
    assert "seen: 200 OK" in text
    assert "assert 'PONG' == 'gone'" in text
    assert "printed by a failing test" in text
    assert "Not run: no time" in text
    assert "Not run: known to fail: known fault" in text
    assert "kubefiles/web/test_web.py::test_page_answers" in text
    assert "state of the cluster test-1 Pod web/nginx-0: container main: image cannot be pulled" in text


def test_reporter_page_shows_cluster_read_before_its_removal(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(cluster): pass\n@pytest.mark.topology(3, 0)\ndef test_bad(cluster): assert False")
    text = page(pytester).text
    assert lab.events == [
        *("boot web:latest 1+1", "read after success", "remove web:latest 1+1"),
        *("boot web:latest 3+0", "read after a failure", "remove web:latest 3+0"),
    ]
    assert "Kubernetes v1.36.3 on" in text
    assert "start the control plane" in text
    assert "on a network without a way to the internet" in text


def test_reporter_test_of_each_node_names_its_machine(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_service(node): pass")
    text = page(pytester).text
    assert "Service test-1-m0" in text
    assert "Service test-1-n0" in text


def test_reporter_commands_of_test_are_evidence_of_that_test_only(pytester: pytest.Pytester, lab: Lab) -> None:
    noted = "request.config.pluginmanager.get_plugin('slipway-reporter').evidence.note"
    write(
        pytester,
        f"def test_one(cluster, request): {noted}('test-1-m0', 'curl -s http://web/', 'Hello\\n', 0, 0.25)\n"
        f"def test_two(cluster, request): {noted}('test-1-m0', 'redis-cli --password=hunter2hunter2 ping', 'PONG', 1)",
    )
    text = page(pytester).text
    assert "Evidence: 1 command curl -s http://web/ on test-1-m0, exit code 0, 0.2 s Hello" in text
    assert text.count("curl -s") == 1
    assert "redis-cli --password=*** ping on test-1-m0, exit code 1 PONG" in text
    assert "hunter2" not in text


def test_reporter_offline_proof_is_evidence(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.offline = Proof()
    write(pytester, "def test_one(offline): pass")
    assert "try to reach the internet from every machine on this machine none answered" in page(pytester).text


def test_reporter_failed_boot_is_shown_with_logs_of_machines(pytester: pytest.Pytester, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.failure = CheckError("2 objects are not ready after 600 s")
    asked: list[str] = []

    def of_failed_boot(name: str, image: str, *_: object) -> ReportedCluster:
        asked.append(name)
        return ReportedCluster(name, image, missing=("logs of m0: no answer",))

    monkeypatch.setattr(snapshot, "of_failed_boot", of_failed_boot)
    write(pytester, "def test_one(cluster): pass")
    text = page(pytester).text
    assert asked == ["test-1"]
    assert "web:latest does not run: 2 objects are not ready after 600 s" in text
    assert "logs of m0: no answer" in text


def test_reporter_markup_of_test_output_and_image_is_text_only(pytester: pytest.Pytester, lab: Lab) -> None:
    write(
        pytester,
        f'EVIL = "{EVIL}"\n'
        "@pytest.mark.parametrize('page', [EVIL])\n"
        "def test_one(cluster, page):\n    print(EVIL)\n    assert not EVIL, EVIL",
    )
    parsed = page(pytester, "--image", "<script>alert(1)</script>")
    raw = (pytester.path / "out/web.html").read_text()
    tags = [tag for tag, _ in parsed.elements]
    assert (tags.count("script"), tags.count("img"), tags.count("style"), tags.count("title") > 0) == (0, 0, 1, True)
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert not set("\u202e\x1b") & set(raw)
    assert "<script>alert(1)</script>: failed" in parsed.text


def test_reporter_interrupted_run_has_not_passed(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(cluster): pass\ndef test_stop(cluster): pytest.exit('enough')")
    assert "The run broke off: 1 of " in page(pytester).text


def test_reporter_collection_error_is_failed_check(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "import no_such_module")
    text = page(pytester).text
    assert "No module named 'no_such_module'" in text
    assert "0 of 1 finished checks passed" in text


def test_reporter_run_without_cluster_shows_tests_alone(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_good(): pass")
    text = page(pytester).text
    assert "web The only check passed" in text
    assert "Machines" not in text


def test_reporter_process_of_several_hands_its_clusters_to_the_one_that_writes(tmp_path: Path) -> None:
    worker, writer = PageReporter(None), PageReporter(tmp_path / "web.html")
    worker.clusters.append(CLUSTER)
    process: Any = SimpleNamespace(config=SimpleNamespace(workeroutput={}))
    worker.pytest_sessionfinish(process)
    writer.pytest_testnodedown(SimpleNamespace(workeroutput=process.config.workeroutput))
    writer.pytest_testnodedown(SimpleNamespace())  # one that crashed
    assert writer.clusters == [CLUSTER]


def test_reporter_earlier_page_is_removed_and_unwritable_place_refused(pytester: pytest.Pytester, lab: Lab, tmp_path: Path) -> None:
    write(pytester, "def test_good(): pass")
    (pytester.path / "web.html").write_text("earlier")
    run(pytester, "--test-report", "web.html", "--collect-only", "-q", "-k", "none")
    assert "earlier" not in (pytester.path / "web.html").read_text()
    (pytester.path / "file").write_text("")
    result = run(pytester, "--test-report", "file/web.html")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--test-report file/web.html: *"])


def test_reporter_full_disk_fails_run_in_one_line(pytester: pytest.Pytester, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    write(pytester, "def test_good(cluster): pass")
    result = run(pytester, "--test-report", "web.html")
    assert result.ret == pytest.ExitCode.INTERNAL_ERROR
    result.stdout.fnmatch_lines(["slipway: no report: web.html: No space left on device"])
