"""Findings: merged, shown, skipped, and as JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness.errors import CheckError, NodeError, UsageError
from harness.lifecycle.checks import findings
from harness.lifecycle.checks.findings import Finding, Result, addresses, group, require, require_healthy, to_json
from harness.lifecycle.checks.preflight import CHECKS, evaluate
from tests.unit.lifecycle.checks.machines import (
    WANTED_HERE,
    target,
)


def test_require_reports_all_faults_at_once_and_merges_equal_ones() -> None:
    six = [target(f"10.0.0.{number}", memory=1) for number in range(1, 7)]
    with pytest.raises(CheckError, match="2 things must be put right first; nothing has been changed") as caught:
        require(evaluate([*six, target("10.0.0.9", systemd=False)], WANTED_HERE))
    lines = caught.value.message.splitlines()
    assert lines[1] == "10.0.0.1-10.0.0.6: has 0 MiB of memory: too small [memory]"
    assert lines[2] == "  hint: give it 2 GiB or more"
    assert lines[3] == "10.0.0.9: does not run systemd [systemd]"
    assert caught.value.hint == "--skip-check ID continues in spite of one"


def test_addresses_three_or_more_consecutive_are_shown_as_range() -> None:
    assert addresses(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9", "node-1"]) == "10.0.0.1-10.0.0.3, 10.0.0.9, node-1"
    assert addresses(["10.0.0.2", "10.0.0.1"]) == "10.0.0.1, 10.0.0.2"
    assert addresses(["fd00::1"]) == "fd00::1"


def test_require_healthy_failed_access_raises_node_error_other_fault_check_error() -> None:
    access = Finding.of("access", "10.0.0.9", findings.failed("no answer", "start it"))
    memory = Finding.of("memory", "10.0.0.1", findings.failed("too small", "more"))
    require_healthy([dataclasses.replace(memory, result=Result.WARNING)], "not fit")
    with pytest.raises(CheckError, match="1 check does not hold: not fit"):
        require_healthy([memory], "not fit")
    with pytest.raises(NodeError, match=r"2 checks do not hold: not fit\n  hint: mend the login to 10\.0\.0\.9 first"):
        require_healthy([memory, access], "not fit")


def test_to_json_lists_findings_by_check_as_plain_data() -> None:
    found = to_json(evaluate([target(memory=1), target("10.0.0.2", "worker", cpus=1)], WANTED_HERE), CHECKS, {"10.0.0.1": "one"})
    json.dumps(found)
    memory = next(check for check in found["checks"] if check["id"] == "memory")
    assert (found["healthy"], memory["result"]) == (False, "failed")
    assert [one["result"] for one in memory["findings"]] == ["failed", "ok"]
    assert memory["findings"][0] == {
        "where": "10.0.0.1", "name": "one", "result": "failed", "seen": "has 0 MiB of memory: too small", "remedy": "give it 2 GiB or more"
    }  # fmt: skip
    assert found["counts"]["warning"] == 1


def test_group_orders_findings_worst_first() -> None:
    order = [one.verdict.result for one in group(evaluate([target(memory=1, cpus=1, os={})], WANTED_HERE))]
    assert order == sorted(order, key=["failed", "warning", "unknown", "skipped", "ok"].index)


def test_group_merges_equal_verdicts_of_one_check_only() -> None:
    verdict = findings.warning("is old", "update it")
    listed = [
        Finding.of("os", "a", verdict),
        Finding.of("os", "b", verdict),
        Finding.of("kernel", "a", verdict),
        Finding.of("os", "a", verdict),
    ]
    assert [(each.check, each.where) for each in group(listed)] == [("os", ("a", "b")), ("kernel", ("a",))]


def test_check_ids_are_split_at_commas_and_blanks_are_dropped() -> None:
    known = {name: findings.Check(name, name, "reason", needed=name == "cluster") for name in ("swap", "memory", "cluster")}
    assert findings.check_ids(["swap, memory", " ,"], known) == {"swap", "memory"}
    with pytest.raises(UsageError, match="--skip clusterr: no such check") as caught:
        findings.check_ids(["clusterr"], known)
    assert caught.value.hint == "did you mean cluster?"
    with pytest.raises(UsageError, match="--skip cluster: this cannot be skipped"):
        findings.check_ids(["cluster"], known)


def test_report_counts_equal_failures_once() -> None:
    failure = findings.failed("too small", "more")
    listed = (Finding.of("memory", "a", failure), Finding.of("memory", "b", failure), Finding.of("cpu", "a", findings.ok("4")))
    assert findings.Report("lab", listed, {}, {}, 1.0).faults == 1
