"""A report as one HTML file: it holds all that it shows, needs no script and asks nothing of a network (harness/assets/report)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from harness import assets, log
from harness.errors import UsageError
from harness.host import durable
from harness.report import timeline, topology
from harness.report.model import CaseOutcome, CheckedCase, Observation, ReportDocument, ReportedCluster, severity
from harness.report.words import short_names
from harness.website import markup

TEMPLATES = assets.FOLDER / "report"
_STYLES = (assets.FOLDER / "website/style.css", TEMPLATES / "report.css")
LONGEST = 64 << 10
"""Characters of a text that the page shows; texts are cut before, so that this is a last bound."""
_WIDE, _NARROW = 4, 1
"""Machines in a row of the drawing, for a screen and for a phone."""
_CLASSES: Mapping[CaseOutcome, str] = {
    CaseOutcome.PASSED: "good",
    CaseOutcome.FAILED: "bad",
    CaseOutcome.WARNING: "warn",
    CaseOutcome.UNKNOWN: "warn",
    CaseOutcome.SKIPPED: "plain",
}
"""Class of the style of each outcome."""
_BAD = (CaseOutcome.FAILED, CaseOutcome.WARNING)
MOST_LINKS = 50
"""Failed checks that are listed above all others."""
_MANY = 60
"""Checks of a page whose groups are folded where nothing failed."""
_NOUNS = {CaseOutcome.WARNING: ("warning", "warnings")}


def prepare(path: Path) -> None:
    """Remove an earlier page, which must not pass for the new one. Raises UsageError when nothing can be written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
        path.unlink()
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path}: {error.strerror or error}", hint="a report needs a file that can be written")


def write(document: ReportDocument, path: Path) -> None:
    """Write the page, in one move. Raises UsageError when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, render(document), mode=0o644)
    except OSError as error:
        raise _refused(path, error) from error


def render(document: ReportDocument) -> bytes:
    """The page."""
    names: dict[str, str] = {}
    for cluster in document.clusters:
        shown = _names(cluster)
        names |= shown | {machine.address: shown[machine.name] for machine in cluster.machines}
    return (
        _environment()
        .get_template("report.html")
        .render(
            document=document,
            classes=_CLASSES,
            duration=_duration,
            verdict=verdict(document),
            counts=list(_counts(document)),
            clusters=[_cluster(cluster, document.cases, number) for number, cluster in enumerate(document.clusters)],
            groups=list(_groups(document.cases)),
            bad=[(number, case) for number, case in enumerate(document.cases) if case.outcome in _BAD][:MOST_LINKS],
            fold=len(document.cases) > _MANY,
            names=names,
            images=list(dict.fromkeys((one.image, one.digest) for one in document.clusters if one.digest)),
            observed=_observed,
        )
        .encode()
    )


def _duration(seconds: float) -> str:
    return log.duration(seconds) if seconds >= 0.05 else "<0.1 s"


def verdict(document: ReportDocument) -> str:
    """The outcome in a sentence: ``All 7 checks passed``."""
    counts = document.counts
    judged = len(document.cases) - counts[CaseOutcome.SKIPPED]
    if not document.complete:
        return f"The run broke off: {counts[CaseOutcome.PASSED]} of {judged} finished checks passed"
    if not judged:
        return "No check was run"
    if counts[CaseOutcome.FAILED]:
        return f"{counts[CaseOutcome.FAILED]} of {judged} checks failed"
    bad = [f"{counts[one]} {'ended' if one is CaseOutcome.WARNING else 'could'} {_TOLD[one]}" for one in _TOLD if counts[one]]
    if bad:
        return f"No check failed; {' and '.join(bad)}"
    return "The only check passed" if judged == 1 else f"All {judged} checks passed"


_TOLD = {CaseOutcome.WARNING: "with a warning", CaseOutcome.UNKNOWN: "not be determined"}


def _counts(document: ReportDocument) -> Iterator[tuple[str, str]]:
    """Class and words of each outcome that there is, the worst first."""
    for outcome in CaseOutcome:
        count = document.counts[outcome]
        if count:
            one, several = _NOUNS.get(outcome, (outcome.value, outcome.value))
            yield _CLASSES[outcome], f"{count} {one if count == 1 else several}"


def _names(cluster: ReportedCluster) -> dict[str, str]:
    return short_names([machine.name for machine in cluster.machines])


def _cluster(cluster: ReportedCluster, cases: Sequence[CheckedCase], number: int) -> dict[str, Any]:
    """The view of a cluster: its drawing in two widths, and the chart of its boot."""
    shown = _names(cluster)
    used = topology.uses(cases, cluster.machines)
    drawings = [(kind, topology.draw(cluster, shown, used, columns)) for kind, columns in (("broad", _WIDE), ("narrow", _NARROW))]
    roles = [machine.role == topology.CONTROL_PLANE for machine in cluster.machines]
    control_plane, workers = sum(roles), len(roles) - sum(roles)
    return {
        "of": cluster,
        "id": f"cluster-{number + 1}",
        "names": shown,
        "uses": used,
        "drawings": drawings if cluster.machines else [],
        "size": f"{control_plane} control-plane node{'' if control_plane == 1 else 's'} and {workers} worker{'' if workers == 1 else 's'}",
        "chart": timeline.chart(cluster.steps, [machine.name for machine in cluster.machines], shown) if cluster.steps else None,
    }


def _groups(cases: Sequence[CheckedCase]) -> Iterator[dict[str, Any]]:
    """Headings with their checks, which are numbered, in the order of their first check, and the outcomes of each group."""
    groups: dict[str, list[tuple[int, CheckedCase]]] = {}
    for number, case in enumerate(cases):
        groups.setdefault(case.group, []).append((number, case))
    for heading, listed in groups.items():
        outcomes = [case.outcome for _, case in listed]
        words = [(_CLASSES[one], f"{outcomes.count(one)} {one.value}") for one in CaseOutcome if one in outcomes]
        yield {"heading": heading, "cases": listed, "words": words, "bad": any(outcome in _BAD for outcome in outcomes)}


def _observed(observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """Observations as rows: what is the same at several places is one row, the worst first."""
    rows: dict[tuple[CaseOutcome, str, str], list[str]] = {}
    for one in observations:
        rows.setdefault((one.outcome, one.text, one.remedy), []).append(one.where)
    listed: list[dict[str, Any]] = [
        {"outcome": outcome, "text": text, "remedy": remedy, "where": where} for (outcome, text, remedy), where in rows.items()
    ]
    return sorted(listed, key=lambda row: severity(row["outcome"]))


@functools.cache
def _environment() -> jinja2.Environment:
    return markup.environment(TEMPLATES, "".join(path.read_text() for path in _STYLES), longest=LONGEST)
