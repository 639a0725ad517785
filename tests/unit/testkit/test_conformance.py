"""The format suite, run as an author of another tool runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cloudimage.conformance import CLAUSES
from harness.oci.archive.save import save
from harness.oci.store import Store
from harness.testkit import conformance
from tests.unit.cloudimage.conformance.drafts import Draft, write

pytest_plugins = ["pytester"]

SUITE = ("-p", "no:cacheprovider", "--pyargs", conformance.__name__)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store.default()


def test_conformance_suite_has_one_test_per_clause(store: Store, pytester: pytest.Pytester) -> None:
    write(store)
    result = pytester.runpytest_inprocess(*SUITE, "--image", "web", "-v")
    result.assert_outcomes(passed=len(CLAUSES) - 2, skipped=2)
    result.stdout.fnmatch_lines(["*test_clause?CI-LAYOUT-1? PASSED*"])


def test_conformance_suite_checks_archive_by_path(store: Store, pytester: pytest.Pytester) -> None:
    write(store)
    save(store, ["web"], pytester.path / "web.tar")
    pytester.runpytest_inprocess(*SUITE, "--image", "web.tar").assert_outcomes(passed=len(CLAUSES))


def test_conformance_suite_failed_clause_shows_evidence(store: Store, pytester: pytest.Pytester) -> None:
    draft = Draft(store, write(store))
    draft.index["artifactType"] = "a"
    draft.save()
    result = pytester.runpytest_inprocess(*SUITE, "--image", "web")
    result.assert_outcomes(passed=len(CLAUSES) - 3, skipped=2, failed=1)
    result.stdout.fnmatch_lines(["*CI-MEDIA-1: index and manifests have no artifactType", "index: has an artifactType"])


def test_conformance_suite_image_fixture_can_be_overridden(store: Store, pytester: pytest.Pytester) -> None:
    write(store)
    save(store, ["web"], pytester.path / "built.tar")
    pytester.makepyfile(
        test_format="""
        import pathlib, pytest
        from harness.testkit.conformance import test_clause

        @pytest.fixture(scope="module")
        def image_to_check():
            return pathlib.Path(__file__).with_name("built.tar")
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=len(CLAUSES))


def test_conformance_suite_without_image_fails_with_hint_at_option(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*SUITE)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*which image is to be checked? Give --image*"])


def test_conformance_suite_with_unknown_image_errors_in_each_test(store: Store, pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess(*SUITE, "--image", "nothing")
    result.assert_outcomes(errors=len(CLAUSES))
    result.stdout.fnmatch_lines(["*nothing cannot be checked: nothing: no such image*"])
