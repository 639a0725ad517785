"""The checks of a running cluster as the document of a page: each with its number or id, its outcome, and what was seen where."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from harness import about
from harness.lifecycle.checks.findings import Check, Finding, Report, Result
from harness.report import text
from harness.report.model import CaseOutcome, CheckedCase, Observation, ReportDocument, ReportedCluster, ReportedMachine, worst

_OUTCOMES = {
    Result.OK: CaseOutcome.PASSED,
    Result.WARNING: CaseOutcome.WARNING,
    Result.FAILED: CaseOutcome.FAILED,
    Result.UNKNOWN: CaseOutcome.UNKNOWN,
    Result.SKIPPED: CaseOutcome.SKIPPED,
}
_LONGEST = 2000
"""Characters of one text of a check."""
_SECTIONS: Mapping[str, str] = {
    "1.1": "Files of the control plane",
    "1.2": "API server",
    "1.3": "Controller manager",
    "1.4": "Scheduler",
    "2": "etcd",
    "3.1": "Sign-in",
    "3.2": "Audit log",
    "4.1": "Files of the nodes",
    "4.2": "Kubelets",
    "4.3": "kube-proxy",
    "5.1": "Rights and service accounts",
    "5.2": "Pod security",
    "5.3": "Network policies",
    "5.4": "Secrets",
    "5.5": "Admission of images",
    "5.6": "Namespaces and pods",
    "5.7": "Namespaces and pods",
}
"""Sections of the CIS Kubernetes Benchmark, by the begin of the numbers of their items."""
_CIS = "The cluster was held against the CIS Kubernetes Benchmark 1.12, item by item. Items that only a person can judge are not in it."
_HEALTH = "The running cluster was checked: its machines, its control plane, its workloads, and connections between them."


def document(report: Report, *, cis: bool, now: datetime.datetime | None = None) -> ReportDocument:
    """The outcome of all checks. ``cis``: they are items of the benchmark."""
    machines = tuple(
        ReportedMachine(text.clean(report.names.get(address, address), _LONGEST), address, role) for address, role in report.roles.items()
    )
    return ReportDocument(
        title=f"Cluster {report.name}",
        started=f"{now or datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M}",
        seconds=round(report.seconds, 1),
        version=about.version(),
        cases=tuple(_cases(report, cis=cis)),
        clusters=(ReportedCluster(report.name, kubernetes=text.clean(report.kubernetes, _LONGEST), machines=machines),),
        command=f"slipway check --post{' cis' if cis else ''} --report",
        lead=_CIS if cis else _HEALTH,
    )


def _cases(report: Report, *, cis: bool) -> list[CheckedCase]:
    """The checks that found anything, in their order."""
    by_check: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_check.setdefault(finding.check, []).append(finding)
    return [_case(check, by_check[check.id], cis=cis) for check in report.checks.values() if check.id in by_check]


def _case(check: Check, findings: Sequence[Finding], *, cis: bool) -> CheckedCase:
    seen = tuple(
        Observation(
            text.clean(finding.where, _LONGEST), _OUTCOMES[finding.result], text.clean(finding.message, _LONGEST),
            text.clean(finding.remedy, _LONGEST),
        )
        for finding in findings
    )  # fmt: skip
    title = check.title[:1].upper() + check.title[1:]
    return CheckedCase(
        check.id, title, worst(one.outcome for one in seen), _section(check.id) if cis else "Health", check.why, observations=seen
    )


def _section(number: str) -> str:
    """``1.2 API server`` for ``1.2.15``; ``Access`` for the check that is not an item of the benchmark."""
    for begin in (".".join(number.split(".")[:2]), number.split(".", maxsplit=1)[0]):
        if begin in _SECTIONS:
            return f"{begin} {_SECTIONS[begin]}"
    return "Access"
