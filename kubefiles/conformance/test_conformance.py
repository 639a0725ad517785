"""The tests that this image brings, against the base image: ten specs of Kubernetes itself."""

from __future__ import annotations

from pathlib import Path

from harness.oci.store import Store
from harness.testkit.e2e import suite
from harness.testkit.e2e.choice import SpecChoice

BASE = "kubernetes:latest"


def test_conformance_smoke_specs_pass_on_base_image(tmp_path: Path) -> None:
    lists = Path(__file__).parent / suite.minor_version(suite.version_of(Store.default(), BASE))
    verdict = suite.run(
        suite.SuiteRequest(
            BASE,
            "conformance:latest",
            SpecChoice.of_file(lists / "smoke.txt"),
            tmp_path / "reports",
            tmp_path / "kubernetes.conformance.json",
            lists / "unavailable.yaml",
        )
    )
    assert verdict.good, (verdict.failed, verdict.trouble)
    assert (len(verdict.passed), dict(verdict.skipped)) == (10, {})
