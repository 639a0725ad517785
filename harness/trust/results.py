"""Results of tests as a predicate of in-toto (https://in-toto.io/attestation/test-result/v0.1).

The specification names ``result``, ``configuration`` (here: the test files with their digests), ``passedTests``, ``warnedTests`` and
``failedTests``. What else there is to say stands in the extension field ``slipwayTestRun``::

    {"version": "0.1.0", "suite": "image",
     "runs": [{"image": "sha256:...", "platform": "linux/amd64", "topologies": [{"controlPlanes": 1, "workers": 1, "given": false}],
               "reports": [{"name": "web.xml", "digest": {"sha256": "..."}}], "skippedTests": []}]}

``image`` is the digest of the CloudImage that ran. An image of several platforms that were tested apart has one run for each.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import StoreError
from harness.oci.statement import Statement

PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
PASSED, WARNED, FAILED = "PASSED", "WARNED", "FAILED"
MOST_REPORTS, MOST_UNPASSED = 20, 500
RUN = "slipwayTestRun"
"""The extension field. Its name has no dot, as the specification wants it."""
IMAGE_SUITE = "image"
"""The suite of an image's own tests, those beside its Kubefile."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Machines that tests ran on. ``given``: they existed before, and were not made for the tests."""

    control_planes: int
    workers: int
    given: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"controlPlanes": self.control_planes, "workers": self.workers, "given": self.given}


@dataclasses.dataclass(frozen=True)
class SuiteRun:
    """One run of a suite: the digest of the image that ran, and the names of the tests by their outcome."""

    image: str
    platform: str
    version: str
    """Of slipway."""
    passed: Sequence[str] = ()
    failed: Sequence[str] = ()
    skipped: Sequence[str] = ()
    complete: bool = True
    """False for a run that was interrupted or broke off: then it has not passed, whatever its tests say."""
    topologies: Sequence[Topology] = ()
    configuration: Sequence[Mapping[str, Any]] = ()
    """Resource descriptors of the test files."""
    reports: Sequence[Mapping[str, Any]] = ()
    """Resource descriptors of the reports that were written."""
    suite: str = IMAGE_SUITE
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """More keys of the run in the extension field."""

    def predicate(self) -> dict[str, Any]:
        """The predicate. A run without a passed test has not passed."""
        good = bool(self.complete and self.passed and not self.failed)
        run = {
            "image": self.image,
            "platform": self.platform,
            "topologies": [one.to_json() for one in dict.fromkeys(self.topologies)],
            "reports": [dict(one) for one in self.reports],
            "skippedTests": list(self.skipped),
            **self.facts,
        }
        return {
            "result": PASSED if good else FAILED,
            "configuration": [dict(one) for one in self.configuration],
            "passedTests": list(self.passed),
            "warnedTests": [],
            "failedTests": list(self.failed),
            RUN: {"version": self.version, "suite": self.suite, "runs": [run]},
        }


@dataclasses.dataclass(frozen=True)
class UnpassedTest:
    """A test that failed or was skipped, as a predicate has it. ``reason`` is empty when the predicate gives none."""

    outcome: str
    """``failed`` or ``skipped``."""
    name: str
    reason: str = ""


def resource(path: Path, name: str | None = None) -> dict[str, Any]:
    """The resource descriptor of a file: its name and digest."""
    with path.open("rb") as file:
        return {"name": name or path.name, "digest": {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}}


def passed(predicate: Any) -> bool:
    """Return True when a predicate says that all tests passed."""
    return isinstance(predicate, Mapping) and predicate.get("result") == PASSED and not predicate.get("failedTests")


def faults(predicate: Any) -> list[str]:
    """Faults of a predicate by its specification; empty when nothing is wrong."""
    if not isinstance(predicate, Mapping):
        return ["the predicate is not an object"]
    wrong = []
    if predicate.get("result") not in (PASSED, WARNED, FAILED):
        wrong.append(f"result is {str(predicate.get('result'))[:40]!r}; it is {PASSED}, {WARNED} or {FAILED}")
    files = predicate.get("configuration")
    if not isinstance(files, list) or not all(isinstance(one, Mapping) for one in files):
        wrong.append("configuration is not a list of resource descriptors")
    for key in ("passedTests", "warnedTests", "failedTests"):
        names = predicate.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            wrong.append(f"{key} is not a list of names")
    if predicate.get("result") == PASSED and predicate.get("failedTests"):
        wrong.append(f"result is {PASSED}, and failedTests names tests")
    return wrong


def suite_of(predicate: Any) -> str:
    """The suite that a predicate is about; empty for a predicate of another type."""
    run = predicate.get(RUN) if isinstance(predicate, Mapping) else None
    return str(run.get("suite") or "") if isinstance(run, Mapping) else ""


