"""Facts about a running cluster: what its nodes print, and the probes from nodes and pods."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError
from harness.lifecycle.checks.findings import Result
from harness.lifecycle.checks.postflight import gather, pods
from harness.lifecycle.checks.postflight.core import EtcdHealth, NodeAnswer, PodAnswer, Unit, evaluate
from harness.lifecycle.kube.etcd import Etcd
from harness.oci.store import Store
from tests.unit.lifecycle.checks.postflight.test_postflight import NETWORK, node
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_status import cluster, deployment

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
server api control-plane-1 UP
server api control-plane-2 DOWN 1/2
sync 0.001 10
sync 0.002 1.2e+03
"""  # noqa: W291 -- as it is printed


def test_parse_machine_answer_gives_units_images_servers_and_syncs() -> None:
    found = gather.parse(SAID)
    assert found.units == {"kubelet": Unit("active", 3, 10.5), "containerd": Unit("failed (failed)")}
    assert found.images == {"docker.io/library/nginx:1": "ok", "registry.k8s.io/coredns/coredns:v1.14.2": "ctr: not found"}
    assert found.servers == {("api", "control-plane-1"): "UP", ("api", "control-plane-2"): "DOWN 1/2"}
    assert (found.holds, found.public, found.api, found.syncs) == (True, False, "ok", {0.001: 10, 0.002: 1200})
    assert gather.parse("holds yes\npublic yes\n").public
    assert gather.parse("sh: not found\n") == NodeAnswer()


def test_pods_probe_output_of_node_and_pod_is_distinguished() -> None:
    said = (
        "reach 10.96.0.1 443 ok\nreach 10.0.0.2 31234 refused\ndns \npod reach 100.64.1.2 9 refused\npod reach 100.64.2.2 9 silent\n"
        "pod reach 10.96.0.1 443 silent\n"
    )
    of_node = pods.of_node(said, NodeAnswer(api="ok"), NETWORK)
    assert (of_node.api, of_node.service, of_node.node_ports) == ("ok", "ok", {"10.0.0.2": "refused"})
    assert "no answer came" in str(of_node.dns)
    of_pod = pods.of_pod(said, {"100.64.1.2": "one", "100.64.2.2": "two"}, NETWORK)
    # Nobody listens in such a pod: its refusal is an answer.
    assert (of_pod.pods, of_pod.service, of_pod.dns) == ({"one": "ok", "two": "silent"}, "silent", None)
    assert pods.of_pod("reach 10.96.0.1 443 ok", {}, NETWORK).trouble


@pytest.mark.parametrize(
    ("v4", "v6", "how"), [("refused", "refused", "ok"), ("refused", "silent", "silent"), ("silent", "refused", "silent")]
)
def test_of_pod_dual_stack_pod_is_reached_only_by_both_addresses(v4: str, v6: str, how: str) -> None:
    said = f"pod reach 100.64.1.2 9 {v4}\npod reach fd00:64::2 9 {v6}\n"
    assert pods.of_pod(said, {"100.64.1.2": "one", "fd00:64::2": "one"}, NETWORK).pods == {"one": how}


# ---- gathering --------------------------------------------------------------------------------------------------------


