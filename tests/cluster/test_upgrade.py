"""A cluster goes to the next minor version of Kubernetes, killed again and again on the way, and who uses it notices nothing.

The older Kubernetes is another one: it is compiled from its own modules first. What has nothing to do with versions is in test_change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.lifecycle import rollout
from harness.lifecycle.provision import rootfs_update
from harness.runtimes.kubeadm import CONFIG
from tests.cluster import market
from tests.cluster.conftest import PROJECT
from tests.cluster.lab import MEMBERS, Client, Lab, kill_at, kubeadm_upgrades, until
from tests.cluster.traffic import Traffic
from tests.conftest import KUBERNETES, Slipway
from tests.waiting import HANG

OLD, NEW = "v1.36.3", KUBERNETES
LATER = f"{NEW.rpartition('.')[0]}.99"
NODES = ("control-plane-1", "control-plane-2", "control-plane-3", "worker-1", "worker-2")
REQUESTS = 10_000
MOMENTS = (
    "note that the upgrade begins",
    "keep a backup on the control-plane nodes",
    "bring the new files",
    "change control-plane node NAME-control-plane-1",
    "change control-plane node NAME-control-plane-2",
    "change control-plane node NAME-control-plane-3",
    "update the cluster's configuration",
    "change worker NAME-worker-1",
    "change worker NAME-worker-2",
    "launch: ",
)
"""The steps at whose beginning the command is killed, in order."""


@pytest.fixture(scope="module")
def images(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two versions of an application, each with a Kubernetes of its own."""
    older = f"kubernetes:{OLD}"
    slipway("build", "-t", older, "--build-arg", f"VERSION={OLD}", PROJECT / "kubefiles/kubernetes")
    for number, base in (("1", older), ("2", kubernetes)):
        market.build(slipway, tmp_path_factory.mktemp("shop"), f"market:{number}", base)


