"""All preflight checks together."""

from __future__ import annotations

from harness.lifecycle.checks.findings import Result
from harness.lifecycle.checks.preflight import CHECKS
from harness.lifecycle.checks.preflight.core import ways
from tests.unit.lifecycle.checks.machines import (
    WANTED_HERE,
    target,
    told,
)


def test_preflight_fit_machines_pass_all_checks() -> None:
    found = told(target(), target("10.0.0.2", "worker"))
    assert {check for check, _ in found} == CHECKS.keys() - {"member"}
    assert {finding.message for finding in found.values() if finding.result not in (Result.OK, Result.UNKNOWN)} == set()
    # Ways are unknown as long as nothing was tried.
    assert {check for (check, _), finding in found.items() if finding.result is Result.UNKNOWN} == {"reach"}
    assert len(CHECKS) >= 40


def test_preflight_checks_have_valid_id_and_reason() -> None:
    for name, check in {**CHECKS}.items():
        assert check.id == name
        assert name == name.lower().replace(" ", "-")
        assert len(check.why) > 20
    assert {name for name, check in CHECKS.items() if check.needed} == {"access", "sudo", "cluster", "member", "architecture", "hostname"}
    assert ways(target(), [target()], WANTED_HERE) == ()
