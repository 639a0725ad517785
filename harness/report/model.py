"""A report as values: what was checked, on which machines, with what outcome, and the evidence.

All texts may come from a test, a machine or an image. They are cut and free of secrets (``harness.report.text``); the page escapes them.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Values = TypeVar("Values")


class CaseOutcome(enum.StrEnum):
    """Outcome of a check. ``UNKNOWN``: it could not be determined."""

    FAILED = "failed"
    WARNING = "warning"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    PASSED = "passed"


@dataclasses.dataclass(frozen=True)
class TextBlock:
    """A text with a title: a log, what a test printed. ``left_out`` counts its lines that are not here."""

    title: str
    text: str
    left_out: int = 0


@dataclasses.dataclass(frozen=True)
class ShownCommand:
    """A command that a check ran, and its output."""

    where: str
    """Name of the machine; empty for a command of this machine."""
    command: str
    output: str = ""
    code: int | None = None
    """Exit code; None for evidence that is not a command."""
    seconds: float = 0.0
    times: int = 1
    """Number of times that it ran in succession; the output is that of the last time, the seconds are of all."""


@dataclasses.dataclass(frozen=True)
class Observation:
    """Outcome of a check at one place, of those that look at several."""

    where: str
    outcome: CaseOutcome
    text: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class CheckedCase:
    """A check, or a test."""

    id: str
    name: str
    """In readable words."""
    outcome: CaseOutcome
    group: str = ""
    """Heading that it stands under."""
    description: str = ""
    place: str = ""
    """Machine or parameter of a test that runs several times."""
    seconds: float | None = None
    preparation: float = 0.0
    """Seconds before and after it: to boot a cluster, and to remove it."""
    commands: tuple[ShownCommand, ...] = ()
    more_commands: int = 0
    """Commands that are not listed."""
    observations: tuple[Observation, ...] = ()
    failure: str = ""
    """Text of its failure; why it was skipped."""
    texts: tuple[TextBlock, ...] = ()


@dataclasses.dataclass(frozen=True)
class ReportedMachine:
    """A node. Empty: could not be determined."""

    name: str
    address: str
    role: str
    """``control-plane`` or ``worker``."""
    architecture: str = ""
    system: str = ""
    kernel: str = ""
    kubernetes: str = ""
    runtime: str = ""


@dataclasses.dataclass(frozen=True)
class BootStep:
    """A step of a boot on one machine. Times are in seconds since its begin."""

    title: str
    where: str
    """Name of the machine; empty for what this machine did."""
    started: float
    seconds: float
    failed: bool = False


@dataclasses.dataclass(frozen=True)
class RunningImage:
    """A container image that containers run, by the digest that the machines report."""

    name: str
    digest: str
    pods: tuple[str, ...]
    origin: str = ""
    """``embedded`` or ``built`` for one that the CloudImage brings with this digest; empty for others."""


@dataclasses.dataclass(frozen=True)
class ReportedCluster:
    """A cluster that was checked."""

    name: str
    image: str = ""
    digest: str = ""
    kubernetes: str = ""
    given: bool = False
    """Its machines existed before."""
    embedded: int = 0
    boot_seconds: float = 0.0
    machines: tuple[ReportedMachine, ...] = ()
    steps: tuple[BootStep, ...] = ()
    images: tuple[RunningImage, ...] = ()
    logs: tuple[TextBlock, ...] = ()
    missing: tuple[str, ...] = ()
    """Parts that could not be read, with the reasons."""


@dataclasses.dataclass(frozen=True)
class ReportDocument:
    """All of a report."""

    title: str
    started: str
    """UTC, as ``2026-12-01 04:09``."""
    seconds: float
    version: str
    """Of slipway."""
    platform: str = ""
    cases: tuple[CheckedCase, ...] = ()
    clusters: tuple[ReportedCluster, ...] = ()
    complete: bool = True
    """False for a run that was interrupted or broke off: then it has not passed, whatever its checks say."""
    command: str = ""
    """The command that made it, as its reader knows it."""
    lead: str = ""
    """Subject of the checks, in a sentence."""

    @property
    def outcome(self) -> CaseOutcome:
        """FAILED with a failed check and without a passed one, as for a run that broke off; WARNING with a warning."""
        counts = self.counts
        if counts[CaseOutcome.FAILED] or not counts[CaseOutcome.PASSED] + counts[CaseOutcome.WARNING] or not self.complete:
            return CaseOutcome.FAILED
        return CaseOutcome.WARNING if counts[CaseOutcome.WARNING] else CaseOutcome.PASSED

    @property
    def counts(self) -> Mapping[CaseOutcome, int]:
        return collections.Counter(case.outcome for case in self.cases)


def severity(outcome: CaseOutcome) -> int:
    """The place of an outcome among all, the worst first."""
    return list(CaseOutcome).index(outcome)


def worst(outcomes: Iterable[CaseOutcome]) -> CaseOutcome:
    """The worst of some outcomes. Raises ValueError for none."""
    return min(outcomes, key=severity)


def to_text(value: Any) -> str:
    """Values of this module as JSON, for another process of the same run."""
    return json.dumps(dataclasses.asdict(value))


def of_text(kind: type[Values], text: str) -> Values:
    """The values that ``to_text`` wrote."""
    return typing.cast("Values", _restored(kind, json.loads(text)))


def _restored(kind: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast("type", kind)(**{name: _restored(hints[name], item) for name, item in value.items()})
    if typing.get_origin(kind) is tuple:
        (inner, _) = typing.get_args(kind)
        return tuple(_restored(inner, item) for item in value)
    return CaseOutcome(value) if kind is CaseOutcome else value
