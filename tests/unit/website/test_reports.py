"""Reports of tests beside the pages of images: linked when a statement names their digest."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import attestation, results
from harness.trust.keys import PrivateKey
from harness.trust.results import SuiteRun
from harness.website import reports
from harness.website.evidence import AttachedDocument
from harness.website.reports import FoundReport
from tests.unit.cloudimage.examples import file, put
from tests.unit.website.examples import Page, page, rendered

PAGE = b"<!doctype html><title>web</title>"
DIGEST = f"sha256:{hashlib.sha256(PAGE).hexdigest()}"


def document(*digests: str) -> AttachedDocument:
    return AttachedDocument(results.PREDICATE, "", b"{}", "json", reports=tuple(("web.html", digest) for digest in digests))


def test_find_returns_pages_that_documents_name_by_digest(tmp_path: Path) -> None:
    (tmp_path / "web.html").write_bytes(PAGE)
    (tmp_path / "other.html").write_bytes(b"another")
    (tmp_path / "web.xml").write_bytes(PAGE)
    assert reports.find(tmp_path, [document(DIGEST), document()]) == {DIGEST: FoundReport("html", PAGE)}
    assert reports.find(tmp_path, [document(f"sha256:{'0' * 64}")]) == {}
    assert reports.find(None, [document(DIGEST)]) == {}


def test_find_leaves_out_link_that_leads_out_of_folder(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    (tmp_path / "web.html").write_bytes(PAGE)
    (tmp_path / "reports/web.html").symlink_to("../web.html")
    assert reports.find(tmp_path / "reports", [document(DIGEST)]) == {}


def test_find_returns_logs_of_deeper_folders_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "conformance/kubernetes"
    folder.mkdir(parents=True)
    contents = {"e2e.log": b"passed\n", "junit_01.xml": b"<testsuites/>", "core.log": b"\0\1", "web.log": b"not named"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    digests = {name: f"sha256:{hashlib.sha256(data).hexdigest()}" for name, data in contents.items()}
    named = tuple((name, digests[name]) for name in ("e2e.log", "junit_01.xml", "core.log"))
    found = reports.find(tmp_path, [dataclasses.replace(document(), reports=named)])
    assert found == {digests[name]: FoundReport("txt", contents[name]) for name in ("e2e.log", "junit_01.xml")}
    assert "conformance/kubernetes/core.log is left out: it is not text" in capsys.readouterr().err


def test_site_links_report_of_signed_test_result(store: Store, key: PrivateKey, tmp_path: Path) -> None:
    image = put(store, "web", [file("a")])
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/web.html").write_bytes(PAGE)
    run = SuiteRun(image.digest, "linux/amd64", "0.1.0", passed=["a"], reports=[results.resource(tmp_path / "reports/web.html")])
    statement = attestation.statement("docker.io/library/web", image.digest, results.PREDICATE, run.predicate())
    attestation.attach(LocalReferrers(store, Reference.parse("web")), image.digest, statement, key)
    named = Page(page(rendered(store, tmp_path, "named"), "web-latest"))
    assert f"Report web.html{DIGEST}" in named.text
    assert not [link for link in named.links() if link.endswith(".html") and "documents" in link]
    site = rendered(store, tmp_path, "linked", reports=tmp_path / "reports")
    (link,) = (link for link in Page(page(site, "web-latest")).links() if link.startswith("../documents/") and link.endswith(".html"))
    assert (site / "images" / link).read_bytes() == PAGE


def test_site_links_log_of_conformance_as_text_and_names_failures(store: Store, key: PrivateKey, tmp_path: Path) -> None:
    image = put(store, "web", [file("a")])
    folder = tmp_path / "reports/conformance/web"
    folder.mkdir(parents=True)
    (folder / "e2e.log").write_bytes(b"<script>document.title = 1</script>")
    run = SuiteRun(
        image.digest, "linux/amd64", "0.1.0", passed=["a"], failed=["<b>DNS"], skipped=["volumes"], suite="kubernetes-e2e",
        reports=[results.resource(folder / "e2e.log")], facts={"kubernetes": "v1.36.3", "reasons": {"<b>DNS": "<i>timed out"}},
    )  # fmt: skip
    statement = attestation.statement("docker.io/library/web", image.digest, results.PREDICATE, run.predicate())
    attestation.attach(LocalReferrers(store, Reference.parse("web")), image.digest, statement, key)
    site = rendered(store, tmp_path, reports=tmp_path / "reports")
    markup = page(site, "web-latest")
    shown = Page(markup)
    (link,) = (link for link in shown.links() if link.endswith(".txt"))
    assert (site / "images" / link).read_bytes() == (folder / "e2e.log").read_bytes()
    for text in ("1 failed, 1 skipped: names and reasons", "<b>DNS failed <i>timed out", "volumes skipped -", "kubernetesv1.36.3"):
        assert text in shown.text
    assert not re.search("<b>|<i>", markup)


def test_site_folder_of_reports_that_does_not_exist_is_usage_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        rendered(store, tmp_path, reports=tmp_path / "none")
