"""Preflight checks of processor, system, memory and disks."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.lifecycle.checks.facts import NEEDED, WANTED
from harness.lifecycle.checks.findings import Result
from harness.lifecycle.checks.preflight import ProbeResult, core, machine
from tests.unit.lifecycle.checks.machines import (
    GIB,
    MIB,
    WANTED_HERE,
    bad,
    only,
    place,
    target,
    told,
)

FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("architecture", {"arch": "arm64"}, "is linux/arm64, the image is for linux/amd64 (build it with --platform linux/arm64)"),
    ("memory", {"memory": GIB // 2}, "512 MiB of memory: too small"),
    ("kernel", {"kernel": "3.8.1"}, "too old"),
    ("systemd", {"systemd": False}, "does not run systemd"),
    ("programs", {"tools": frozenset({*NEEDED, *WANTED} - {"tar", "iptables"})}, "has no tar, iptables"),
    ("disk-space", place("/var/lib/slipway", free=GIB), "has 1.0 GiB free in /var/lib/slipway, 1.2 GiB are needed"),
    ("disk-space", place("/var/lib/etcd", free=10 * MIB), "has 10 MiB free in /var/lib/etcd, 256 MiB are needed"),
    (
        "disk-space",
        place("/var/lib/containerd", total=20 * GIB, free=2 * GIB),
        "10% of /var/lib/containerd is free: no pod would be admitted",
    ),
    ("inodes", place("/var/lib/containerd", inodes=10000, free_inodes=500), "500 inodes free on /var/lib/containerd"),
    ("mount-options", place("/var/lib/slipway", flags=frozenset({"noexec"})), "is mounted noexec"),
    ("read-only", {"readonly": ("/etc",)}, "/etc cannot be written to"),
    ("cluster", {"cluster": "other 99"}, "belongs to a cluster other"),
]


@pytest.mark.parametrize(("check", "changes", "says"), FAULTS)
def test_machine_fault_is_only_failure_and_has_remedy(check: str, changes: dict[str, Any], says: str) -> None:
    only([finding for finding in bad(target(**changes)) if finding.result is Result.FAILED], check, Result.FAILED, says)


WARNINGS: list[tuple[str, dict[str, Any], str]] = [
    ("cpu", {"cpus": 1}, "one processor"),
    ("memory", {"memory": 1200 * MIB}, "has 1.2 GiB"),
    ("memory", {"available": 100 * MIB}, "only 100 MiB free"),
    ("os", {"os": {"ID": "debian", "VERSION_ID": "9"}}, "is old"),
    ("os", {"os": {"ID": "gentoo", "PRETTY_NAME": "Gentoo"}}, "Gentoo: slipway was not tried on it"),
    ("kernel", {"kernel": "4.4.0-21"}, "is old"),
    ("swap", {"swap": ("/dev/sda2",)}, "swaps to /dev/sda2"),
    ("programs", {"tools": frozenset(NEEDED)}, "has no conntrack, socat"),
    ("disk-space", place("/var/lib/containerd", total=10 * GIB, free=2 * GIB), "8% of /var/lib/containerd will be free"),
    ("inodes", place("/var/lib/containerd", inodes=10_000_000, free_inodes=99_000), "99000 inodes free"),
    ("filesystem", place("/var/lib/etcd", kind="tmpfs"), "is in memory"),
    ("filesystem", place("/var/lib/etcd", kind="nfs4"), "/var/lib/etcd is on nfs4"),
    ("filesystem", place("/var/lib/containerd", kind="overlay"), "overlays do not work there"),
    ("mount-options", place("/var/lib/kubelet", flags=frozenset({"noexec", "nosuid"})), "noexec: volumes of pods will be, too"),
    ("etcd-disk", {"probe": ProbeResult(syncs=(0.001,) * 18 + (0.03, 0.04))}, "etcd's disk takes 30.0 ms"),
]


@pytest.mark.parametrize(("check", "changes", "says"), WARNINGS)
def test_machine_warning_is_only_finding_and_has_remedy(check: str, changes: dict[str, Any], says: str) -> None:
    only(bad(target(**changes)), check, Result.WARNING, says)


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("disk-space", {"role": "worker", **place("/var/lib/etcd", free=0)}),
        ("etcd-disk", {"role": "worker", "probe": ProbeResult(syncs=(1.0,))}),
        ("filesystem", {"role": "worker", **place("/var/lib/etcd", kind="tmpfs")}),
        ("disk-space", place("/var/lib/etcd", total=100 * GIB, free=5 * GIB)),
        ("disk-space", place("/var/lib/kubelet", total=100 * GIB, free=11 * GIB)),
        ("inodes", place("/var/lib/containerd", kind="btrfs", inodes=0, free_inodes=0)),
        ("os", {"os": {"ID": "acme", "ID_LIKE": "rhel fedora", "VERSION_ID": "9.2"}}),
    ],
)
def test_machine_exceptions_pass(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.OK


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("os", {"os": {}}),
        ("kernel", {"kernel": ""}),
        ("disk-space", {"places": {}}),
        ("etcd-disk", {"probe": ProbeResult()}),
    ],
)
def test_machine_without_facts_is_unknown(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.UNKNOWN


@pytest.mark.parametrize(
    ("check", "changes", "wanted", "result"),
    [
        ("architecture", {"arch": "riscv64"}, {"platforms": ()}, Result.OK),
        ("disk-space", place("/var/lib/containerd", total=20 * GIB, free=2 * GIB), {"evicts_later": True}, Result.WARNING),
    ],
)
def test_machine_result_depends_on_requirements(check: str, changes: dict[str, Any], wanted: dict[str, Any], result: Result) -> None:
    assert told(target(**changes), wanted=dataclasses.replace(WANTED_HERE, **wanted))[check, "10.0.0.1"].result is result


def test_disk_space_with_eviction_thresholds_of_user_passes() -> None:
    crowded = place("/var/lib/containerd", total=20 * GIB, free=2 * GIB)
    assert told(target(**crowded))["disk-space", "10.0.0.1"].result is Result.FAILED
    assert told(target(**crowded, evicts_otherwise=True))["disk-space", "10.0.0.1"].result is Result.OK


def test_machine_checks_have_one_case_each() -> None:
    checks = {name for name, rule in {**core.RULES, **core.JOINT_RULES}.items() if rule.__module__ == machine.__name__}
    assert checks - {check for check, _, _ in (*FAULTS, *WARNINGS)} == set()