@pytest.fixture(scope="module")
def lab(slipway: Slipway, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(slipway, "test-upgrade", 3, 2, spares=3)
    try:
        market.start(lab, "market:1", tmp_path_factory.mktemp("cluster"))
        yield lab
    finally:
        lab.down()


def words(lab: Lab, *more: str) -> list[str]:
    return market.upgrade(lab, "market:2", *more)


def versions(lab: Lab) -> dict[str, str]:
    return {market.short(lab, node["name"]): node["version"] for node in lab.status()["nodes"]}


def test_upgrade_plan_lists_nodes_and_unmanaged_pod_is_refused_without_change(lab: Lab) -> None:
    before = lab.journals()
    plan = json.loads(lab.slipway(*words(lab, "--plan", "--output", "json")).stdout)
    assert [(market.short(lab, node["node"]), node["from"], node["to"], node["turn"]) for node in plan["nodes"]] == [
        (name, OLD, NEW, turn) for turn, name in enumerate(NODES, 1)
    ]
    lab.kubectl("run", "alone", "--image=slipway.dev/nginx:1.22")
    until(lambda: lab.json("get", "pod", "alone")["spec"].get("nodeName"))
    alone = lab.slipway(*words(lab), check=False)
    lab.kubectl("delete", "pod", "alone", "--grace-period=0", "--force")
    assert (alone.returncode, "default/alone" in alone.stderr) == (7, True)
    assert lab.journals() == before


def test_upgrade_killed_ten_times_is_completed_without_lost_request(lab: Lab, record_property: Any) -> None:
    client, traffic = Client(lab.worker, market.PORT), Traffic(lab)
    until(client.answers)
    traffic.begin()
    for moment in MOMENTS:
        kill_at(words(lab), f"- {moment.replace('NAME', lab.name)}")
    done = lab.slipway(*words(lab, "--output", "json"), timeout=2 * HANG)
    until(lambda: len(traffic.reads()) >= REQUESTS)
    told = traffic.end()
    client.stop()
    assert f"+ change control-plane node {lab.name}-control-plane-1 (done before)" in done.stderr
    assert json.loads(done.stdout)["resumed"]
    answers = client.answers()
    record_property("requests", f"{told}, {len(answers)} of the application; killed {len(MOMENTS)} times")
    assert told.lost == ()
    assert [answer for answer in answers if not (answer.api and answer.app)] == []
    assert len(answers) > 100
    assert versions(lab) == dict.fromkeys(NODES, NEW)
    found = until(lambda: (now := lab.status())["healthy"] and now)
    assert (found["kubernetes"], found["image"]) == (NEW, "market:2")
    assert all(node["schedulable"] for node in found["nodes"])


def test_upgrade_keeps_settings_of_cluster(lab: Lab) -> None:
    market.was_kept(lab, "market:2")


def test_upgrade_leaves_cluster_manageable_by_kubeadm(lab: Lab) -> None:
    plan = lab.first.run(f"kubeadm upgrade plan {LATER}", timeout=HANG).stdout
    assert re.search(rf"Cluster version: v?{re.escape(NEW[1:])}", plan), plan
    assert "kubelet" in plan
    assert "invalid" not in lab.first.run(f"kubeadm certs check-expiration --config {CONFIG}").stdout
    images = {
        container["image"]
        for pod in lab.json("get", "pods", "--namespace=kube-system")["items"]
        for container in pod["spec"]["containers"]
        if "/kube-" in container["image"]
    }
    assert {image.rpartition(":")[2] for image in images} == {NEW}
    for machine in (lab.machines[1], lab.worker):
        kubeadm_upgrades(machine)
    until(lambda: lab.status()["healthy"])


def test_upgrade_keeps_backup_and_former_files_on_machines(lab: Lab) -> None:
    assert lab.first.run(f"stat -c %a {rollout.BACKUP}").stdout.strip() == "600"
    for machine in lab.machines:
        assert OLD in machine.run(f"{rootfs_update.FORMER}/bin/kubelet --version").stdout


def test_rollback_across_etcd_versions_is_refused_and_changes_nothing(lab: Lab) -> None:
    before = lab.journals()
    said = lab.slipway(*market.rollback(lab), check=False)
    assert said.returncode == 7, said.output
    assert "etcd 3.7 has changed its data, which etcd 3.6 of market:1 cannot read" in said.stderr
    assert rollout.BACKUP in said.stderr
    assert lab.journals() == before
    assert versions(lab) == dict.fromkeys(NODES, NEW)


def test_restore_on_new_control_plane_nodes_keeps_all_objects(lab: Lab, tmp_path: Path) -> None:
    file, word = tmp_path / "cluster.backup", {"BACKUP_PASSWORD": "correct horse"}
    lab.slipway("backup", lab.name, "-f", file, "--password-env", "BACKUP_PASSWORD", env=word)
    before = lab.objects()
    assert any("ConfigMap default/traffic" in one for one in before)
    for address in lab.control_plane:
        lab.kill(address)
    deleted = json.loads(lab.slipway("delete", lab.name, "--yes", "--output", "json", timeout=HANG).stdout)
    assert sorted(deleted["unreachable"]) == sorted(lab.control_plane)
    lab.control_plane, lab.spares = lab.spares, []
    machines = ("--control-plane", ",".join(lab.control_plane), "--workers", ",".join(lab.workers), "--key", lab.key)
    lab.slipway("restore", "-f", file, "--yes", "--password-env", "BACKUP_PASSWORD", *machines, env=word, timeout=2 * HANG)
    # What is written anew: which machines the cluster has.
    assert lab.objects() >= {one for one in before if not one.startswith("ConfigMap kube-system/slipway-clusterfile")}
    found = until(lambda: (now := lab.status())["healthy"] and now)
    assert (found["kubernetes"], len(found["nodes"])) == (NEW, 5)
    until(lambda: market.page(lab) == "kept from version 2")
    until(lambda: lab.first.run(MEMBERS, check=False).stdout.count("started") == 3)
