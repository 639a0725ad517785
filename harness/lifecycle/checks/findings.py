"""What checks find: on which machine, how it is, what was seen, and what to do about it. Equal findings of many machines are told once."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness import log
from harness.errors import CheckError, NodeError, UsageError


class Result(enum.StrEnum):
    """How a thing is. ``FAILED``: what is wanted cannot come to be like this. ``UNKNOWN``: it could not be found out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


_ORDER = {Result.FAILED: 0, Result.WARNING: 1, Result.UNKNOWN: 2, Result.SKIPPED: 3, Result.OK: 4}


@dataclasses.dataclass(frozen=True)
class Check:
    """A thing that is looked at. Its id never changes its meaning."""

    id: str
    title: str
    why: str
    """What it is for, in a line."""
    needed: bool = False
    """It cannot be skipped: what follows would not work, or would destroy something."""


@dataclasses.dataclass(frozen=True)
class Seen:
    """How a thing is on one machine, or in a cluster."""

    result: Result
    text: str
    remedy: str = ""


def ok(text: str) -> Seen:
    return Seen(Result.OK, text)


def warning(text: str, remedy: str) -> Seen:
    return Seen(Result.WARNING, text, remedy)


def failed(text: str, remedy: str) -> Seen:
    return Seen(Result.FAILED, text, remedy)


def unknown(text: str, remedy: str = "") -> Seen:
    return Seen(Result.UNKNOWN, text, remedy)


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a check has seen at ``where``: the address of a machine, or the name of something."""

    where: str
    message: str
    remedy: str = ""
    result: Result = Result.FAILED
    check: str = ""
    """The id of the check."""

    @classmethod
    def of(cls, check: str, where: str, seen: Seen) -> Finding:
        return cls(where, seen.text, seen.remedy, seen.result, check)

    @property
    def seen(self) -> Seen:
        return Seen(self.result, self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}{f' ({self.remedy})' if self.remedy else ''}"


@dataclasses.dataclass(frozen=True)
class Group:
    """The same finding at several places."""

    check: str
    where: tuple[str, ...]
    seen: Seen


def group(findings: Iterable[Finding]) -> tuple[Group, ...]:
    """Equal findings as one, the worst first, else in the order in which they came."""
    places: dict[tuple[str, Seen], list[str]] = {}
    for finding in findings:
        places.setdefault((finding.check, finding.seen), []).append(finding.where)
    groups = (Group(check, tuple(dict.fromkeys(where)), seen) for (check, seen), where in places.items())
    return tuple(sorted(groups, key=lambda group: _ORDER[group.seen.result]))


def addresses(where: Sequence[str]) -> str:
    """Addresses in few words, in their order: ``10.0.0.1-10.0.0.6, 10.0.0.9``."""
    runs: list[list[str]] = []
    for address in sorted(where, key=_order):
        if runs and _follows(runs[-1][-1], address):
            runs[-1].append(address)
        else:
            runs.append([address])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _order(address: str) -> tuple[int, int]:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return 9, 0  # names stay as they came, behind
    return found.version, int(found)


def _follows(before: str, address: str) -> bool:
    try:
        return int(ipaddress.IPv4Address(address)) == int(ipaddress.IPv4Address(before)) + 1
    except ValueError:
        return False


def skip(findings: Iterable[Finding], ids: Iterable[str]) -> tuple[Finding, ...]:
    """The findings with what is wrong in some checks set aside; what was seen stays."""
    skipped = frozenset(ids)
    return tuple(
        dataclasses.replace(finding, result=Result.SKIPPED)
        if finding.check in skipped and finding.result in (Result.FAILED, Result.WARNING)
        else finding
        for finding in findings
    )


def check_ids(ids: Iterable[str], known: Mapping[str, Check], option: str = "--skip") -> frozenset[str]:
    """The ids that somebody wants to skip. Raises UsageError for one that is none, with the nearest, or that is needed."""
    wanted = frozenset(word.strip() for text in ids for word in text.split(",") if word.strip())
    for name in sorted(wanted):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{option} {name}: no such check", hint=f"did you mean {near[0]}?" if near else "slipway check --list shows them all"
            )
        if known[name].needed:
            raise UsageError(f"{option} {name}: this cannot be skipped", hint=known[name].why)
    return wanted


def require(findings: Iterable[Finding], option: str = "--skip-check") -> None:
    """Show the warnings. Raises CheckError that tells all faults at once."""
    groups = group(findings)
    for found in groups:
        if found.seen.result is Result.WARNING:
            log.warning(f"{addresses(found.where)}: {found.seen.text} ({found.seen.remedy}){_id(found)}")
    faults = [found for found in groups if found.seen.result is Result.FAILED]
    if faults:
        count = f"{len(faults)} thing{'s' if len(faults) > 1 else ''}"
        lines = [f"{addresses(fault.where)}: {fault.seen.text}{_id(fault)}\n  hint: {fault.seen.remedy}" for fault in faults]
        raise CheckError(
            f"{count} must be put right first; nothing has been changed\n" + "\n".join(lines),
            hint=f"{option} ID goes on in spite of one",
        )


def _id(found: Group) -> str:
    return f" [{found.check}]" if found.check else ""


def verdict(findings: Iterable[Finding], what: str, access: str = "access") -> None:
    """Raises NodeError when machines cannot be got into, else CheckError when anything failed."""
    faults = [finding for finding in group(findings) if finding.seen.result is Result.FAILED]
    if not faults:
        return
    count = f"{len(faults)} {'checks do' if len(faults) > 1 else 'check does'} not hold: {what}"
    if any(fault.check == access for fault in faults):
        raise NodeError(count, hint="the machines that cannot be reached come first")
    raise CheckError(count)


def to_json(findings: Sequence[Finding], checks: Mapping[str, Check], names: Mapping[str, str]) -> dict[str, Any]:
    """``{"healthy", "counts": {result: checks}, "checks": [{"id", "title", "result", "findings": [{"where", "name", "result", "seen",
    "remedy"}]}]}``; the result of a check is its worst one.
    """
    listed = []
    for check in checks.values():
        own = [finding for finding in findings if finding.check == check.id]
        if own:
            listed.append(
                {
                    "id": check.id,
                    "title": check.title,
                    "result": min((finding.result for finding in own), key=_ORDER.__getitem__).value,
                    "findings": [
                        {
                            "where": finding.where,
                            "name": names.get(finding.where),
                            "result": finding.result.value,
                            "seen": finding.message,
                            "remedy": finding.remedy or None,
                        }
                        for finding in own
                    ],
                }
            )
    counts = {result.value: sum(check["result"] == result.value for check in listed) for result in Result}
    return {"healthy": not counts["failed"], "counts": counts, "checks": listed}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found."""

    name: str
    """Of the cluster."""
    findings: tuple[Finding, ...]
    checks: Mapping[str, Check]
    names: Mapping[str, str]
    """Host names by address."""
    seconds: float

    @property
    def faults(self) -> int:
        return sum(group.seen.result is Result.FAILED for group in group(self.findings))