def test_gather_check_pods_are_deleted_after_success_and_interrupt(tmp_path: Path) -> None:
    access = cluster(tmp_path, [node("one", "10.0.0.1", role="control-plane"), deployment("web", 1)])
    control_plane_node: Any = access.control_plane[0]
    config = {"data": {"ClusterConfiguration": "networking: {podSubnet: 100.64.0.0/10, serviceSubnet: 10.96.0.0/22}"}}
    running = {"kind": "Pod", "metadata": {"name": "p", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z"},
               "spec": {"nodeName": "one"},
               "status": {"phase": "Running", "podIP": "100.64.1.2", "podIPs": [{"ip": "100.64.1.2"}, {"ip": "fd00::2"}]}}  # fmt: skip
    control_plane_node.answers = {
        "kubeadm-config": json.dumps(config),
        "get pods,services": json.dumps({"items": [running]}),
        "get pods": json.dumps({"items": [running]}),
        "get services": json.dumps({"items": [{"spec": {"ports": [{"nodePort": 31000}]}}]}),
        "get endpoints kube-dns": json.dumps({"subsets": [{"addresses": [{"ip": "100.64.1.9"}]}]}),
        "get service kube-dns": json.dumps({"spec": {"ports": [{"port": 53, "protocol": "TCP"}], "selector": {"k8s-app": "kube-dns"}}}),
        "sandbox": "registry.k8s.io/pause:3.10.2\n",
        "nsenter": "reach 10.96.0.1 443 ok\npod reach 10.96.0.1 443 ok\n",
        **control_plane_node.answers,
    }
    found = gather.gather(access, Store(tmp_path / "store"))
    assert found.pods == {"one": PodAnswer({}, None, "ok")}
    assert found.answers["10.0.0.1"].service == "ok"
    # What a check has left that was killed goes as well.
    assert any("delete pod/p" in command for command in control_plane_node.commands)
    assert "delete pods,services -l slipway.dev/check=" in control_plane_node.commands[-1]
    assert any("reach 10.0.0.1 31000" in command for command in control_plane_node.commands)

    def interrupted() -> str:
        raise KeyboardInterrupt

    control_plane_node.answers["nsenter"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        gather.gather(access, Store(tmp_path / "store"))
    assert "delete pods,services -l slipway.dev/check=" in control_plane_node.commands[-1]

    control_plane_node.broken = {"apply --validate=false -f -"}
    found = gather.gather(access, Store(tmp_path / "store"))
    assert found.pods is not None
    assert "exit code 1" in str(found.pods["one"].trouble)


def test_gather_unreadable_record_or_change_is_reported_and_hides_nothing_else(tmp_path: Path) -> None:
    access = cluster(tmp_path, [node("one", "10.0.0.1", role="control-plane")])
    answers = access.control_plane[0].answers  # type: ignore[attr-defined]
    good = answers["get configmap"]
    answers["get configmap"] = json.dumps({"data": {"image": "web:1", "Clusterfile": "a: [1"}})
    found = gather.gather(access, Store(tmp_path / "store"))
    assert (found.silent, found.version, len(found.items), list(found.unreadable)) == (None, "v1.36.3", 1, ["record"])
    failed = [(one.check, str(one)) for one in evaluate(found) if one.result is Result.FAILED and one.check in ("api", "record")]
    assert [check for check, _ in failed] == ["record"]
    assert "cannot be read: the stored Clusterfile" in failed[0][1]
    answers["get configmap"] = good
    for text in ({"move": "no JSON"}, {}):
        answers["configmap slipway-upgrade"] = json.dumps({"data": text})
        found = gather.gather(access, Store(tmp_path / "store"))
        assert (found.silent, found.record, list(found.unreadable)) == (None, True, ["change"])
        assert {one.check: one.result for one in evaluate(found)}["change"] is Result.FAILED


def test_etcd_health_is_read_from_answer_and_unknown_without_one() -> None:
    assert gather._etcd([StandIn()]) == {"etcd_trouble": "etcdctl member list: its answer cannot be read: nothing"}
    asked = StandIn()
    members = {"members": [{"ID": 7, "name": "one", "peerURLs": ["p"], "clientURLs": ["https://10.0.0.1:2379"]}]}
    status = [{"Endpoint": "https://10.0.0.1:2379", "Status": {"header": {"member_id": 7}, "dbSize": 42, "leader": 7}}]
    asked.answers = {
        "member list": json.dumps(members),
        "endpoint health": json.dumps([{"endpoint": "https://10.0.0.1:2379", "health": True}]),
        "endpoint status": json.dumps(status),
        "alarm list": json.dumps({"alarms": [{"memberID": 7, "alarm": 1}]}),
    }
    found = gather._etcd([asked])
    assert found == {"etcd": (EtcdHealth("one", None, 42, leads=True),), "alarms": ("NOSPACE",)}
    with pytest.raises(CheckError):
        Etcd([]).alarms()


GOOD = """unit Id=containerd.service
unit LoadState=loaded
unit ActiveState=active
unit NRestarts=2
holds yes
image docker.io/library/nginx:1 ok
server api one UP
sync 0.001 10
"""


@pytest.mark.parametrize("odd", ["", "²", "-1", "1e999", "nan", "9" * 5000, "a b c", "\x1b[2J", "=", "NRestarts=²"])
def test_parse_odd_lines_of_machine_answer_are_left_out(odd: str) -> None:
    block = f"unit Id=kubelet.service\nunit LoadState=loaded\nunit NRestarts={odd}\nunit ActiveEnterTimestampMonotonic={odd}\nunit \n"
    numbers = f"sync {odd} {odd}\nsync 0.5 {odd}\nsync {odd} 5\nsync {odd}\n"
    words = f"image {odd}\nimage docker.io/library/b:1 \nserver {odd}\nserver api two\napi {odd}\n{odd}\n"
    found = gather.parse(f"up {odd}\n{block}{numbers}{words}{GOOD}")
    assert found == dataclasses.replace(
        gather.parse(GOOD),
        units={"kubelet": Unit("unknown ()"), "containerd": Unit("active", 2)},
        api=odd,
        images={"docker.io/library/nginx:1": "ok"} | ({"a": "b c"} if odd == "a b c" else {}),
        servers={("api", "one"): "UP"} | ({("a", "b"): "c"} if odd == "a b c" else {}),
    )
    assert found.syncs == {0.001: 10}
    assert found.holds
