"""Clauses of the format (docs/format.md) and results of checking an image against them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.cloudimage.conformance.examined import ExaminedImage
from harness.errors import SlipwayError
from harness.untrusted import shown

MOST_EVIDENCE = 100
"""Faults of a clause that are kept; the rest is counted."""
_LONGEST = 300
"""Characters of a fault."""

MALFORMED = (SlipwayError, KeyError, TypeError, ValueError, AttributeError)
"""Exceptions of a reader that is given a value of another shape."""
_UNEXPECTED = (*MALFORMED, RecursionError)
"""Exceptions of a check that meets something which it did not expect: a fault of the image."""

Checked = Iterator[str | None]
"""Results of a check: for each thing that it looks at the fault, or None."""


def fault_of(where: str, make: Callable[[Mapping[str, Any]], object], value: Any) -> str | None:
    """Return the fault of a value that ``make`` can make nothing of, or None."""
    try:
        make(value)
    except KeyError as wrong:
        return f"{where}: has no {wrong.args[0]}"
    except MALFORMED as wrong:
        return f"{where}: {wrong}"
    return None


class ClauseOutcome(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclasses.dataclass(frozen=True)
class Clause:
    """A MUST of the format. ``check`` looks at every thing that the clause is about."""

    id: str
    """As in docs/format.md: ``CI-LAYOUT-1``. It never changes its meaning."""
    title: str
    things: str
    """Plural noun of what is checked."""
    check: Callable[[ExaminedImage], Checked]


@dataclasses.dataclass(frozen=True)
class ClauseResult:
    """Result of one clause."""

    clause: Clause
    outcome: ClauseOutcome
    checked: int
    """Things that were looked at, faulty ones included."""
    faults: tuple[str, ...] = ()
    """At most MOST_EVIDENCE, each one line that is harmless on a terminal."""
    faulty: int = 0
    """Faults altogether."""

    @property
    def evidence(self) -> tuple[str, ...]:
        """One line for a clause that holds, a line for each fault otherwise."""
        if self.faults:
            more = self.faulty - len(self.faults)
            return (*self.faults, f"and {more} more") if more else self.faults
        if self.outcome is ClauseOutcome.NOT_APPLICABLE:
            return (f"no {self.clause.things} to check",)
        return (f"{self.clause.things}: {self.checked}",)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.clause.id,
            "title": self.clause.title,
            "result": self.outcome.value,
            "checked": self.checked,
            "evidence": list(self.evidence),
        }


def evaluate(clause: Clause, image: ExaminedImage) -> ClauseResult:
    """Check an image against one clause. Whatever the image says, the result is at worst a failed clause."""
    checked = faulty = 0
    faults: list[str] = []

    def note(fault: str) -> None:
        nonlocal faulty
        faulty += 1
        if len(faults) < MOST_EVIDENCE:
            faults.append(line(fault))

    try:
        for fault in clause.check(image):
            checked += 1
            if fault is not None:
                note(fault)
    except _UNEXPECTED as wrong:
        checked += 1
        note(wrong.message if isinstance(wrong, SlipwayError) else f"cannot be understood: {wrong!r}")
    outcome = ClauseOutcome.FAILED if faults else ClauseOutcome.PASSED if checked else ClauseOutcome.NOT_APPLICABLE
    return ClauseResult(clause, outcome, checked, tuple(faults), faulty)


def line(text: str) -> str:
    """Text from an image as one harmless line of limited length."""
    clean = shown(text[: 2 * _LONGEST])
    return clean if len(clean) <= _LONGEST else f"{clean[:_LONGEST]}..."
