"""Checks of a running cluster as the document of a page."""

from __future__ import annotations

import datetime

from harness.lifecycle import check_report
from harness.lifecycle.checks.findings import Check, Finding, Report, failed, ok, warning
from harness.lifecycle.checks.postflight import cis
from harness.report.model import CaseOutcome, Observation, ReportDocument, ReportedMachine

NOW = datetime.datetime(2026, 12, 1, 4, 9, tzinfo=datetime.UTC)
ITEMS = {
    "access": Check("access", "way in", "slipway can log in"),
    "1.2.15": Check("1.2.15", "API server: profiling", "kube-apiserver --profiling: false"),
    "2.1": Check("2.1", "etcd's certificate", "etcd --cert-file: its certificate"),
    "5.3.1": Check("5.3.1", "network policies", "the pod network enforces them"),
}
FINDINGS = (
    Finding.of("access", "10.0.0.1", ok("answers")),
    Finding.of("1.2.15", "10.0.0.1", failed("--profiling=true", "apiServer.extraArgs.profiling: false")),
    Finding.of("1.2.15", "10.0.0.2", ok("--profiling=false")),
    Finding.of("2.1", "10.0.0.1", warning("password: hunter2hunter2", "another")),
)


def document(cis: bool = True) -> ReportDocument:
    roles = {"10.0.0.1": "control-plane", "10.0.0.2": "worker"}
    return check_report.document(Report("shop", FINDINGS, ITEMS, {"10.0.0.1": "node-1"}, 8.94, roles, "v1.36.3"), cis=cis, now=NOW)


def test_document_has_check_for_each_item_that_found_anything() -> None:
    made = document()
    assert [(case.id, case.group, case.outcome) for case in made.cases] == [
        ("access", "Access", CaseOutcome.PASSED),
        ("1.2.15", "1.2 API server", CaseOutcome.FAILED),
        ("2.1", "2 etcd", CaseOutcome.WARNING),
    ]
    case = made.cases[1]
    assert (case.name, case.description) == ("API server: profiling", "kube-apiserver --profiling: false")
    assert case.observations == (
        Observation("10.0.0.1", CaseOutcome.FAILED, "--profiling=true", "apiServer.extraArgs.profiling: false"),
        Observation("10.0.0.2", CaseOutcome.PASSED, "--profiling=false"),
    )


def test_document_names_cluster_machines_time_and_command() -> None:
    made = document()
    assert (made.title, made.started, made.seconds, made.command) == (
        "Cluster shop", "2026-12-01 04:09", 8.9, "slipway check --post cis --report",
    )  # fmt: skip
    (cluster,) = made.clusters
    assert cluster.machines == (ReportedMachine("node-1", "10.0.0.1", "control-plane"), ReportedMachine("10.0.0.2", "10.0.0.2", "worker"))
    assert cluster.kubernetes == "v1.36.3"
    assert (document(cis=False).command, document(cis=False).cases[1].group) == ("slipway check --post --report", "Health")


def test_document_secrets_of_findings_are_replaced() -> None:
    assert document().cases[2].observations[0].text == "password: ***"


def test_document_every_item_of_benchmark_stands_under_section() -> None:
    assert [number for number in cis.CHECKS if check_report._section(number) == "Access"] == ["access"]
