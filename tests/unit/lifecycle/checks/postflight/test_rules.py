"""When a cluster counts as one that works, and how what does not is told."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, UsageError
from harness.lifecycle.checks import postflight
from harness.lifecycle.checks.findings import Finding, Result
from harness.lifecycle.checks.postflight import rules
from harness.lifecycle.checks.postflight.rules import CHECKS, Answer, EtcdMember, Health, PodAnswer, Unit, judge, percentile
from harness.lifecycle.checks.preflight import CHECKS as BEFORE
from harness.lifecycle.cluster.certificates import Certificate
from harness.lifecycle.cluster.change import Move, Version
from harness.lifecycle.kube import readiness
from harness.lifecycle.kube.etcd import Etcd
from harness.oci.store import Store
from harness.runtimes import ClusterNetwork
from tests.unit.lifecycle.checks.preflight.test_preflight import good
from tests.unit.lifecycle.checks.preflight.test_preflight import place as on_disk
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_status import cluster, deployment
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
    """A master and a worker with which nothing is wrong."""
    common = {"api": "ok", "service": "ok", "dns": "ok", "node_ports": {"10.0.0.1": "ok", "10.0.0.2": "ok"}}
    master = Answer(units={**UNITS, "slipway-registry": Unit("active")}, holds=True, images={"a:1": "ok"}, syncs=SYNCS, **common)  # type: ignore[arg-type]
    worker = Answer(
        units={**UNITS, "slipway-balancer": Unit("active")},
        images={"a:1": "ok"},
        servers={("api", "one"): "UP", ("registry", "one"): "UP"},
        **common,  # type: ignore[arg-type]
    )
    found = Health(
        name="lab",
        roles={"10.0.0.1": "master", "10.0.0.2": "node"},
        names={"10.0.0.1": "one", "10.0.0.2": "two"},
        version="v1.36.3",
        network=NETWORK,
        items=(node("one", "10.0.0.1", role="master"), node("two", "10.0.0.2")),
        machines={"10.0.0.1": good("one"), "10.0.0.2": good("two")},
        answers={"10.0.0.1": master, "10.0.0.2": worker},
        etcd=(EtcdMember("one", None, 20_000_000, leads=True),),
        certificates={"10.0.0.1": (certificate(365),), "10.0.0.2": (certificate(200),)},
        pods={"one": PodAnswer({"two": "ok"}, "ok", "ok"), "two": PodAnswer({"one": "ok"}, "ok", "ok")},
    )
    return dataclasses.replace(found, **changes)


def answer(number: int = 2, /, **changes: Any) -> Health:
    """The cluster with another answer of one machine."""
    found, address = well(), f"10.0.0.{number}"
    return dataclasses.replace(found, answers={**found.answers, address: dataclasses.replace(found.answers[address], **changes)})


def wrong(found: Health) -> list[Finding]:
    return [one for one in judge(found) if one.result in (Result.FAILED, Result.WARNING)]


def test_a_cluster_that_works_passes_every_check_and_nothing_is_unknown() -> None:
    found = judge(well())
    assert {one.check for one in found} == CHECKS.keys()
    assert [str(one) for one in found if one.result is not Result.OK] == []
    assert len(CHECKS) >= 25
    # Ids that both have mean the same.
    assert {name for name in CHECKS if name in BEFORE} == {"access", "clock", "disk-space", "etcd-disk", "network-policies"}


def pod(problem: str) -> readiness.Problem:
    return readiness.Problem(problem, "is not ready", events=("Failed: no image",))


OFF = (node("one", "10.0.0.1", role="master"), node("two", "10.0.0.2", ready=False))
PRESSED = {"type": "DiskPressure", "status": "True", "message": "kubelet has disk pressure"}


def pressed() -> tuple[dict[str, Any], ...]:
    two = node("two", "10.0.0.2")
    two["status"]["conditions"].append(PRESSED)
    return (OFF[0], two)


def version(text: str) -> tuple[dict[str, Any], ...]:
    two = node("two", "10.0.0.2")
    two["status"]["nodeInfo"]["kubeletVersion"] = text
    return (OFF[0], two)


SICK = (EtcdMember("one", None, 1), EtcdMember("two", None, 1), EtcdMember("three", "deadline exceeded"))
FULL = (EtcdMember("one", None, 2_100_000_000, leads=True),)


@pytest.mark.parametrize(
    ("check", "where", "found", "says"),
    [
        ("nodes", "two", well(items=OFF), "not ready: no network"),
        ("nodes", "10.0.0.2", well(items=OFF[:1]), "is no node of the cluster"),
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
        ("balancer", "10.0.0.2", answer(servers={("api", "one"): "DOWN", ("registry", "one"): "UP"}), "finds nobody for api"),
        ("registry", "10.0.0.1", answer(1, images={"a:1": "not found", "b:1": "ok"}), "does not give a:1: not found"),
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
def test_what_does_not_work_is_the_one_fault_and_has_a_remedy(check: str, where: str, found: Health, says: str) -> None:
    faults = [one for one in judge(found) if one.result is Result.FAILED]
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
        ("etcd-members", well(etcd=(SICK[0], EtcdMember("two", None, 1, learner=True))), "has no vote"),
        ("etcd-members", well(etcd=SICK[:2]), "2 members survive no more losses than 1"),
        ("etcd-size", well(etcd=(EtcdMember("one", None, 1_200_000_000),)), "1200 MB"),
        ("etcd-disk", answer(1, syncs={0.001: 1, 0.064: 100}), "within 64 ms"),
        ("certificates", well(certificates={"10.0.0.1": (certificate(9.5),)}), "apiserver.crt ends in 9 days"),
        ("balancer", answer(servers={("api", "one"): "UP", ("api", "two"): "DOWN"}), "does not find two (api)"),
        ("registry", answer(1, public=True), "gives images to every client that reaches it: it requires no login"),
    ],
)
def test_what_may_hurt_is_the_one_warning(check: str, found: Health, says: str) -> None:
    found_wrong = wrong(found)
    assert [(one.check, one.result) for one in found_wrong] == [(check, Result.WARNING)], found_wrong
    assert says in found_wrong[0].message
    assert found_wrong[0].remedy


def test_a_service_that_was_started_again_long_ago_is_forgiven() -> None:
    assert wrong(answer(units={"kubelet": Unit("active", 9, 86400)})) == []


def test_a_registry_of_the_site_is_nobodys_here() -> None:
    found = dataclasses.replace(answer(1, holds=False), own_registry=False)
    assert wrong(found) == []


def test_what_could_not_be_found_out_is_unknown_and_no_fault() -> None:
    empty = well(answers={"10.0.0.1": Answer(holds=True), "10.0.0.2": Answer()}, etcd=None, pods=None, certificates={}, machines={})
    assert wrong(empty) == []
    unknown = {one.check for one in judge(empty) if one.result is Result.UNKNOWN}
    assert {"etcd-members", "etcd-alarms", "pod-start", "pod-dns", "node-dns", "api-way", "registry", "services"} <= unknown


def test_an_api_that_is_silent_hides_nothing_else() -> None:
    silent = well(silent="connection refused", items=(), version=None, pods=None)
    assert [one.check for one in judge(silent) if one.result is Result.FAILED] == ["api"]


def test_machines_that_do_not_answer_are_told_first() -> None:
    gone = well(unreachable={"10.0.0.2": "10.0.0.2: no answer within 10 s"})
    (found,) = [one for one in judge(gone) if one.result is Result.FAILED]
    assert (found.check, str(found)) == ("access", "10.0.0.2: no answer within 10 s (bring it back, or: slipway remove lab 10.0.0.2)")


def test_etcds_own_counts_give_its_slowest_hundredth() -> None:
    assert percentile(SYNCS, 0.99) == 0.002
    assert percentile({}, 0.99) is None


# ---- reading ----------------------------------------------------------------------------------------------------------

SAID = """unit Id=kubelet.service
unit LoadState=loaded
unit ActiveState=active
unit SubState=running
unit NRestarts=3
unit ActiveEnterTimestampMonotonic=90000000
unit 
unit Id=slipway-balancer.service
unit LoadState=not-found
unit ActiveState=inactive
unit 
unit Id=containerd.service
unit LoadState=loaded
unit ActiveState=failed
unit SubState=failed
unit NRestarts=0
up 100.5
holds yes
api ok
image docker.io/library/nginx:1 ok
image registry.k8s.io/coredns/coredns:v1.14.2 ctr: not found
server api master-1 UP
server api master-2 DOWN 1/2
sync 0.001 10
sync 0.002 1.2e+03
"""  # noqa: W291 -- as it is printed


def test_the_answer_of_a_machine_is_read() -> None:
    found = postflight.parse(SAID)
    assert found.units == {"kubelet": Unit("active", 3, 10.5), "containerd": Unit("failed (failed)")}
    assert found.images == {"docker.io/library/nginx:1": "ok", "registry.k8s.io/coredns/coredns:v1.14.2": "ctr: not found"}
    assert found.servers == {("api", "master-1"): "UP", ("api", "master-2"): "DOWN 1/2"}
    assert (found.holds, found.public, found.api, found.syncs) == (True, False, "ok", {0.001: 10, 0.002: 1200})
    assert postflight.parse("holds yes\npublic yes\n").public
    assert postflight.parse("sh: not found\n") == Answer()


def test_what_was_tried_from_a_node_and_from_its_pod_is_told_apart() -> None:
    said = (
        "reach 10.96.0.1 443 ok\nreach 10.0.0.2 31234 refused\ndns \npod reach 100.64.1.2 9 refused\npod reach 100.64.2.2 9 silent\n"
        "pod reach 10.96.0.1 443 silent\n"
    )
    of_node = postflight.of_node(said, Answer(api="ok"), NETWORK)
    assert (of_node.api, of_node.service, of_node.node_ports) == ("ok", "ok", {"10.0.0.2": "refused"})
    assert "no answer came" in str(of_node.dns)
    of_pod = postflight.of_pod(said, {"100.64.1.2": "one", "100.64.2.2": "two"}, NETWORK)
    # Nobody listens in such a pod: its refusal is an answer.
    assert (of_pod.pods, of_pod.service, of_pod.dns) == ({"one": "ok", "two": "silent"}, "silent", None)
    assert postflight.of_pod("reach 10.96.0.1 443 ok", {}, NETWORK).trouble


@pytest.mark.parametrize(
    ("v4", "v6", "how"), [("refused", "refused", "ok"), ("refused", "silent", "silent"), ("silent", "refused", "silent")]
)
def test_a_pod_with_two_addresses_is_reached_when_both_are(v4: str, v6: str, how: str) -> None:
    said = f"pod reach 100.64.1.2 9 {v4}\npod reach fd00:64::2 9 {v6}\n"
    assert postflight.of_pod(said, {"100.64.1.2": "one", "fd00:64::2": "one"}, NETWORK).pods == {"one": how}


# ---- gathering --------------------------------------------------------------------------------------------------------


def test_pods_of_ours_go_whatever_happens(tmp_path: Path) -> None:
    access = cluster(tmp_path, [node("one", "10.0.0.1", role="master"), deployment("web", 1)])
    master: Any = access.masters[0]
    config = {"data": {"ClusterConfiguration": "networking: {podSubnet: 100.64.0.0/10, serviceSubnet: 10.96.0.0/22}"}}
    running = {"kind": "Pod", "metadata": {"name": "p", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
               "spec": {"nodeName": "one"},
               "status": {"phase": "Running", "podIP": "100.64.1.2", "podIPs": [{"ip": "100.64.1.2"}, {"ip": "fd00::2"}]}}  # fmt: skip
    master.answers = {
        "kubeadm-config": json.dumps(config),
        "get pods,services": json.dumps({"items": [running]}),
        "get pods": json.dumps({"items": [running]}),
        "get services": json.dumps({"items": [{"spec": {"ports": [{"nodePort": 31000}]}}]}),
        "get endpoints kube-dns": json.dumps({"subsets": [{"addresses": [{"ip": "100.64.1.9"}]}]}),
        "get service kube-dns": json.dumps({"spec": {"ports": [{"port": 53, "protocol": "TCP"}], "selector": {"k8s-app": "kube-dns"}}}),
        "sandbox": "registry.k8s.io/pause:3.10.2\n",
        "nsenter": "reach 10.96.0.1 443 ok\npod reach 10.96.0.1 443 ok\n",
        **master.answers,
    }
    found = postflight.gather(access, Store(tmp_path / "store"))
    assert found.pods == {"one": PodAnswer({}, None, "ok")}
    assert found.answers["10.0.0.1"].service == "ok"
    # What a check has left that was killed goes as well.
    assert any("delete pod/p" in command for command in master.commands)
    assert "delete pods,services -l slipway.dev/check=" in master.commands[-1]
    assert any("reach 10.0.0.1 31000" in command for command in master.commands)

    def interrupted() -> str:
        raise KeyboardInterrupt

    master.answers["nsenter"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        postflight.gather(access, Store(tmp_path / "store"))
    assert "delete pods,services -l slipway.dev/check=" in master.commands[-1]

    master.broken = {"apply --validate=false -f -"}
    found = postflight.gather(access, Store(tmp_path / "store"))
    assert found.pods is not None
    assert "exit code 1" in str(found.pods["one"].trouble)


def test_etcd_that_cannot_be_asked_is_unknown() -> None:
    assert postflight._etcd([StandIn()]) == {"etcd_trouble": "etcdctl member list: its answer cannot be read: nothing"}
    asked = StandIn()
    members = {"members": [{"ID": 7, "name": "one", "peerURLs": ["p"], "clientURLs": ["https://10.0.0.1:2379"]}]}
    status = [{"Endpoint": "https://10.0.0.1:2379", "Status": {"header": {"member_id": 7}, "dbSize": 42, "leader": 7}}]
    asked.answers = {
        "member list": json.dumps(members),
        "endpoint health": json.dumps([{"endpoint": "https://10.0.0.1:2379", "health": True}]),
        "endpoint status": json.dumps(status),
        "alarm list": json.dumps({"alarms": [{"memberID": 7, "alarm": 1}]}),
    }
    found = postflight._etcd([asked])
    assert found == {"etcd": (EtcdMember("one", None, 42, leads=True),), "alarms": ("NOSPACE",)}
    with pytest.raises(CheckError):
        Etcd([]).alarms()


def test_a_check_that_is_none_is_not_skipped(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--skip etcd-sise: no such check"):
        postflight.post("lab", skip=["etcd-sise"], home=tmp_path)
    assert rules.CHECKS is postflight.CHECKS


@pytest.mark.parametrize("odd", ["", "²", "-1", "1e999", "nan", "9" * 5000, "a b c", "\x1b[2J", "=", "NRestarts=²"])
def test_what_a_machine_prints_about_its_part_may_be_anything(odd: str) -> None:
    block = f"unit Id=kubelet.service\nunit LoadState=loaded\nunit NRestarts={odd}\nunit ActiveEnterTimestampMonotonic={odd}\nunit \n"
    postflight.parse(f"up {odd}\n{block}sync {odd} {odd}\nsync {odd}\nimage {odd}\nserver {odd}\napi {odd}\n{odd}\n")


POLICY = {"kind": "NetworkPolicy", "metadata": {"name": "deny", "namespace": "shop"}, "spec": {}}


def agent(image: str) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"name": "agent", "image": image}]}}}
    return {"kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "kube-system"}, "spec": spec}


def test_network_policies_that_nothing_enforces_are_said() -> None:
    (found,) = wrong(well(items=(*well().items, POLICY, POLICY, agent("docker.io/flannel/flannel:v0.28.10"))))
    assert (found.check, found.result) == ("network-policies", Result.WARNING)
    assert "nothing enforces shop/deny and 1 more" in str(found)


def test_network_policies_that_a_pod_network_enforces_are_well() -> None:
    assert wrong(well(items=(*well().items, POLICY, agent("quay.io/cilium/cilium:v1.19.0")))) == []


def test_network_policies_are_not_well_where_the_kernel_cannot_do_what_enforces_them() -> None:
    found = well(items=(*well().items, POLICY, agent("registry.k8s.io/networking/kube-network-policies:v0.8.0")))
    assert wrong(found) == []
    address = next(iter(found.machines))
    unable = {**found.machines, address: dataclasses.replace(found.machines[address], has={"nft_queue": False})}
    (told,) = wrong(dataclasses.replace(found, machines=unable))
    assert (told.check, told.where, told.result) == ("network-policies", address, Result.FAILED)
    assert "shop/deny there: kube-network-policies enforces nothing there: the kernel has no nft_queue" in told.message


@pytest.mark.parametrize(("image", "says"), [("docker.io/flannel/flannel:v1", "nothing would"), ("docker.io/calico/node:v3", "they would")])
def test_whether_policies_would_be_enforced_is_told_before_there_are_any(image: str, says: str) -> None:
    (told,) = (one for one in judge(well(items=(*well().items, agent(image)))) if one.check == "network-policies")
    assert (told.result, says in told.message) == (Result.OK, True)
