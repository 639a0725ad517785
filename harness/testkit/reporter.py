"""Collects a run of tests and writes it as a page at its end: ``pytest --test-report FILE``.

Each test's report carries the commands that it ran; with ``-n``, the processes that have the clusters send what they know of them to
the one that writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import inspect
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness import about
from harness.errors import SlipwayError, UsageError
from harness.log import timings
from harness.nodes import Machine
from harness.oci.model import Platform
from harness.report import page, text
from harness.report.model import CaseOutcome, CheckedCase, ReportDocument, ReportedCluster, ShownCommand, TextBlock, of_text, to_text
from harness.report.words import case_name
from harness.testkit.evidence import EvidenceRecorder

if TYPE_CHECKING:
    from harness.testkit.cluster import Cluster, ClusterRequest, GivenMachines

KEY = "slipway_report"
"""Name of what is added to reports of tests, and to what a process of ``-n`` hands back."""
_DESCRIPTION = 400
_FAILURE = 20_000
_TEXT = {True: 12_000, False: 2000}
"""Characters of what a test printed, by whether it failed."""
_LEAD = "The image was booted on new machines, on a network without a way to the internet, and its tests ran there."
_LEAD_GIVEN = "The tests of the image ran on machines that existed before."


@dataclasses.dataclass
class _CaseParts:
    """One test, as its phases have reported it until now."""

    outcome: CaseOutcome | None = None
    seconds: float | None = None
    preparation: float = 0.0
    commands: list[ShownCommand] = dataclasses.field(default_factory=list)
    more: int = 0
    failures: list[str] = dataclasses.field(default_factory=list)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    description: str = ""
    place: str = ""


class PageReporter:
    """Hooks that collect tests, and the clusters that they ran on. ``path`` is the page; None in a process of ``-n``."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.evidence = EvidenceRecorder()
        self.clusters: list[ReportedCluster] = []
        self._cluster: Cluster | None = None
        """The one that runs now."""
        self._failed = False
        """A test has failed since it was started."""
        self._cases: dict[str, _CaseParts] = {}
        self._started = datetime.datetime.now(datetime.UTC)
        self._begun = time.monotonic()
        self.line = ""
        """Said at the end of the run."""
        if path is not None:
            try:
                page.prepare(path)
            except UsageError as error:
                raise pytest.UsageError(f"--test-report {error.message}") from error

    # ---- clusters ----

    @contextlib.contextmanager
    def boot(self, request: ClusterRequest, given_machines: GivenMachines | None = None, *, keep: bool = False) -> Iterator[Cluster]:
        """As ``harness.testkit.cluster.boot``; the cluster is read before it is removed."""
        from harness.testkit import cluster, snapshot

        with contextlib.ExitStack() as stack:
            with timings.kept() as recorder:

                def lost(name: str, control_plane: Sequence[Machine], workers: Sequence[Machine]) -> None:
                    self.clusters.append(snapshot.of_failed_boot(name, request.image, control_plane, workers, recorder.spans()))

                boot = cluster.boot(request, given_machines, keep=keep, evidence=self.evidence, lost=lost)
                booted = stack.enter_context(boot)
            self._cluster, self._failed = booted, False
            self.evidence.take()
            try:
                yield booted
            finally:
                self._cluster = None
                self.clusters.append(snapshot.take(booted, recorder.spans(), failed=self._failed))

    # ---- in the process that runs the tests ----

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        commands, more = self.evidence.take()
        self._failed = self._failed or report.failed
        report.__dict__[KEY] = {
            "commands": [dataclasses.asdict(command) for command in commands],
            "more": more,
            "description": _description(item),
            "place": self._place(item),
        }
        return report

    def _place(self, item: pytest.Item) -> str:
        """The name of the machine that a test with the fixture ``node`` is about; empty for others."""
        callspec = getattr(item, "callspec", None)
        index = callspec.params.get("node") if callspec is not None else None
        machines = self._cluster.machines if self._cluster is not None else ()
        return machines[index].name if isinstance(index, int) and 0 <= index < len(machines) else ""

    # ---- in the process that writes ----

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            parts = self._cases.setdefault(report.nodeid or "collection", _CaseParts())
            parts.outcome = CaseOutcome.FAILED
            parts.failures.append(text.clean(report.longreprtext, _FAILURE))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = self._cases.setdefault(report.nodeid, _CaseParts())
        extra: dict[str, Any] = getattr(report, KEY, {})
        parts.commands += [ShownCommand(**command) for command in extra.get("commands", ())]
        parts.more += extra.get("more", 0)
        parts.description, parts.place = extra.get("description", ""), extra.get("place") or parts.place
        if report.when == "call":
            parts.seconds = report.duration
        else:
            parts.preparation += report.duration
        if report.failed:
            parts.outcome = CaseOutcome.FAILED
            parts.failures.append(text.clean(report.longreprtext, _FAILURE))
        elif report.skipped:
            parts.outcome = parts.outcome or CaseOutcome.SKIPPED
            parts.failures.append(text.clean(_reason(report), _FAILURE))
        elif report.when == "call":
            parts.outcome = parts.outcome or CaseOutcome.PASSED
        for title, content in report.sections:
            # Each phase has the sections of those before it as well.
            parts.texts[title] = text.clean(content, _TEXT[parts.outcome is CaseOutcome.FAILED])

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add the clusters of a process of ``-n``; one that crashed hands nothing back."""
        for written in getattr(node, "workeroutput", {}).get(KEY, ()):
            self.clusters.append(of_text(ReportedCluster, written))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.path is None:
            workeroutput: dict[str, Any] = session.config.workeroutput  # type: ignore[attr-defined]
            workeroutput[KEY] = [to_text(cluster) for cluster in self.clusters]
            return
        try:
            page.write(self.document(session), self.path)
            self.line = f"report: {self.path}"
        except SlipwayError as error:
            self.line = f"no report: {error.message}"
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def document(self, session: pytest.Session) -> ReportDocument:
        """The run until now."""
        images = dict.fromkeys(cluster.image for cluster in self.clusters if cluster.image)
        given = [cluster.given for cluster in self.clusters]
        return ReportDocument(
            title=text.clean(", ".join(images), _DESCRIPTION) or (self.path.stem if self.path else ""),
            started=f"{self._started:%Y-%m-%d %H:%M}",
            seconds=round(time.monotonic() - self._begun, 1),
            version=about.version(),
            platform=str(Platform.host()) if given else "",
            cases=tuple(_case(name, parts) for name, parts in self._cases.items()),
            clusters=tuple(self.clusters),
            complete=session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED),
            command="pytest --test-report",
            lead=(_LEAD_GIVEN if any(given) else _LEAD) if given else "",
        )


def _description(item: pytest.Item) -> str:
    """The first paragraph of a test's docstring, in one line."""
    function = getattr(item, "function", None)
    documented = inspect.getdoc(function) if function is not None else None
    return text.clean(" ".join((documented or "").partition("\n\n")[0].split()), _DESCRIPTION)


def _reason(report: pytest.TestReport) -> str:
    """Reason why a test was skipped, or was expected to fail."""
    if hasattr(report, "wasxfail"):
        return f"known to fail: {report.wasxfail}".rstrip(": ")
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return report.longreprtext


def _case(node_id: str, parts: _CaseParts) -> CheckedCase:
    name = case_name(node_id)
    failed = parts.outcome is CaseOutcome.FAILED
    return CheckedCase(
        id=text.clean(node_id, _DESCRIPTION),
        name=text.clean(name.name, _DESCRIPTION),
        # A test of which no phase has ended: the run broke off in it.
        outcome=parts.outcome or CaseOutcome.UNKNOWN,
        group=text.clean(name.group, _DESCRIPTION),
        description=parts.description,
        place=text.clean(parts.place or name.place, _DESCRIPTION),
        seconds=None if parts.seconds is None else round(parts.seconds, 3),
        preparation=round(parts.preparation, 1),
        commands=tuple(parts.commands),
        more_commands=parts.more,
        failure="\n\n".join(parts.failures),
        texts=tuple(
            TextBlock(title, content) for title, content in parts.texts.items() if content.strip() and (failed or "stdout" in title)
        ),
    )
