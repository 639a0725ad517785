"""PRODUCT.yaml and README.md, which the conformance programme of the CNCF takes beside a report, with what is known filled in."""

from __future__ import annotations

import json
from pathlib import Path

from harness.testkit.e2e.verdict import CONFORMANCE_SUITE, ImageUnderTest, SuiteVerdict

_UNKNOWN = ("vendor", "website_url", "repo_url", "documentation_url", "product_logo_url", "contact_email_address")
"""Fields of PRODUCT.yaml that only the vendor knows."""


def product(tested: ImageUnderTest, repository: str) -> str:
    """PRODUCT.yaml. Texts are quoted as JSON quotes them, which YAML reads."""
    known = {
        "name": repository,
        "version": tested.kubernetes,
        "type": "distribution",
        "description": f"Kubernetes {tested.kubernetes} as the cluster image {tested.name} ({tested.digest})",
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in known.items()]
    return "\n".join([*lines, *(f'{name}: ""  # fill in' for name in _UNKNOWN), ""])


def readme(tested: ImageUnderTest, verdict: SuiteVerdict, command: str) -> str:
    """README.md: how to reproduce the run, and what it gave."""
    whole = verdict.suite == CONFORMANCE_SUITE
    what = "All conformance tests were run" if whole else "A selection of tests was run, which does not prove conformance"
    nodes = f"{tested.topology.control_planes} control-plane nodes and {tested.topology.workers} workers"
    lines = [
        f"# Kubernetes {tested.kubernetes}: {_code(tested.name)}",
        "",
        f"{what}: {verdict.counts}.",
        "",
        "## To reproduce",
        "",
        "```",
        command,
        "```",
        "",
        f"boots {nodes} without a way out, runs {_code(tested.name)} ({tested.digest}) on them,",
        f"and starts the tests of Kubernetes {tested.kubernetes} with hydrophone.",
        "",
        "`e2e.log` and `junit_01.xml` are as hydrophone fetched them. `PRODUCT.yaml` has fields to fill in.",
    ]
    if tested.built:
        lines += ["", "## Images of the tests that were built here", "", *(f"- {_code(name)}" for name in tested.built)]
    for title, names in (("Failed", verdict.failed), ("Skipped", verdict.skipped)):
        if names:
            lines += ["", f"## {title}", "", *(f"- {_code(name)}: {_code(why)}" for name, why in names.items())]
    if verdict.trouble:
        lines += ["", "## The suite itself", "", *(f"- {_code(one)}" for one in verdict.trouble)]
    return "\n".join([*lines, ""])


def write(folder: Path, tested: ImageUnderTest, verdict: SuiteVerdict, *, repository: str, command: str) -> None:
    """Write both files into the folder of a report."""
    (folder / "PRODUCT.yaml").write_text(product(tested, repository))
    (folder / "README.md").write_text(readme(tested, verdict, command))


def _code(text: str) -> str:
    """Text of a report as code in Markdown, which nothing in it can end."""
    return f"`{text.replace('`', chr(39))}`"