def platforms_of(predicate: Any) -> tuple[str, ...]:
    """Platforms that the tests ran on, as the predicate names them."""
    return tuple(dict.fromkeys(str(run.get("platform") or "?") for run in _runs(predicate)))


def reports_of(predicate: Any) -> tuple[tuple[str, str], ...]:
    """Names and digests of the reports that the predicate's runs have left, at most ``MOST_REPORTS``. Both are the author's."""
    listed = [one for run in _runs(predicate) for one in _list(run.get("reports")) if isinstance(one, Mapping)]
    digests = ((one.get("name"), one.get("digest")) for one in listed)
    named = ((str(name)[:200], str(digest.get("sha256"))) for name, digest in digests if isinstance(digest, Mapping))
    valid = dict.fromkeys((name, f"sha256:{value}") for name, value in named if re.fullmatch(r"[0-9a-f]{64}", value))
    return tuple(valid)[:MOST_REPORTS]


def unpassed_of(predicate: Any) -> tuple[UnpassedTest, ...]:
    """Tests that failed or were skipped, the failed ones first, at most ``MOST_UNPASSED``. Names and reasons are the author's."""
    failed = _list(predicate.get("failedTests")) if isinstance(predicate, Mapping) else []
    skipped = [name for run in _runs(predicate) for name in _list(run.get("skippedTests"))]
    reasons: dict[Any, Any] = {}
    for run in _runs(predicate):
        reasons |= given if isinstance(given := run.get("reasons"), Mapping) else {}
    listed = [("failed", name) for name in failed] + [("skipped", name) for name in skipped]
    tests = (UnpassedTest(word, name, str(reasons.get(name) or "")) for word, name in listed if isinstance(name, str))
    return tuple(dict.fromkeys(tests))[:MOST_UNPASSED]


def run_facts(predicate: Any) -> dict[str, Any]:
    """Facts of the run that a predicate is about, as the version of Kubernetes; none for a predicate with several runs."""
    runs = _runs(predicate)
    left_out = ("image", "reports", "topologies", "trouble")
    return {name: value for name, value in runs[0].items() if name not in left_out} if len(runs) == 1 else {}


def told(predicate: Any) -> str:
    """A predicate in a line: ``PASSED: 12 passed, 0 failed, 1 skipped on linux/amd64``. The text is the author's.

    The name of a suite other than the image's own tests stands before it.
    """
    if not isinstance(predicate, Mapping):
        return "?"
    skipped = sum(len(_list(run.get("skippedTests"))) for run in _runs(predicate))
    counts = [f"{len(_list(predicate.get(f'{word}Tests')))} {word}" for word in ("passed", "failed")]
    platforms = ", ".join(platforms_of(predicate))
    on = f" on {platforms}" if platforms else ""
    suite = suite_of(predicate)[:40]
    of = f"{suite}: " if suite not in ("", IMAGE_SUITE) else ""
    return f"{of}{str(predicate.get('result'))[:20]}: {', '.join([*counts, f'{skipped} skipped'])}{on}"


def joined(parts: Iterable[tuple[str, Statement]]) -> dict[str, Any]:
    """The predicate of an image that was put together of images that were tested: ``(name, statement)`` of each.

    The names of tests begin with the platform. Raises StoreError that names every part whose tests did not pass, and for parts that
    are of different suites.
    """
    parts = list(parts)
    failed = [f"{name}: {told(statement.predicate)}" for name, statement in parts if not passed(statement.predicate)]
    if failed:
        raise StoreError(f"not all parts have passed their tests: {'; '.join(failed)}")
    suites = sorted({suite_of(statement.predicate) for _, statement in parts})
    if len(suites) > 1:
        raise StoreError(f"the parts were tested with different suites: {', '.join(map(repr, suites))}")
    predicates = [statement.predicate for _, statement in parts]
    names = [f"{','.join(platforms_of(one))} {name}" for one in predicates for name in _list(one.get("passedTests"))]
    files = {str(one): one for each in predicates for one in _list(each.get("configuration"))}
    versions = dict.fromkeys(str(_run(one).get("version") or "?") for one in predicates)
    runs = [run for one in predicates for run in _runs(one)]
    return {
        "result": PASSED,
        "configuration": list(files.values()),
        "passedTests": names,
        "warnedTests": [],
        "failedTests": [],
        RUN: {"version": ", ".join(versions), "suite": suites[0] if suites else IMAGE_SUITE, "runs": runs},
    }


def _run(predicate: Any) -> Mapping[str, Any]:
    run = predicate.get(RUN) if isinstance(predicate, Mapping) else None
    return run if isinstance(run, Mapping) else {}


def _runs(predicate: Any) -> list[Mapping[str, Any]]:
    return [run for run in _list(_run(predicate).get("runs")) if isinstance(run, Mapping)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
