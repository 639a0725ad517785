"""Health checks: when a cluster counts as healthy, and the findings about one that is not."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.lifecycle.checks import postflight
from harness.lifecycle.checks.findings import Finding, Result
from harness.lifecycle.checks.postflight import control_plane, core, machines, network, workloads
from harness.lifecycle.checks.postflight.core import CHECKS, EtcdHealth, Health, NodeAnswer, PodAnswer, Unit, evaluate
from harness.lifecycle.checks.preflight import CHECKS as BEFORE
from harness.lifecycle.cluster.certificates import Certificate
from harness.lifecycle.cluster.change import Move, Version
from harness.lifecycle.kube import readiness
from harness.runtimes import ClusterNetwork
from tests.unit.lifecycle.checks.machines import good
from tests.unit.lifecycle.checks.machines import place as on_disk
from tests.unit.lifecycle.test_status import node as node_object

NETWORK = ClusterNetwork("100.64.0.0/10", "10.96.0.0/22")
UNITS = {"kubelet": Unit("active"), "containerd": Unit("active")}
SYNCS = {0.001: 10, 0.002: 990, 0.004: 1000}


def node(name: str, address: str, **changes: Any) -> dict[str, Any]:
    made = node_object(name, **changes)
    made["status"]["addresses"] = [{"type": "InternalIP", "address": address}]
    return made


def certificate(days: float, path: str = "/etc/kubernetes/pki/apiserver.crt") -> Certificate:
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return Certificate("one", "10.0.0.1", path, "kube-apiserver", "kubernetes", False, ends)


def well(**changes: Any) -> Health:
    """A control-plane node and a worker with which nothing is wrong."""
    common: dict[str, Any] = {"api": "ok", "service": "ok", "dns": "ok", "node_ports": {"10.0.0.1": "ok", "10.0.0.2": "ok"}}
    control_plane_node = NodeAnswer(
        units={**UNITS, "slipway-registry": Unit("active")}, holds=True, images={"a:1": "ok"}, syncs=SYNCS, **common
    )
    worker = NodeAnswer(
        units={**UNITS, "slipway-balancer": Unit("active")},
        images={"a:1": "ok"},
        servers={("api", "one"): "UP", ("registry", "one"): "UP"},
        **common,
    )
    found = Health(
        name="lab",
        roles={"10.0.0.1": "control-plane", "10.0.0.2": "worker"},
        names={"10.0.0.1": "one", "10.0.0.2": "two"},
        version="v1.36.3",
        network=NETWORK,
        items=(node("one", "10.0.0.1", role="control-plane"), node("two", "10.0.0.2")),
        machines={"10.0.0.1": good("one"), "10.0.0.2": good("two")},
        answers={"10.0.0.1": control_plane_node, "10.0.0.2": worker},
        etcd=(EtcdHealth("one", None, 20_000_000, leads=True),),
        certificates={"10.0.0.1": (certificate(365),), "10.0.0.2": (certificate(200),)},
        pods={"one": PodAnswer({"two": "ok"}, "ok", "ok"), "two": PodAnswer({"one": "ok"}, "ok", "ok")},
    )
    return dataclasses.replace(found, **changes)


def answer(number: int = 2, /, **changes: Any) -> Health:
    """The cluster with another answer of one machine."""
    found, address = well(), f"10.0.0.{number}"
    return dataclasses.replace(found, answers={**found.answers, address: dataclasses.replace(found.answers[address], **changes)})


def wrong(found: Health) -> list[Finding]:
    return [one for one in evaluate(found) if one.result in (Result.FAILED, Result.WARNING)]


def test_evaluate_healthy_cluster_passes_all_checks() -> None:
    found = evaluate(well())
    assert {one.check for one in found} == CHECKS.keys()
    assert [str(one) for one in found if one.result is not Result.OK] == []
    assert len(CHECKS) >= 25
    # Ids that both have mean the same.
    assert {name for name in CHECKS if name in BEFORE} == {"access", "clock", "disk-space", "etcd-disk", "network-policies"}


def pod(problem: str) -> readiness.Problem:
    return readiness.Problem(problem, "is not ready", events=("Failed: no image",))


OFF = (node("one", "10.0.0.1", role="control-plane"), node("two", "10.0.0.2", ready=False))
PRESSED = {"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}


def pressed() -> tuple[dict[str, Any], ...]:
    two = node("two", "10.0.0.2")
    two["status"]["conditions"].append(PRESSED)
    return (OFF[0], two)


def version(text: str) -> tuple[dict[str, Any], ...]:
    two = node("two", "10.0.0.2")
    two["status"]["nodeInfo"]["kubeletVersion"] = text
    return (OFF[0], two)


SICK = (EtcdHealth("one", None, 1), EtcdHealth("two", None, 1), EtcdHealth("three", "deadline exceeded"))
FULL = (EtcdHealth("one", None, 2_100_000_000, leads=True),)


@pytest.mark.parametrize(
    ("check", "where", "found", "says"),
    [
        ("nodes", "two", well(items=OFF), "not ready: no network"),
        ("nodes", "10.0.0.2", well(items=OFF[:1]), "is not a node of the cluster"),
        ("pressure", "two", well(items=pressed()), "DiskPressure: kubelet has disk pressure"),
        ("versions", "two", well(items=version("v1.37.0")), "is newer than the API server v1.36.3"),
        ("versions", "two", well(items=version("v1.32.9")), "too old for the API server"),
        ("services", "10.0.0.2", answer(units={"kubelet": Unit("failed (failed)")}), "kubelet is failed"),
        ("system-pods", "Pod kube-flannel/flannel-1", well(problems=(pod("Pod kube-flannel/flannel-1"),)), "is not ready"),
        ("system-pods", "Pod kube-system/dns-1", well(problems=(pod("Pod kube-system/dns-1"),)), "is not ready"),
        ("workloads", "Deployment web/shop", well(problems=(pod("Deployment web/shop"),)), "is not ready"),
        ("etcd-members", "three", well(etcd=SICK), "deadline exceeded; one more lost and nothing can be changed"),
        ("etcd-size", "one", well(etcd=FULL), "2100 MB of 2147"),
        ("etcd-alarms", "lab", well(alarms=("NOSPACE",)), "etcd raised NOSPACE"),
        ("certificates", "10.0.0.1", well(certificates={"10.0.0.1": (certificate(-2), certificate(9))}), "apiserver.crt expired"),
        ("api-way", "10.0.0.2", answer(api="connection refused"), "the API does not answer it: connection refused"),
        ("balancer", "10.0.0.2", answer(servers={("api", "one"): "DOWN", ("registry", "one"): "UP"}), "finds no server for api"),
        ("registry", "10.0.0.1", answer(1, images={"a:1": "not found", "b:1": "ok"}), "does not serve a:1: not found"),
        ("registry", "10.0.0.1", answer(1, lost=("x", "y")), "lacks 2 blobs"),
        ("registry-way", "10.0.0.2", answer(images={"a:1": "connection refused"}), "gets no images"),
        ("node-services", "10.0.0.2", answer(service="silent"), "the Service of the API does not answer"),
        ("node-port-way", "10.0.0.2", answer(node_ports={"10.0.0.1": "refused", "10.0.0.2": "ok"}), "a NodePort on 10.0.0.1 is refused"),
        ("node-dns", "10.0.0.2", answer(dns="no answer came"), "DNS: no answer came"),
        ("pod-network", "one", well(pods={"one": PodAnswer({"two": "silent"}, "ok", "ok")}), "do not reach those on two"),
        ("pod-services", "one", well(pods={"one": PodAnswer({"two": "ok"}, "ok", "refused")}), "the Service of the API is refused"),
        ("pod-dns", "one", well(pods={"one": PodAnswer({"two": "ok"}, "no such name", "ok")}), "DNS: no such name"),
        ("pod-start", "one", well(pods={"one": PodAnswer(trouble="image cannot be pulled")}), "image cannot be pulled"),
    ],
)
def test_evaluate_fault_is_only_failure_and_has_remedy(check: str, where: str, found: Health, says: str) -> None:
    faults = [one for one in evaluate(found) if one.result is Result.FAILED]
    assert [(one.check, one.where) for one in faults] == [(check, where)], faults
    assert says in faults[0].message
    assert faults[0].remedy


HALF_WAY = Move.new("upgrade", Version("web:1", "sha256:1", "v1.36.3"), Version("web:2", "sha256:2", "v1.36.4"))


@pytest.mark.parametrize(
    ("check", "found", "says"),
    [
        ("record", well(record=False), "has no record"),
        ("change", well(change=HALF_WAY), "the upgrade from web:1 (Kubernetes v1.36.3) to web:2 (Kubernetes v1.36.4)"),
        ("nodes", well(items=(OFF[0], node("two", "10.0.0.2", cordoned=True))), "takes no pods"),
        ("versions", well(items=version("v1.33.4")), "its kubelet is v1.33.4, the API server v1.36.3"),
        ("services", answer(units={"kubelet": Unit("active", 9, 60)}), "kubelet 9 times"),
        ("disk-space", well(machines={"10.0.0.1": good(**on_disk("/var/lib/etcd", total=100, free=5))}), "5% of /var/lib/etcd free"),
        ("clock", well(machines={"10.0.0.1": good(), "10.0.0.2": good(ahead=7200.0)}), "7200 s ahead"),
        ("etcd-members", well(etcd=(SICK[0], EtcdHealth("two", None, 1, learner=True))), "without a vote"),
        ("etcd-members", well(etcd=SICK[:2]), "2 members tolerate no more losses than 1"),
        ("etcd-size", well(etcd=(EtcdHealth("one", None, 1_200_000_000),)), "1200 MB"),
        ("etcd-disk", answer(1, syncs={0.001: 1, 0.064: 100}), "within 64 ms"),
        ("certificates", well(certificates={"10.0.0.1": (certificate(9.5),)}), "apiserver.crt expires in 9 days"),
        ("balancer", answer(servers={("api", "one"): "UP", ("api", "two"): "DOWN"}), "does not find two (api)"),
        ("registry", answer(1, public=True), "serves images to every client that reaches it: it requires no login"),
    ],
)
def test_evaluate_risk_is_only_warning_and_has_remedy(check: str, found: Health, says: str) -> None:
    found_wrong = wrong(found)
    assert [(one.check, one.result) for one in found_wrong] == [(check, Result.WARNING)], found_wrong
    assert says in found_wrong[0].message
    assert found_wrong[0].remedy


def test_services_restarted_long_ago_pass() -> None:
    assert wrong(answer(units={"kubelet": Unit("active", 9, 86400)})) == []


def test_registry_of_site_is_not_expected_on_machines() -> None:
    found = dataclasses.replace(answer(1, holds=False), own_registry=False)
    assert wrong(found) == []


def test_evaluate_missing_facts_are_unknown_and_not_faults() -> None:
    empty = well(answers={"10.0.0.1": NodeAnswer(holds=True), "10.0.0.2": NodeAnswer()}, etcd=None, pods=None, certificates={}, machines={})
    assert wrong(empty) == []
    unknown = {one.check for one in evaluate(empty) if one.result is Result.UNKNOWN}
    assert {"etcd-members", "etcd-alarms", "pod-start", "pod-dns", "node-dns", "api-way", "registry", "services"} <= unknown


def test_evaluate_silent_api_is_only_failure() -> None:
    silent = well(silent="connection refused", items=(), version=None, pods=None)
    assert [one.check for one in evaluate(silent) if one.result is Result.FAILED] == ["api"]


def test_access_unreachable_machine_is_only_failure_with_remedy() -> None:
    gone = well(unreachable={"10.0.0.2": "10.0.0.2: no answer within 10 s"})
    (found,) = [one for one in evaluate(gone) if one.result is Result.FAILED]
    assert (found.check, str(found)) == ("access", "10.0.0.2: no answer within 10 s (start it again, or: slipway remove lab 10.0.0.2)")


def test_evaluate_unreachable_machines_are_reported_before_all_other_findings() -> None:
    gone = {address: f"{address}: no answer within 10 s" for address in ("10.0.0.1", "10.0.0.2")}
    faulty = well(
        unreachable={"10.0.0.2": gone["10.0.0.2"]},
        answers={"10.0.0.1": NodeAnswer(api="refused", units={"kubelet": Unit("failed (failed)")})},
    )
    first, *others = wrong(faulty)
    assert (first.check, first.where) == ("access", "10.0.0.2")
    assert others
    assert "access" not in {one.check for one in others}
    silent = wrong(well(unreachable=gone, silent="connection refused", items=(), version=None, pods=None, answers={}))
    assert [(one.check, one.where) for one in silent[:2]] == [("access", "10.0.0.1"), ("access", "10.0.0.2")]
    assert silent[2].check == "api"


def test_percentile_of_etcd_sync_counts_gives_slowest_hundredth() -> None:
    assert control_plane.percentile(SYNCS, 0.99) == 0.002
    assert control_plane.percentile({}, 0.99) is None


POLICY = {"kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": "shop"}, "spec": {}}


def agent(image: str) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"name": "agent", "image": image}]}}}
    return {"kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "kube-system"}, "spec": spec}


def test_network_policies_without_enforcer_are_warned_about() -> None:
    (found,) = wrong(well(items=(*well().items, POLICY, POLICY, agent("docker.io/flannel/flannel:v0.28.10"))))
    assert (found.check, found.result) == ("network-policies", Result.WARNING)
    assert "nothing enforces shop/deny and 1 more" in str(found)


def test_network_policies_with_enforcing_pod_network_pass() -> None:
    assert wrong(well(items=(*well().items, POLICY, agent("quay.io/cilium/cilium:v1.19.0")))) == []


def test_network_policies_with_incapable_kernel_fail() -> None:
    found = well(items=(*well().items, POLICY, agent("registry.k8s.io/networking/kube-network-policies:v0.8.0")))
    assert wrong(found) == []
    address = next(iter(found.machines))
    unable = {**found.machines, address: dataclasses.replace(found.machines[address], has={"nft_queue": False})}
    (told,) = wrong(dataclasses.replace(found, machines=unable))
    assert (told.check, told.where, told.result) == ("network-policies", address, Result.FAILED)
    assert "shop/deny on it: kube-network-policies enforces nothing there: the kernel has no nft_queue" in told.message


@pytest.mark.parametrize(("image", "says"), [("docker.io/flannel/flannel:v1", "nothing would"), ("docker.io/calico/node:v3", "they would")])
def test_network_policies_enforcement_is_reported_without_policies(image: str, says: str) -> None:
    (told,) = (one for one in evaluate(well(items=(*well().items, agent(image)))) if one.check == "network-policies")
    assert (told.result, says in told.message) == (Result.OK, True)


def test_post_unknown_check_to_skip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--skip etcd-sise: no such check"):
        postflight.post("lab", skip=["etcd-sise"], home=tmp_path)


def test_checks_are_reported_by_module_machines_first() -> None:
    order = dict.fromkeys(rule.__module__ for rule in core.RULES.values())
    assert list(order) == [module.__name__ for module in (machines, workloads, control_plane, network)]
    assert core.CHECKS is postflight.CHECKS
