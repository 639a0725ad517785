"""Reports for tests of the page."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.report.model import (
    BootStep,
    CaseOutcome,
    CheckedCase,
    Observation,
    ReportDocument,
    ReportedCluster,
    ReportedMachine,
    RunningImage,
    ShownCommand,
    TextBlock,
)

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
NAMES = ("test-7-1-abc-control-plane-1", "test-7-1-abc-worker-1", "test-7-1-abc-worker-2")
FILE = "kubefiles/web/test_web.py"


def machine(number: int) -> ReportedMachine:
    role = "control-plane" if number == 0 else "worker"
    facts = ("amd64", "Debian GNU/Linux 12 (bookworm)", "6.18.0", "v1.36.3", "containerd://2.4.2")
    return ReportedMachine(NAMES[number], f"192.168.16.{number + 2}", role, *facts)


MACHINES = tuple(machine(number) for number in range(3))
STEPS = (
    BootStep("make 3 machines", "", 0.0, 6.2),
    *(BootStep("send the image", name, 6.3, 9.5 + number) for number, name in enumerate(NAMES)),
    *(BootStep("start containerd", name, 17.0 + number, 0.4) for number, name in enumerate(NAMES)),
    BootStep("start the control plane", NAMES[0], 20.0, 11.0),
    BootStep("run the launch commands", NAMES[0], 31.5, 42.5),
)
CLUSTER = ReportedCluster(
    "test-7-1-abc",
    "web:latest",
    DIGEST,
    "v1.36.3",
    embedded=12,
    boot_seconds=74.2,
    machines=MACHINES,
    steps=STEPS,
    images=(
        RunningImage("slipway.dev/nginx:1.22", f"sha256:{'1' * 64}", ("default/web-1", "default/web-2"), "built"),
        RunningImage("registry.k8s.io/etcd:3.6.16-0", f"sha256:{'2' * 64}", ("kube-system/etcd",), "embedded"),
    ),
    logs=(
        TextBlock("events of the cluster", "2026-12-01T04:09:00Z Pulled Pod default/web-1: image is present"),
        TextBlock("kubelet on worker-1", "Dec 01 04:09:00 worker-1 kubelet[12]: started", 240),
    ),
)
PAGE = ShownCommand(NAMES[1], "curl -s http://192.168.16.3:30080/", "<h1>Hello from a CloudImage</h1>\n", 0, 0.21)
PING = ShownCommand(NAMES[0], "kubectl exec deploy/redis -- redis-cli -h redis ping", "PONG\n", 0, 0.3)
CASES = (
    CheckedCase(
        f"{FILE}::test_web_page_answers_on_each_node[worker-1]",
        "Web page answers on each node",
        CaseOutcome.PASSED,
        FILE,
        "The page of the Service stands on a port of every node.",
        NAMES[1],
        seconds=0.24,
        preparation=74.4,
        commands=(PAGE,),
    ),
    CheckedCase(f"{FILE}::test_redis", "Redis answers through its service", CaseOutcome.PASSED, FILE, seconds=0.31, commands=(PING,)),
    CheckedCase(f"{FILE}::test_other", "Numbers add up", CaseOutcome.PASSED, FILE, seconds=0.001),
    CheckedCase(f"{FILE}::test_large", "Large clusters", CaseOutcome.SKIPPED, FILE, failure="needs 3 control-plane nodes", seconds=0.0),
)
FAILED = CheckedCase(
    f"{FILE}::test_dns",
    "Pods resolve names",
    CaseOutcome.FAILED,
    FILE,
    seconds=3.2,
    commands=(ShownCommand(NAMES[2], "nslookup redis", "server can't find redis: NXDOMAIN", 1, 3.1),),
    failure="E   AssertionError: assert 'Address' in 'NXDOMAIN'",
    texts=(TextBlock("state of the cluster test-7-1-abc", "Pod kube-system/coredns-1: container coredns keeps failing"),),
)


def document(**changes: Any) -> ReportDocument:
    """A run of tests that has passed."""
    made = ReportDocument(
        "web:latest",
        "2026-12-01 04:09",
        81.0,
        "0.1.0",
        "linux/amd64",
        CASES,
        (CLUSTER,),
        command="pytest --test-report",
        lead="The tests of this image ran on machines without a way to the internet.",
    )
    return dataclasses.replace(made, **changes)


def audit() -> ReportDocument:
    """A running cluster against the benchmark."""
    cases = (
        CheckedCase(
            "1.2.15",
            "API server: profiling",
            CaseOutcome.PASSED,
            "1.2 API server",
            "kube-apiserver --profiling: false",
            observations=tuple(Observation(f"10.0.0.{number}", CaseOutcome.PASSED, "--profiling=false") for number in range(1, 4)),
        ),
        CheckedCase(
            "1.2.11",
            "images pulled always",
            CaseOutcome.WARNING,
            "1.2 API server",
            observations=(
                Observation("10.0.0.1", CaseOutcome.WARNING, "--enable-admission-plugins=NodeRestriction", "add AlwaysPullImages"),
            ),
        ),
        CheckedCase(
            "4.2.1",
            "anonymous requests",
            CaseOutcome.FAILED,
            "4.2 kubelet",
            observations=(
                Observation("10.0.0.4", CaseOutcome.FAILED, "anonymous requests are answered", "authentication.anonymous.enabled: false"),
                Observation("10.0.0.1", CaseOutcome.PASSED, "off"),
            ),
        ),
    )
    machines = tuple(
        ReportedMachine(f"node-{number}", f"10.0.0.{number}", "control-plane" if number < 4 else "worker") for number in range(1, 7)
    )
    return ReportDocument(
        "Cluster shop", "2026-12-01 04:09", 9.0, "0.1.0", cases=cases, clusters=(ReportedCluster("shop", machines=machines),),
        command="slipway check --post cis --report",
    )  # fmt: skip
