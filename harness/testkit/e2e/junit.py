"""The report of ginkgo in JUnit's XML -> one result for each spec. It comes from the cluster under test, and is read as such."""

from __future__ import annotations

import dataclasses
import enum
import math

from harness import untrusted
from harness.errors import CheckError

SPEC = "[It] "
"""Prefix of the name of a spec; other entries are steps of the whole suite."""
LONGEST_NAME = 2000
LONGEST_REASON = 600
"""Characters of a reason in a table or a statement; the report has the rest."""

_FAILED = {"failed", "timedout", "panicked", "interrupted", "aborted"}
_UNRUN = {"", "skipped", "pending"}
"""Messages of specs that were not chosen; one that skips itself says why."""


class SpecOutcome(enum.Enum):
    """Outcome of a spec."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It was chosen, and skipped itself."""
    UNRUN = "not run"
    """It was not chosen."""


@dataclasses.dataclass(frozen=True)
class SpecResult:
    """A spec, its outcome, and the reason where it did not pass."""

    name: str
    outcome: SpecOutcome
    seconds: float = 0.0
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class SuiteReport:
    """All specs of a report. ``trouble`` are steps of the suite that failed, as `SynchronizedBeforeSuite`."""

    specs: tuple[SpecResult, ...]
    trouble: tuple[SpecResult, ...] = ()


def read(data: bytes, *, what: str) -> SuiteReport:
    """Raises CheckError for what is not a report, and for one that has a spec twice."""
    root = untrusted.xml_document(data, what=what, error=CheckError)
    suites = [one for one in root.children if one.name == "testsuite"] if root.name == "testsuites" else [root]
    if any(one.name != "testsuite" for one in suites):
        raise CheckError(f"{what}: is not a report of JUnit: its root is {untrusted.shown(root.name)[:40]}")
    cases = [_case(case, what) for suite in suites for case in suite.children if case.name == "testcase"]
    specs = tuple(dataclasses.replace(one, name=one.name.removeprefix(SPEC)) for one in cases if one.name.startswith(SPEC))
    names = {spec.name for spec in specs}
    if len(names) != len(specs):
        raise CheckError(f"{what}: it has {len(specs)} specs under {len(names)} names")
    return SuiteReport(specs, tuple(one for one in cases if not one.name.startswith(SPEC) and one.outcome is SpecOutcome.FAILED))


def _case(case: untrusted.XmlElement, what: str) -> SpecResult:
    name = untrusted.shown(case.attributes.get("name", ""))
    if not name or len(name) > LONGEST_NAME:
        raise CheckError(f"{what}: the name of a test has {len(name)} characters")
    inside = {child.name: child for child in reversed(case.children)}
    status = case.attributes.get("status", "")
    seconds = _seconds(case.attributes.get("time", ""))
    broken = inside.get("failure") or inside.get("error")
    if broken is not None or status in _FAILED:
        return SpecResult(name, SpecOutcome.FAILED, seconds, _reason(broken, status or "failed"))
    if "skipped" in inside or status in ("skipped", "pending"):
        why = inside["skipped"].attributes.get("message", "") if "skipped" in inside else ""
        if why in _UNRUN:
            return SpecResult(name, SpecOutcome.UNRUN)
        return SpecResult(name, SpecOutcome.SKIPPED, seconds, _short(why.removeprefix("skipped - ")))
    if status not in ("", "passed"):
        raise CheckError(f"{what}: {name[:200]}: unknown status {untrusted.shown(status)[:40]}")
    return SpecResult(name, SpecOutcome.PASSED, seconds)


def _reason(broken: untrusted.XmlElement | None, status: str) -> str:
    if broken is None:
        return status
    return _short(broken.attributes.get("message", "") or broken.text) or status


def _short(text: str) -> str:
    """A reason on one line. ginkgo paints nothing in a report, but what it reports may."""
    line = untrusted.shown(" ".join(untrusted.uncoloured(text).split()))
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


def _seconds(text: str) -> float:
    try:
        value = float(text or 0) if len(text) <= 40 else 0.0
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value >= 0 else 0.0
