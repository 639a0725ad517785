"""Reports of pytest, and lines for people. Standard library only, as the noxfile reads this where nothing else is installed."""

from __future__ import annotations

import dataclasses
import json
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ENDINGS = {2: "interrupted, or tests could not be collected", 3: "an internal error of pytest", 4: "wrong usage of pytest", 5: "no tests"}
"""Meaning of pytest's exit codes, beside 0 (passed) and 1 (tests failed)."""


class PytestError(Exception):
    """A run of pytest ended before all of its tests were run."""


def ending(code: int) -> str:
    """Meaning of an exit code of pytest."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return ENDINGS.get(code, "it crashed")


@dataclasses.dataclass(frozen=True)
class Counts:
    """Outcomes of tests, as pytest counted them."""

    passed: int
    failed: int
    skipped: int
    seconds: float

    @classmethod
    def read(cls, report: Path) -> Counts:
        """From a report in JUnit's format; nothing when there is none."""
        try:
            suites = list(ET.parse(report).getroot().iter("testsuite"))  # noqa: S314
        except (OSError, ET.ParseError):  # pytest was killed, or could not begin
            suites = []
        total, failed, skipped, seconds = 0, 0, 0, 0.0
        for suite in suites:
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
            seconds += float(suite.get("time", 0))
        return cls(total - failed - skipped, failed, skipped, seconds)

    @classmethod
    def together(cls, several: Iterable[Counts]) -> Counts:
        """The sum of several runs."""
        counts = list(several)
        passed, failed, skipped = (sum(getattr(one, kind) for one in counts) for kind in ("passed", "failed", "skipped"))
        return cls(passed, failed, skipped, sum(one.seconds for one in counts))

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {duration(self.seconds)}"


def read_json(text: object) -> dict[str, Any]:
    """Output of a command as a JSON object; empty when it is something else."""
    try:
        return dict(json.loads(str(text)))
    except (ValueError, TypeError):
        return {}


def read_json_file(path: Path) -> dict[str, Any]:
    """The same of a file; nothing when there is none."""
    return read_json(path.read_text() if path.exists() else "")


def size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s" if seconds >= 99.5 else f"{seconds:.1f} s"


def say(*lines: str) -> None:
    """Print lines for people. Names in them come from images and registries: they cannot steer the terminal."""
    print(*(_harmless(line) for line in lines), sep="\n", flush=True)


def _harmless(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else f"\\u{ord(letter):04x}" for letter in line)
