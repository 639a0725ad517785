"""A cluster goes to the next minor version of Kubernetes, killed on the way, and who uses its application notices nothing.

The newer Kubernetes is another one: it is compiled from its own modules first. What has nothing to do with versions is in test_change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from harness.lifecycle import staging, transition
from harness.runtimes.kubeadm import CONFIG
from tests.cluster import market
from tests.cluster.conftest import PROJECT
from tests.cluster.lab import Client, Lab, kill_at, until
from tests.conftest import Slipway
from tests.waiting import HANG

OLD, NEW, LATER = "v1.36.3", "v1.37.2", "v1.37.3"


@pytest.fixture(scope="module")
def images(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two versions of an application, each with a Kubernetes of its own."""
    newer = f"kubernetes:{NEW}"
    slipway("build", "-t", newer, "--build-arg", f"VERSION={NEW}", PROJECT / "kubefiles/kubernetes")
    for number, base in (("1", kubernetes), ("2", newer)):
        market.build(slipway, tmp_path_factory.mktemp("shop"), f"market:{number}", base)


@pytest.fixture(scope="module")
def lab(slipway: Slipway, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(slipway, "test-upgrade", 1, 2)
    try:
        market.start(lab, "market:1", tmp_path_factory.mktemp("cluster"))
        yield lab
    finally:
        lab.down()


def words(lab: Lab, *more: str) -> list[str]:
    return market.upgrade(lab, "market:2", *more)


def versions(lab: Lab) -> dict[str, str]:
    return {market.short(lab, node["name"]): node["version"] for node in lab.status()["nodes"]}


def test_what_cannot_be_done_is_told_and_nothing_is_changed(lab: Lab) -> None:
    before = lab.journals()
    plan = json.loads(lab.slipway(*words(lab, "--plan", "--output", "json")).stdout)
    assert [(market.short(lab, node["node"]), node["from"], node["to"], node["turn"]) for node in plan["nodes"]] == [
        ("master-1", OLD, NEW, 1),
        ("node-1", OLD, NEW, 2),
        ("node-2", OLD, NEW, 3),
    ]
    lab.kubectl("run", "alone", "--image=slipway.dev/nginx:1.22")
    until(lambda: lab.json("get", "pod", "alone")["spec"].get("nodeName"))
    alone = lab.slipway(*words(lab), check=False)
    lab.kubectl("delete", "pod", "alone", "--grace-period=0", "--force")
    assert (alone.returncode, "default/alone" in alone.stderr) == (7, True)
    assert lab.journals() == before


def test_an_upgrade_that_was_killed_is_finished_by_the_same_command_and_the_application_is_served_all_the_time(lab: Lab) -> None:
    client = Client(lab.worker, market.PORT)
    until(client.answers)
    kill_at(words(lab), f"- change node {lab.name}-node-1")
    assert versions(lab)["master-1"] == NEW
    done = lab.slipway(*words(lab, "--output", "json"), timeout=HANG)
    assert f"+ change master {lab.name}-master-1 (done before)" in done.stderr
    assert json.loads(done.stdout)["resumed"]
    client.stop()
    answers = client.answers()
    assert [answer for answer in answers if not answer.app] == []
    assert len(answers) > 100
    assert versions(lab) == {"master-1": NEW, "node-1": NEW, "node-2": NEW}
    found = lab.status()
    assert (found["healthy"], found["kubernetes"], found["image"]) == (True, NEW, "market:2")
    assert all(node["schedulable"] for node in found["nodes"])


def test_what_was_asked_for_is_kept(lab: Lab) -> None:
    market.was_kept(lab, "market:2")


def test_it_is_still_an_ordinary_kubeadm_cluster(lab: Lab) -> None:
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


def test_what_was_before_is_on_the_machines(lab: Lab) -> None:
    assert lab.first.run(f"stat -c %a {transition.BACKUP}").stdout.strip() == "600"
    for machine in lab.machines:
        assert OLD in machine.run(f"{staging.FORMER}/bin/kubelet --version").stdout


def test_a_way_back_on_which_etcd_could_not_read_its_data_is_refused(lab: Lab) -> None:
    before = lab.journals()
    said = lab.slipway(*market.rollback(lab), check=False)
    assert said.returncode == 7, said.output
    assert "etcd 3.7 has changed its data, which etcd 3.6 of market:1 cannot read" in said.stderr
    assert transition.BACKUP in said.stderr
    assert lab.journals() == before
    assert versions(lab) == {"master-1": NEW, "node-1": NEW, "node-2": NEW}
