"""Stand-ins of the tests of sessions: nox's session, which runs no program, and reports of pytest."""

from __future__ import annotations

from pathlib import Path

import nox.command

JUNIT = """<?xml version="1.0"?><testsuites>
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="100.5"><testcase/></testsuite></testsuites>"""
GREEN = '<testsuites><testsuite skipped="1" tests="3" time="1"/></testsuites>'


def write_report(reports: Path, name: str, text: str = JUNIT) -> bool:
    """Leave the report of a run, as pytest does."""
    (reports / f"{name}.xml").write_text(text)
    return "failures" not in text


class Session:
    """Stands in for nox's: pytest ends with an exit code, after it has left a report or none."""

    def __init__(self, reports: Path, code: int, text: str = "") -> None:
        self.reports, self.code, self.text = reports, code, text
        self.env: dict[str, str] = {}
        self.commands: list[tuple[str, ...]] = []

    def run(self, *words: str) -> None:
        self.commands.append(words)
        if self.text and "--junitxml" in words:
            write_report(self.reports, Path(words[words.index("--junitxml") + 1]).stem, self.text)
        if self.code:
            raise nox.command.CommandFailed(f"Returned code {self.code}")

    def error(self, text: str) -> None:
        raise AssertionError(text)
