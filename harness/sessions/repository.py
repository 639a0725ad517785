"""A folder with kubefiles/ whose images are built and tested by sessions of nox, and the reports that these leave in it."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nox
import nox.command

from harness import assets, catalog
from harness.catalog import CatalogEntry
from harness.errors import UsageError
from harness.host import paths
from harness.sessions.reports import Counts, PytestError, ending, read_json, size

MEASURED = "COVERAGE_FILE"
"""The variable by which coverage knows where its data is. It is set while slipway's own tests are measured."""


@dataclasses.dataclass(frozen=True)
class Repository:
    """``root`` has kubefiles/. ``installer`` fills the environment of a session; without one, sessions use the one that runs nox."""

    root: Path
    reports: Path
    installer: Callable[[nox.Session], None] | None = None

    @classmethod
    def at(cls, root: Path, installer: Callable[[nox.Session], None] | None = None) -> Repository:
        return cls(root, root / "reports", installer)

    def install(self, session: nox.Session) -> None:
        if self.installer is not None:
            self.installer(session)

    def report(self, name: str, kind: str) -> Path:
        return self.reports / f"{name}.{kind}"

    def facts_of(self, entry: CatalogEntry) -> Path:
        """The result of the last build of an image."""
        return self.report(entry.name, "build.json")

    def record_of(self, entry: CatalogEntry) -> Path:
        """The record of the tests of an image: a statement about the digest that ran."""
        return self.report(entry.name, "test-result.json")

    def conformance_of(self, entry: CatalogEntry) -> Path:
        """The record of the tests of Kubernetes itself, where `conformance` has run them."""
        return self.report(entry.name, "conformance.json")

    def shown(self, path: Path) -> str:
        """A path as it is shown and as commands get it: from the repository's folder on, when it is below it."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def pick(self, session: nox.Session, how: Callable[..., tuple[CatalogEntry, ...]], names: Iterable[str]) -> tuple[CatalogEntry, ...]:
        """Entries of the catalogue by ``catalog.select`` or ``catalog.order``; ends the session when a name is not known."""
        try:
            entries = how(catalog.find(self.root / "kubefiles", bases=assets.bundled("kubefiles")), names)
        except UsageError as error:
            session.error(str(error))
        if not entries:
            session.error("kubefiles/ holds no Kubefile")
        return entries

    def build(self, session: nox.Session, entries: Iterable[CatalogEntry], *options: str) -> None:
        """`slipway build` of each; its progress is shown, its result kept beside the reports."""
        self.reports.mkdir(exist_ok=True)
        for entry in entries:
            with self.facts_of(entry).open("w") as result:
                words = ("--tag", entry.reference, "--output", "json", *options)
                session.run("slipway", "build", self.shown(entry.folder), *words, stdout=result, stderr=sys.stderr)

    def test(self, session: nox.Session, entries: Iterable[CatalogEntry], *options: str) -> list[str]:
        """The tests of each image on nodes of its own, with options of pytest; the names of those that failed."""
        failed = []
        for entry in entries:
            if not entry.tests:
                session.error(f"{self.shown(entry.folder)} holds no tests: write {test_file(entry)}")
            record = self.record_of(entry)
            record.unlink(missing_ok=True)
            words = (self.shown(entry.folder), "--image", entry.reference, "--test-result", self.shown(record), *options, "-v")
            try:
                passed = self.pytest(session, entry.name, *words)
            except PytestError as error:
                session.warn(f"{entry.name}: {error}")
                passed = False
            if not passed:
                failed.append(entry.name)
        return failed

    def pytest(self, session: nox.Session, name: str, *words: str) -> bool:
        """Run pytest once, with its reports; return whether all tests passed. Raises PytestError when pytest did not run to its end."""
        xml = self.report(name, "xml")
        xml.unlink(missing_ok=True)
        options = ("--junitxml", self.shown(xml), "--test-report", self.shown(self.report(name, "html")))
        measured = ("coverage", "run", "-m") if self.installer and MEASURED in session.env else ()
        try:
            session.run("python", "-m", *measured, "pytest", *words, *options)
        except nox.command.CommandFailed as ended:
            code = int(match[0]) if (match := re.search(r"-?\d+$", str(ended.reason))) else 1
            if code == 1 and Counts.read(xml).failed:
                return False
            raise PytestError(f"pytest ended with exit code {code}: {ending(code)}") from ended
        return True

    def about(self, session: nox.Session, entries: Iterable[CatalogEntry], *, tested: bool = False) -> list[str]:
        """Lines about each image: its origin, its content, the outcome of its tests, and where to read more."""
        return [line for entry in entries for line in self._about(session, entry, tested=tested)]

    def _about(self, session: nox.Session, entry: CatalogEntry, *, tested: bool) -> list[str]:
        words = ("slipway", "inspect", entry.reference, "--output", "json")
        image = read_json(session.run(*words, silent=True, log=False, success_codes=range(256)))
        if not image:
            return ["", f"{entry.reference}  is not in the store"]
        facts = self.facts_of(entry)
        made = read_json(facts.read_text() if facts.exists() else "")
        cached = made.get("cached", not made.get("booted"))
        how = "" if made.get("digest") != image["digest"] else "cached, " if cached else "built, "
        embedded: list[dict[str, Any]] = image["platforms"][0]["images"]
        counts = {way: sum(way in one["foundBy"] for one in embedded) for way in ("pulled", "declared", "listed")}
        ways = ", ".join(f"{count} {way}" for way, count in counts.items() if count) or "none found"
        home = session.env.get("SLIPWAY_HOME") or paths.home()
        lines = [
            "",
            f"{entry.reference}  {how}{size(image['size'])}, {len(embedded)} container images ({ways})",
            f"  {image['digest']} in {home}",
        ]
        if tested:
            counted, page = Counts.read(self.report(entry.name, "xml")), self.shown(self.report(entry.name, "html"))
            lines.append(f"  tests: {counted}; report: {page}")
        return lines


def test_file(entry: CatalogEntry) -> str:
    """Name of the file that the tests of an image belong in."""
    return f"test_{entry.name.replace('-', '_')}.py"
