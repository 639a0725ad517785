"""Preflight targets: ports, connections and members of the cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.lifecycle.checks.facts import Route
from harness.lifecycle.checks.findings import Result
from harness.lifecycle.checks.preflight import core, evaluate
from harness.lifecycle.checks.preflight.core import ours, same_names, ways
from tests.unit.lifecycle.checks.machines import (
    WANTED_HERE,
    bad,
    place,
    target,
)


def test_ways_control_plane_reaches_kubelets_and_worker_reaches_api() -> None:
    node, other, worker = target(), target("10.0.0.2"), target("10.0.0.3", "worker")
    everybody = (node, other, worker)
    assert set(ways(node, everybody, WANTED_HERE)) == {
        *(("10.0.0.2", port) for port in (6443, 5000, 2379, 2380, 10250)),
        ("10.0.0.3", 10250),
    }
    without = dataclasses.replace(WANTED_HERE, registry=False)
    assert set(ways(worker, everybody, without)) == {("10.0.0.1", 6443), ("10.0.0.2", 6443)}
    # Somebody else on a port need not answer; the cluster itself must.
    taken = target(ports=frozenset({6443}))
    assert ways(worker, (taken, worker), without) == ()
    assert ways(worker, (taken, worker), dataclasses.replace(without, ours=frozenset({"10.0.0.1"}))) == (("10.0.0.1", 6443),)


def test_evaluate_machine_of_same_cluster_has_no_findings_for_own_parts() -> None:
    held: dict[str, Any] = {
        "ports": frozenset({6443, 31000}),
        "left": ("/etc/kubernetes/admin.conf",),
        "networks": ("10-flannel.conflist",),
        "routes": (Route("cni0", "100.64.0.0/24"), Route("eth0", "0.0.0.0/0", "10.0.0.9")),
        "drops": ("FORWARD",),
        "hosts": (("10.0.0.1", "apiserver.cluster.local"), ("127.0.0.1", "localhost")),
        "containers": {"k8s.io": 9},
    }
    targets = [target(cluster="lab 01", **held, **place("/var/lib/slipway", free=0)), target("10.0.0.2", "worker")]
    mine = ours(targets, "lab")
    assert mine == {"10.0.0.1"}
    assert bad(*targets, wanted=dataclasses.replace(WANTED_HERE, ours=mine)) == []


def test_own_machines_exclude_cluster_of_same_name_with_other_identity() -> None:
    targets = [target(cluster="lab 01"), target("10.0.0.2", "worker", cluster="lab 02")]
    assert ours(targets, "lab") == {"10.0.0.1"}
    assert ours([target(), target("10.0.0.2", "worker", cluster="lab 02")], "lab") == frozenset()
    assert ours([target(cluster="other 01")], "lab") == frozenset()


def test_evaluate_members_are_judged_only_together_with_new_machines() -> None:
    wanted = dataclasses.replace(WANTED_HERE, ours=frozenset({"10.0.0.1"}))
    members = [target(cluster="lab 01", memory=1), target("10.0.0.2", cluster=None)]
    found = evaluate([target("10.0.0.9", "worker", host="host-1")], wanted, members)
    faults = {(one.check, one.where) for one in found if one.result is Result.FAILED}
    assert faults == {("member", "10.0.0.2"), ("hostname", "10.0.0.9"), ("hostname", "10.0.0.1")}
    (away,) = same_names([target("10.0.0.9", host="gone")], {"gone": "10.0.0.4"})
    assert str(away).startswith("10.0.0.9: has the host name of 10.0.0.4")
    assert same_names([target("10.0.0.9", host="gone")], {"gone": "10.0.0.9"}) == ()


def test_ports_of_role_are_those_of_its_components() -> None:
    node, worker = core.ports_of(target(), WANTED_HERE), core.ports_of(target("10.0.0.2", "worker"), WANTED_HERE)
    assert node[2379] == "etcd"
    assert 2379 not in worker
    assert (node[5000], worker[5000]) == ("the registry", "the registry balancer")
    assert 5000 not in core.ports_of(target(), dataclasses.replace(WANTED_HERE, registry=False))


def test_machine_of_another_kubernetes_is_occupied() -> None:
    assert not core.occupied(target())
    assert core.occupied(target(cluster="other 1"))
    assert core.occupied(target(left=("/etc/kubernetes/admin.conf",)))


def test_strangers_members_without_mark_are_reported_with_what_they_hold() -> None:
    texts = [each.message for each in core.strangers([target(), target("10.0.0.2", cluster="other 1")], WANTED_HERE)]
    assert texts == [
        "is not a machine of the cluster lab: it holds nothing of it",
        "is not a machine of the cluster lab: it belongs to other 1",
    ]


def test_joint_rules_report_members_only_where_they_name_them() -> None:
    joint = {finding.where for finding in evaluate([target()], WANTED_HERE, [target("10.0.0.2")]) if finding.check == "hostname"}
    single = {finding.where for finding in evaluate([target()], WANTED_HERE, [target("10.0.0.2")]) if finding.check == "memory"}
    assert (joint, single) == ({"10.0.0.1", "10.0.0.2"}, {"10.0.0.1"})
