"""Records a run of tests as a statement of in-toto about the digest of the image that ran: ``pytest --test-result FILE``.

``slipway attest --predicate FILE`` attaches it to that image and to no other. Nothing is written when no cluster was booted: then no test
has seen the image.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from harness import about
from harness.oci.model import Platform
from harness.trust import attestation, results
from harness.trust.results import SuiteRun, Topology


@dataclasses.dataclass(frozen=True)
class Boot:
    """A cluster that tests ran on: the name and the digest of its image, and its machines."""

    image: str
    digest: str
    topology: Topology


class RunRecorder:
    """Hooks that collect outcomes. ``boots`` is filled by the fixture that boots clusters."""

    def __init__(self, path: Path, boots: Sequence[Boot]) -> None:
        self.path = path
        self.boots = boots
        self._outcomes: dict[str, str] = {}
        self._files: set[Path] = set()
        # The record of an earlier run must not pass for this one's.
        path.unlink(missing_ok=True)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._files = {item.path for item in session.items}

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        for item in items:
            self._outcomes[item.nodeid] = "skipped"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._outcomes[report.nodeid] = "failed"
        elif report.skipped:
            self._outcomes.setdefault(report.nodeid, "skipped")
        elif report.when == "call":
            self._outcomes.setdefault(report.nodeid, "passed")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Write the record after all other plugins have written their reports, whose digests are in it."""
        yield
        if self.boots:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.statement(session), indent=2) + "\n")

    def statement(self, session: pytest.Session) -> dict[str, object]:
        """The statement about the image that ran."""
        root, options = session.config.rootpath, session.config.option
        reports = [Path(path) for name in ("xmlpath", "slipway_report") if (path := getattr(options, name, None))]
        first = self.boots[0]
        run = SuiteRun(
            image=first.digest,
            platform=str(Platform.host()),
            version=about.version(),
            passed=self._named("passed"),
            failed=self._named("failed"),
            skipped=self._named("skipped"),
            complete=session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED),
            topologies=[boot.topology for boot in self.boots],
            configuration=[
                results.resource(path, path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name)
                for path in sorted(self._files)
            ],
            reports=[results.resource(path) for path in reports if path.is_file()],
        )
        return attestation.statement(first.image, first.digest, results.PREDICATE, run.predicate())

    def _named(self, outcome: str) -> list[str]:
        return [name for name, mine in self._outcomes.items() if mine == outcome]
