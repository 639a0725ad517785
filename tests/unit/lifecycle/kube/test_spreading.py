"""Name servers that are all on one node, and those that need not be moved."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import CommandError
from harness.lifecycle.kube import spreading
from tests.unit.lifecycle.kube.resources import made, node, pod

TOLERATIONS = [
    {"key": "CriticalAddonsOnly", "operator": "Exists"},
    {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
]
"""Those that kubeadm gives CoreDNS, and one that every pod has."""


def server(name: str, place: str | None, *, ready: bool = True, owned: bool = True, namespace: str = "kube-system") -> dict[str, Any]:
    one = pod(name, ready=ready, owned=owned)
    one["metadata"] |= {"namespace": namespace, "labels": {"k8s-app": "kube-dns"}}
    one["spec"] |= {"tolerations": TOLERATIONS, **({"nodeName": place} if place else {})}
    return one


def machine(name: str, *taints: tuple[str, str], ready: str = "True", **spec: Any) -> dict[str, Any]:
    one = node(ready)
    one["metadata"]["name"] = name
    one["spec"] = {"taints": [{"key": key, "effect": effect} for key, effect in taints], **spec}
    return one


FIRST = machine("first", ("node-role.kubernetes.io/control-plane", "NoSchedule"))
BOTH = [server("one", "first"), server("two", "first")]


def test_crowded_servers_on_first_node_are_moved_to_worker_or_control_plane_node() -> None:
    assert spreading.crowded([FIRST, machine("second"), *BOTH]) == "one"
    others = [server("one", "second"), server("two", "second", ready=False)]
    assert spreading.crowded([FIRST, machine("second"), *others]) == "two"


@pytest.mark.parametrize(
    "second",
    [
        machine("second", ready="False"),
        machine("second", ("node.kubernetes.io/not-ready", "NoSchedule")),
        machine("second", ("dedicated", "NoExecute")),
        machine("second", unschedulable=True),
        machine("first"),
    ],
)
def test_crowded_without_other_node_that_takes_pods_moves_nothing(second: dict[str, Any]) -> None:
    assert spreading.crowded([FIRST, second, *BOTH]) is None


def test_crowded_preferred_taint_does_not_keep_pods_away() -> None:
    assert spreading.crowded([FIRST, machine("second", ("dedicated", "PreferNoSchedule")), *BOTH]) == "one"


@pytest.mark.parametrize(
    "pods",
    [
        [],
        BOTH[:1],
        [server("one", "first"), server("two", "second")],
        [server("one", "first"), server("two", None)],
        [server("one", "first"), server("two", "first", owned=False)],
        [server("one", "first"), server("two", "first", namespace="web")],
        [BOTH[0], made("Pod", "other", namespace="kube-system", spec={"nodeName": "first"})],
    ],
)
def test_crowded_spread_single_or_foreign_servers_are_left_alone(pods: list[dict[str, Any]]) -> None:
    assert spreading.crowded([FIRST, machine("second"), *pods]) is None


def test_crowded_server_that_ends_already_counts_no_more() -> None:
    ending = server("one", "first")
    ending["metadata"]["deletionTimestamp"] = "2026-12-01T00:00:00Z"
    assert spreading.crowded([FIRST, machine("second"), ending, BOTH[1]]) is None


class Deleting:
    def __init__(self, error: CommandError | None = None) -> None:
        self.said: list[tuple[str, ...]] = []
        self.error = error

    def run(self, *argv: str) -> str:
        self.said.append(argv)
        if self.error is not None:
            raise self.error
        return ""


def test_spread_deletes_one_pod_without_waiting_for_its_end() -> None:
    kubectl = Deleting()
    assert spreading.spread(kubectl, [FIRST, machine("second"), *BOTH])
    assert kubectl.said == [("delete", "pod", "one", "--namespace=kube-system", "--wait=false")]
    assert not spreading.spread(kubectl, [FIRST, *BOTH])
    assert len(kubectl.said) == 1


def test_spread_pod_that_is_gone_meanwhile_is_no_fault() -> None:
    kubectl = Deleting(CommandError("pods one not found"))
    assert not spreading.spread(kubectl, [FIRST, machine("second"), *BOTH])
