"""Proof by a run of specs: names and reasons by outcome, and the statement about the digest that ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import about
from harness.testkit.e2e.choice import CONFORMANCE, SpecChoice
from harness.testkit.e2e.junit import SpecOutcome, SpecResult, SuiteReport
from harness.trust import attestation, results
from harness.trust.results import SuiteRun, Topology

CONFORMANCE_SUITE, SELECTION_SUITE = "kubernetes-conformance", "kubernetes-e2e"
"""Suites of a statement: every conformance test was run, or only some of them."""


@dataclasses.dataclass(frozen=True)
class ImageUnderTest:
    """The image that ran, where, and with which tests."""

    name: str
    digest: str
    platform: str
    kubernetes: str
    topology: Topology
    suite_image: str
    """The digest of the application image that brought the tests."""
    built: tuple[str, ...] = ()
    """Container images of the tests that were built under the names of others."""


@dataclasses.dataclass(frozen=True)
class SuiteVerdict:
    """Specs by outcome, with their reasons."""

    chosen: str
    passed: tuple[str, ...]
    failed: Mapping[str, str]
    skipped: Mapping[str, str]
    unrun: int
    """Number of conformance tests that were not chosen."""
    conformance: int
    """Number of conformance tests that this version has."""
    trouble: tuple[str, ...] = ()
    """Steps of the suite itself that failed."""

    @property
    def good(self) -> bool:
        """Return True when specs ran, and all of them passed."""
        return bool(self.passed) and not self.failed and not self.trouble

    @property
    def suite(self) -> str:
        """The name that the run deserves: a part of the conformance tests does not prove conformance."""
        conformance = [name for name in (*self.passed, *self.failed) if CONFORMANCE in name]
        return CONFORMANCE_SUITE if self.conformance and len(conformance) == self.conformance else SELECTION_SUITE

    @property
    def counts(self) -> str:
        run = len(self.passed) + len(self.failed)
        text = f"{run} run: {len(self.passed)} passed, {len(self.failed)} failed; {len(self.skipped)} skipped"
        return f"{text}; {self.unrun} of {self.conformance} conformance tests were not chosen" if self.unrun else text

    def to_json(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "passed": list(self.passed),
            "failed": dict(self.failed),
            "skipped": dict(self.skipped),
            **self._facts,
        }

    @property
    def _facts(self) -> dict[str, Any]:
        """Facts of the run beside its specs, as JSON and statement have them."""
        return {
            "chosen": self.chosen,
            "conformanceTests": self.conformance,
            "notChosen": self.unrun,
            "trouble": list(self.trouble),
        }

    def statement(self, tested: ImageUnderTest, reports: Iterable[Path]) -> dict[str, Any]:
        """The statement of in-toto about the image that ran."""
        run = SuiteRun(
            image=tested.digest,
            platform=tested.platform,
            version=about.version(),
            passed=self.passed,
            failed=tuple(self.failed),
            skipped=tuple(self.skipped),
            complete=not self.trouble,
            topologies=[tested.topology],
            configuration=[{"name": tested.suite_image.partition("@")[0], "digest": _digest(tested.suite_image.partition("@")[2])}],
            reports=[results.resource(path) for path in reports],
            suite=self.suite,
            facts={
                **self._facts,
                "kubernetes": tested.kubernetes,
                "reasons": {**self.failed, **self.skipped},
                "builtImages": list(tested.built),
            },
        )
        return attestation.statement(tested.name, tested.digest, results.PREDICATE, run.predicate())


def judged(report: SuiteReport, choice: SpecChoice, hindered: Mapping[str, str]) -> SuiteVerdict:
    """Compare a report with what was to run. A spec that was named and is not in the report has failed: the suite has no such spec."""
    by_outcome: dict[SpecOutcome, list[SpecResult]] = {outcome: [] for outcome in SpecOutcome}
    for spec in report.specs:
        by_outcome[spec.outcome].append(spec)
    names = {spec.name for spec in report.specs}
    ran = {spec.name: spec for outcome in (SpecOutcome.PASSED, SpecOutcome.FAILED, SpecOutcome.SKIPPED) for spec in by_outcome[outcome]}
    unknown = {name: "no spec of this version is called so" for name in choice.names if name not in names}
    # A named spec that did not run is a failure of the run, whatever kept it from running; one without its image is not.
    missed = {name: "it was chosen, and did not run" for name in choice.names if name in names and name not in ran and name not in hindered}
    kept = {name: why for name, why in hindered.items() if name in names and name not in ran}
    if choice.names:
        kept = {name: why for name, why in kept.items() if name in choice.names}
    skipped = {**{spec.name: spec.reason for spec in by_outcome[SpecOutcome.SKIPPED]}, **kept}
    unrun = [spec for spec in by_outcome[SpecOutcome.UNRUN] if CONFORMANCE in spec.name and spec.name not in skipped]
    return SuiteVerdict(
        chosen=choice.described,
        passed=tuple(spec.name for spec in by_outcome[SpecOutcome.PASSED]),
        failed={**{spec.name: spec.reason for spec in by_outcome[SpecOutcome.FAILED]}, **unknown, **missed},
        skipped=skipped,
        unrun=len(unrun),
        conformance=sum(CONFORMANCE in name for name in names),
        trouble=tuple(f"{one.name}: {one.reason}" for one in report.trouble),
    )


def _digest(digest: str) -> dict[str, str]:
    algorithm, _, digits = digest.partition(":")
    return {algorithm: digits} if digits else {}
