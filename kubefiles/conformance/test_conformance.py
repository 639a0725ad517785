"""The tests that this image brings, against the base image: ten specs of Kubernetes itself."""

from __future__ import annotations

from pathlib import Path

from harness.testkit.e2e import suite
from harness.testkit.e2e.choice import SpecChoice

LISTS = Path(__file__).parent / "1.36"


def test_conformance_smoke_specs_pass_on_base_image(tmp_path: Path) -> None:
    verdict = suite.run(
        suite.SuiteRequest(
            "kubernetes:latest",
            "conformance:latest",
            SpecChoice.of_file(LISTS / "smoke.txt"),
            tmp_path / "reports",
            tmp_path / "kubernetes.conformance.json",
            LISTS / "unavailable.yaml",
        )
    )
    assert verdict.good, (verdict.failed, verdict.trouble)
    assert (len(verdict.passed), dict(verdict.skipped)) == (10, {})
