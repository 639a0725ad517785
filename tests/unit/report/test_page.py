"""The page of a report: what it shows, that it is whole, and that nothing of a stranger is HTML."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.report import page
from harness.report.model import CaseOutcome, CheckedCase, ReportDocument, ReportedCluster, of_text, to_text
from tests.unit.report.examples import CASES, CLUSTER, FAILED, audit, document
from tests.unit.website.examples import Page

EVIL = "</title></style></pre><script>alert(1)</script><img src=x onerror=alert(1)>\" onload='alert(1)' \u202e\x1b[31m{{ 7*7 }}<!--"


def shown(report: ReportDocument) -> Page:
    return Page(page.render(report).decode())


def replaced(value: Any) -> Any:
    """A value in which every text is hostile; words that only slipway writes stay."""
    if isinstance(value, dict):
        own = ("outcome", "role", "started", "version")
        return {key: item if key in own else replaced(item) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item) for item in value]
    return EVIL if isinstance(value, str) else value


def test_page_of_passed_run_shows_verdict_facts_and_evidence() -> None:
    text = shown(document()).text.replace(" ", "")
    for words in (
        "web:latest All 3 checks passed",
        "The tests of this image ran on machines without a way to the internet.",
        "1 skipped 3 passed took 81 s",
        "Kubernetes v1.36.3 on 1 control-plane node and 2 workers, ready after 74 s",
        "Platform linux/amd64 Date 2026-12-01 04:09 UTC",
        "worker-1 192.168.16.3 worker Debian GNU/Linux 12 (bookworm) amd64, Linux 6.18.0 v1.36.3 containerd 2.4.2 1 check",
        "passed Web page answers on each node worker-1 0.2 s The page of the Service stands on a port of every node.",
        "curl -s http://192.168.16.3:30080/ on worker-1, exit code 0, 0.2 s <h1>Hello from a CloudImage</h1>",
        "with 74 s of preparation",
        "Not run: needs 3 control-plane nodes",
        "in the CloudImage, built under this name",
        "kubelet on worker-1 240 earlier lines left out",
    ):
        assert words.replace(" ", "") in text, words


def test_page_of_failed_run_opens_evidence_of_failures_only() -> None:
    parsed = shown(document(cases=(*CASES, FAILED)))
    opened = [attributes for tag, attributes in parsed.elements if tag == "details" and "open" in attributes]
    assert len(opened) == 1
    assert "1 of 4 checks failed" in parsed.text
    assert "AssertionError: assert 'Address' in 'NXDOMAIN'" in parsed.text
    assert "state of the cluster test-7-1-abc" in parsed.text


def test_page_of_audit_shows_number_place_and_remedy_of_each_check() -> None:
    text = shown(audit()).text
    assert "passed 1.2.15 API server: profiling" in text
    assert "--profiling=false, on node-1, node-2, node-3" in text
    assert "anonymous requests are answered, on node-4" in text
    assert "What to do: authentication.anonymous.enabled: false" in text
    assert "What to do: add AlwaysPullImages" in text


def test_page_is_one_file_without_script_and_outside_address() -> None:
    parsed = shown(document(cases=(*CASES, FAILED)))
    for tag, attributes in parsed.elements:
        assert tag not in ("script", "img", "iframe", "object", "embed", "form", "base")
        for name in ("src", "href", "action", "data", "srcset", "poster", "background"):
            value = attributes.get(name) or "#"
            assert value.startswith("#") or (tag == "link" and value.startswith("data:image/svg+xml,")), f"{tag} {name}={value}"
    style = page._environment().globals["style"]
    assert "url(" not in str(style)
    assert "@import" not in str(style)


def test_page_policy_allows_its_style_by_digest_and_no_script() -> None:
    text = page.render(document()).decode()
    (policy,) = (str(one["content"]) for _, one in Page(text).elements if one.get("http-equiv") == "Content-Security-Policy")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")
    assert "script-src" not in policy
    assert not [name for _, attributes in Page(text).elements for name in attributes if name == "style"]


@pytest.mark.parametrize("report", [document(cases=(*CASES, FAILED)), audit()])
def test_page_ids_are_unique_and_anchors_lead_to_them(report: ReportDocument) -> None:
    parsed = shown(report)
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = parsed.links()
    assert len(links) > 2
    assert {link[1:] for link in links} <= set(ids)
    named = {attributes["aria-labelledby"] for _, attributes in parsed.elements if "aria-labelledby" in attributes}
    assert named <= set(ids)


@pytest.mark.parametrize("report", [document(cases=(*CASES, FAILED)), audit()])
def test_page_hostile_texts_are_never_html(report: ReportDocument) -> None:
    value = replaced(json.loads(to_text(report)))
    hostile = of_text(ReportDocument, json.dumps(value))
    assert hostile.title == EVIL
    text = page.render(hostile).decode()
    parsed = Page(text)
    tags = [tag for tag, _ in parsed.elements]
    own = {tag for one in (document(cases=(*CASES, FAILED)), audit()) for tag, _ in shown(one).elements}
    assert set(tags) <= own
    assert (tags.count("script"), tags.count("img"), tags.count("style")) == (0, 0, 1)
    names = {name for _, attributes in parsed.elements for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"style", "srcdoc", "formaction"}
    assert "<!--" not in text
    assert "49" not in re.findall(r"\b49\b", parsed.text)
    assert not set("\u202e\x1b") & set(text)


@pytest.mark.parametrize(
    ("cases", "complete", "words"),
    [
        ((), True, "No check was run"),
        ((CheckedCase("1", "1", CaseOutcome.PASSED),), True, "The only check passed"),
        ((CheckedCase("1", "1", CaseOutcome.PASSED),), False, "The run broke off: 1 of 1 finished checks passed"),
        (
            (
                CheckedCase("1", "1", CaseOutcome.WARNING),
                CheckedCase("2", "2", CaseOutcome.UNKNOWN),
                CheckedCase("3", "3", CaseOutcome.PASSED),
            ),
            True,
            "No check failed; 1 ended with a warning and 1 could not be determined",
        ),
        ((FAILED,), True, "1 of 1 checks failed"),
    ],
)
def test_verdict_says_outcome_in_a_sentence(cases: tuple[CheckedCase, ...], complete: bool, words: str) -> None:
    assert page.verdict(document(cases=cases, complete=complete)) == words


def test_page_of_several_clusters_has_heading_for_each() -> None:
    other = dataclasses.replace(CLUSTER, name="test-7-2-def", machines=CLUSTER.machines[:1])
    text = shown(document(clusters=(CLUSTER, other))).text
    assert text.count("1 control-plane node and 0 workers test-7-2-def") == 4
    assert text.count("sha256:0123456789abcdef") == 1


def test_page_of_cluster_that_did_not_start_names_what_is_missing() -> None:
    text = shown(document(clusters=(ReportedCluster("test-1", missing=("logs of m0: no answer",)),))).text
    assert "Not shown: logs of m0: no answer" in text


def test_page_of_many_checks_folds_groups_without_failure_and_lists_failures_first() -> None:
    cases = [CheckedCase(f"a::test_{number}", f"Test {number}", CaseOutcome.PASSED, "a") for number in range(80)]
    parsed = shown(document(cases=(*cases, FAILED), clusters=()))
    groups = [attributes for tag, attributes in parsed.elements if tag == "details" and attributes.get("class") == "group"]
    assert ["open" in attributes for attributes in groups] == [False, True]
    assert "#check-80" in parsed.links()
    assert parsed.text.index("Pods resolve names") < parsed.text.index("Test 0")


def test_page_of_3000_tests_stays_small() -> None:
    cases = tuple(CheckedCase(f"tests/unit/test_a.py::test_{number}", f"Test {number}", CaseOutcome.PASSED, "a") for number in range(3000))
    assert len(page.render(document(cases=cases, clusters=()))) < 2 << 20


def test_write_replaces_file_and_makes_folder(tmp_path: Path) -> None:
    target = tmp_path / "reports/web.html"
    page.write(audit(), target)
    page.write(document(), target)
    assert b"All 3 checks passed" in target.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["web.html"]


def test_write_to_place_that_cannot_be_written_is_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/web.html: "):
        page.write(document(), tmp_path / "file/web.html")
