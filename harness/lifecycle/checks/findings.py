"""Findings of checks: the place, the verdict and the remedy. Equal findings of many machines are reported once."""

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
    """Result of a check. ``FAILED``: the command would fail. ``UNKNOWN``: it could not be determined."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


_ORDER = {Result.FAILED: 0, Result.WARNING: 1, Result.UNKNOWN: 2, Result.SKIPPED: 3, Result.OK: 4}


@dataclasses.dataclass(frozen=True)
class Check:
    """A check. Its id never changes its meaning."""

    id: str
    title: str
    why: str
    """Its purpose, in a line."""
    needed: bool = False
    """It cannot be skipped: what follows would not work, or would destroy something."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result of a check at one place."""

    result: Result
    text: str
    remedy: str = ""


def ok(text: str) -> Verdict:
    return Verdict(Result.OK, text)


def warning(text: str, remedy: str) -> Verdict:
    return Verdict(Result.WARNING, text, remedy)


def failed(text: str, remedy: str) -> Verdict:
    return Verdict(Result.FAILED, text, remedy)


def unknown(text: str) -> Verdict:
    return Verdict(Result.UNKNOWN, text)


@dataclasses.dataclass(frozen=True)
class Finding:
    """The verdict of a check at ``where``: the address of a machine, or the name of an object."""

    where: str
    message: str
    remedy: str = ""
    result: Result = Result.FAILED
    check: str = ""
    """The id of the check."""

    @classmethod
    def of(cls, check: str, where: str, verdict: Verdict) -> Finding:
        return cls(where, verdict.text, verdict.remedy, verdict.result, check)

    @property
    def verdict(self) -> Verdict:
        return Verdict(self.result, self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}{f' ({self.remedy})' if self.remedy else ''}"


@dataclasses.dataclass(frozen=True)
class FindingGroup:
    """The same finding at several places."""

    check: str
    where: tuple[str, ...]
    verdict: Verdict


def group(findings: Iterable[Finding]) -> tuple[FindingGroup, ...]:
    """Merge equal findings; the worst come first, otherwise the order is kept."""
    places: dict[tuple[str, Verdict], list[str]] = {}
    for finding in findings:
        places.setdefault((finding.check, finding.verdict), []).append(finding.where)
    groups = (FindingGroup(check, tuple(dict.fromkeys(where)), verdict) for (check, verdict), where in places.items())
    return tuple(sorted(groups, key=lambda group: _ORDER[group.verdict.result]))


def addresses(where: Sequence[str]) -> str:
    """Sorted addresses in short form: ``10.0.0.1-10.0.0.6, 10.0.0.9``."""
    runs: list[list[str]] = []
    for address in sorted(where, key=_order):
        if runs and _follows(runs[-1][-1], address):
            runs[-1].append(address)
        else:
            runs.append([address])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _order(address: str) -> tuple[int, int]:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return 9, 0  # names keep their order, behind
    return parsed.version, int(parsed)


def _follows(before: str, address: str) -> bool:
    try:
        return int(ipaddress.IPv4Address(address)) == int(ipaddress.IPv4Address(before)) + 1
    except ValueError:
        return False


def skip(findings: Iterable[Finding], ids: Iterable[str]) -> tuple[Finding, ...]:
    """Mark failures and warnings of some checks as skipped; their texts stay."""
    skipped = frozenset(ids)
    return tuple(
        dataclasses.replace(finding, result=Result.SKIPPED)
        if finding.check in skipped and finding.result in (Result.FAILED, Result.WARNING)
        else finding
        for finding in findings
    )


def check_ids(ids: Iterable[str], checks: Mapping[str, Check], option: str = "--skip") -> frozenset[str]:
    """Split and validate ids given to ``option``. Raises UsageError for an unknown one, with the nearest, and for one that is needed."""
    names = frozenset(word.strip() for text in ids for word in text.split(",") if word.strip())
    for name in sorted(names):
        if name not in checks:
            near = difflib.get_close_matches(name, checks, n=1)
            raise UsageError(
                f"{option} {name}: no such check", hint=f"did you mean {near[0]}?" if near else "slipway check --list shows all checks"
            )
        if checks[name].needed:
            raise UsageError(f"{option} {name}: this cannot be skipped", hint=checks[name].why)
    return names


def require(findings: Iterable[Finding], option: str = "--skip-check") -> None:
    """Print the warnings. Raises CheckError with all failures."""
    groups = group(findings)
    for each in groups:
        if each.verdict.result is Result.WARNING:
            log.warning(f"{addresses(each.where)}: {each.verdict.text} ({each.verdict.remedy}){_id(each)}")
    faults = [each for each in groups if each.verdict.result is Result.FAILED]
    if faults:
        count = f"{len(faults)} thing{'s' if len(faults) > 1 else ''}"
        lines = [f"{addresses(fault.where)}: {fault.verdict.text}{_id(fault)}\n  hint: {fault.verdict.remedy}" for fault in faults]
        raise CheckError(
            f"{count} must be put right first; nothing has been changed\n" + "\n".join(lines),
            hint=f"{option} ID continues in spite of one",
        )


def _id(fault: FindingGroup) -> str:
    return f" [{fault.check}]" if fault.check else ""


def require_healthy(findings: Iterable[Finding], what: str) -> None:
    """Raises NodeError when a login to a machine failed, else CheckError when any other check did."""
    faults = [finding for finding in group(findings) if finding.verdict.result is Result.FAILED]
    if not faults:
        return
    count = f"{len(faults)} {'checks do' if len(faults) > 1 else 'check does'} not hold: {what}"
    away = sorted({place for fault in faults if fault.check == "access" for place in fault.where})
    if away:
        raise NodeError(count, hint=f"mend the login to {addresses(away)} first: the other checks need it")
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
    """The outcome of all checks of a cluster."""

    name: str
    """Of the cluster."""
    findings: tuple[Finding, ...]
    checks: Mapping[str, Check]
    names: Mapping[str, str]
    """Host names by address."""
    seconds: float
    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """``control-plane`` or ``worker``, by address, of a cluster that runs."""
    kubernetes: str = ""
    """Version, where it was asked for."""

    @property
    def faults(self) -> int:
        return sum(each.verdict.result is Result.FAILED for each in group(self.findings))
