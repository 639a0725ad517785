"""Preflight checks of the kernel, and of other software on a machine."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.cloudimage import enforcers
from harness.lifecycle.checks.facts import NEEDED, SCRIPT, WANTED
from harness.lifecycle.checks.findings import Result
from harness.lifecycle.checks.preflight import core, system
from harness.runtimes import profiles
from tests.unit.lifecycle.checks.machines import (
    NFTABLES,
    WANTED_HERE,
    bad,
    only,
    target,
    told,
)

BY_QUEUE = enforcers.among(["registry.k8s.io/networking/kube-network-policies:v0.8.0"])


V1: dict[str, Any] = {"cgroup": 1, "controllers": frozenset({"cpu", "cpuacct", "cpuset", "memory", "pids", "devices"})}


FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("sysctl", {"readonly": ("/proc/sys/net/ipv4/ip_forward",)}, "net/ipv4/ip_forward cannot be set"),
    ("cgroup", {"controllers": frozenset({"cpu", "cpuset", "pids"})}, "cgroup v2 without memory"),
    ("nat", {"nat": "no Table does not exist"}, "iptables cannot read the table nat: Table does not exist"),
    ("capabilities", {"capabilities": 1 << 24}, "root has no CAP_NET_ADMIN, CAP_SYS_ADMIN"),
    ("capabilities", {"kmsg": False}, "/dev/kmsg"),
    ("selinux", {"selinux": True}, "SELinux enforces"),
    ("ports", {"ports": frozenset({6443}), "owners": {6443: "nginx (8)"}}, "port 6443 is in use by nginx (8), the API server needs it"),
    ("ports", {"ports": frozenset({2379})}, "port 2379 is in use, etcd needs it"),
    (
        "leftovers",
        {"left": ("/etc/kubernetes/admin.conf",), "ports": frozenset({6443})},
        "/etc/kubernetes/admin.conf of another Kubernetes",
    ),
    ("leftovers", {"left": ("/var/lib/rancher/k3s/server",)}, "k3s-uninstall.sh"),
    ("leftovers", {"services": frozenset({"chrony", "k3s-agent"})}, "runs k3s-agent of another cluster"),
    ("cni", {"networks": ("05-calico.conflist",)}, "05-calico.conflist would be the network of pods"),
]


@pytest.mark.parametrize(("check", "changes", "says"), FAULTS)
def test_system_fault_is_only_failure_and_has_remedy(check: str, changes: dict[str, Any], says: str) -> None:
    only([finding for finding in bad(target(**changes)) if finding.result is Result.FAILED], check, Result.FAILED, says)


WARNINGS: list[tuple[str, dict[str, Any], str]] = [
    ("kernel-features", {"features": frozenset({"overlay", "nf_conntrack", "vxlan"})}, "no module br_netfilter"),
    ("sysctl", {"unforward": ("/etc/sysctl.conf",)}, "/etc/sysctl.conf switches net.ipv4.ip_forward off"),
    ("limits", {"files": 1024}, "open files at most 1024"),
    ("limits", {"tasks": 100}, "processes at most 100"),
    ("apparmor", {"apparmor": True}, "no apparmor_parser"),
    ("node-ports", {"ports": frozenset({31000})}, "listens on 31000"),
    ("ports", {"ports": frozenset({5001}), "owners": {5001: "nginx (8)"}}, "port 5001 is in use by nginx (8)"),
    ("cni", {"networks": ("87-podman-bridge.conflist", ".keep")}, "has /etc/cni/net.d/87-podman-bridge.conflist"),
    ("runtimes", {"services": frozenset({"docker", "chrony"})}, "runs Docker"),
    ("runtimes", {"services": frozenset({"crio", "chrony"})}, "runs crio"),
    ("runtimes", {"containers": {"default": 2}}, "containerd has containers (2 in default)"),
    ("firewall", {"services": frozenset({"firewalld", "chrony"})}, "firewalld is on"),
    ("firewall", {"drops": ("FORWARD",)}, "drops by default (FORWARD)"),
    ("cgroup", V1, "a kubelet refuses to start by itself since Kubernetes 1.35"),
    ("cgroup", V1, "Kubernetes removes its support, in 1.38 at the earliest"),
]


@pytest.mark.parametrize(("check", "changes", "says"), WARNINGS)
def test_system_warning_is_only_finding_and_has_remedy(check: str, changes: dict[str, Any], says: str) -> None:
    only(bad(target(**changes)), check, Result.WARNING, says)


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("ports", {"role": "worker", "ports": frozenset({2379})}),
        ("ports", {"ports": frozenset({5001}), "owners": {5001: "systemd (1)"}}),
        ("apparmor", {"apparmor": True, "tools": frozenset({*NEEDED, *WANTED, "apparmor_parser"})}),
        ("nat", {**NFTABLES, "nat": None}),
        ("nat", {**NFTABLES, "nat": "no Table does not exist"}),
        ("runtimes", {"containers": {"k8s.io": 3}, "cluster": "other 1"}),
    ],
)
def test_system_exceptions_pass(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.OK


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("cgroup", {"controllers": frozenset()}),
        ("kernel-features", {"features": frozenset()}),
        ("nat", {"nat": None}),
    ],
)
def test_system_without_facts_is_unknown(check: str, changes: dict[str, Any]) -> None:
    assert told(target(**changes))[check, "10.0.0.1"].result is Result.UNKNOWN


@pytest.mark.parametrize(
    ("check", "changes", "wanted", "result"),
    [
        ("kernel-features", {}, {"proxy_mode": "ipvs"}, Result.FAILED),
        ("kernel-features", {}, {"proxy_mode": "nftables"}, Result.FAILED),
        ("kernel-features", NFTABLES, {"proxy_mode": "nftables"}, Result.OK),
        ("nat", {**NFTABLES, "nat": "no Table does not exist"}, {"proxy_mode": "iptables"}, Result.FAILED),
        ("kernel-features", {"features": frozenset({"overlay", "br_netfilter", "nf_conntrack"})}, {"vxlan": False}, Result.OK),
        ("network-policies", {"has": {"nft_queue": False}}, {}, Result.OK),
        ("network-policies", {"has": {"nft_queue": True}}, {"enforcers": BY_QUEUE}, Result.OK),
        ("network-policies", {"has": {"nft_queue": False}}, {"enforcers": BY_QUEUE}, Result.FAILED),
        ("network-policies", {"has": {"ip_set": True}}, {"enforcers": BY_QUEUE}, Result.UNKNOWN),
        ("ports", {"ports": frozenset({5000})}, {"registry": False}, Result.OK),
        ("cni", {"networks": ("05-own.conflist",)}, {"vxlan": False}, Result.WARNING),
    ],
)
def test_system_result_depends_on_requirements(check: str, changes: dict[str, Any], wanted: dict[str, Any], result: Result) -> None:
    assert told(target(**changes), wanted=dataclasses.replace(WANTED_HERE, **wanted))[check, "10.0.0.1"].result is result


def test_sysctl_of_profile_is_required_only_with_profile() -> None:
    fixed = target(readonly=("/proc/sys/kernel/panic",))
    assert bad(fixed) == []
    (found,) = bad(fixed, wanted=dataclasses.replace(WANTED_HERE, sysctls=profiles.sysctls("cis")))
    assert (found.check, found.result, found.message) == ("sysctl", Result.FAILED, "kernel/panic cannot be set")
    # One that is as it should be already need not be set.
    assert 'echo "readonly /proc/sys/$name"' in SCRIPT
    assert "kernel/panic=10" in SCRIPT


def test_system_checks_have_one_case_each() -> None:
    checks = {name for name, rule in {**core.RULES, **core.JOINT_RULES}.items() if rule.__module__ == system.__name__}
    # These have tests of their own.
    assert checks - {check for check, _, _ in (*FAULTS, *WARNINGS)} == {"network-policies"}
