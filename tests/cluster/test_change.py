"""A cluster goes to another image of the same Kubernetes and back, killed on the way, and who uses it notices nothing.

The other image has another runc and other settings of Kubernetes, so every node is emptied and its services are started anew, and it lacks
an addon. What the versions of Kubernetes have to do with it is in test_upgrade; test_image_change does the same with a small cluster.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from harness.lifecycle import rollout
from harness.lifecycle.provision import rootfs_update
from harness.nodes.kubectl import NodeKubectl
from tests.cluster import market
from tests.cluster.lab import Client, Lab, begun, ended, kill_at, reached, until
from tests.cluster.traffic import Traffic
from tests.conftest import KUBERNETES, Slipway
from tests.waiting import HANG

pytestmark = pytest.mark.long

FIRST, SECOND = "bazaar:1", "bazaar:2"
MANIFEST = "slipway.dev/nginx/manifests/1.22"
PULLED = "ctr -n k8s.io content fetch-object --hosts-dir /etc/containerd/certs.d slipway.dev/nginx:1.22 > /dev/null"
"""Asks the registry in the way that a machine takes to it, whatever images the machine has."""
NODES = ("control-plane-1", "control-plane-2", "control-plane-3", "worker-1", "worker-2")
BEFORE, AFTER = "110", "99"
"""How many pods a node takes: what its kubelet says of the image that it is configured by."""

KUBEADM = f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: {AFTER}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer:
  extraArgs:
  - {{name: max-requests-inflight, value: "401"}}
"""
ADDON = """apiVersion: v1
kind: Namespace
metadata: {name: extra}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: extra}
---
apiVersion: v1
kind: Namespace
metadata: {name: shared}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: addons, namespace: shared}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: taken, namespace: shared}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: extra}
rules: []
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: used}
provisioner: extra.example/none
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: unused}
provisioner: extra.example/none
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.extra.example}
spec:
  group: extra.example
  names: {kind: Thing, plural: things}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object}}
"""
OF_ADDON = {
    "namespace/extra", "namespace/shared", "configmap/settings", "configmap/addons", "configmap/taken",
    "clusterrole.rbac.authorization.k8s.io/extra", "storageclass.storage.k8s.io/used", "storageclass.storage.k8s.io/unused",
    "customresourcedefinition.apiextensions.k8s.io/things.extra.example",
}  # fmt: skip
# What somebody has taken over, and what others use.
STAYS = {
    "configmap/taken", "namespace/shared", "storageclass.storage.k8s.io/used",
    "customresourcedefinition.apiextensions.k8s.io/things.extra.example",
}  # fmt: skip
USERS = """apiVersion: extra.example/v1
kind: Thing
metadata: {name: mine, namespace: default}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: mine, namespace: default}
spec: {storageClassName: used, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
"""
# What stands behind a program's end is not read.
OTHER_RUNC = "RUN printf other >> bin/runc\n"


@pytest.fixture(scope="module")
def images(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    market.build(slipway, tmp_path_factory.mktemp("first"), FIRST, kubernetes, files={"etc/addons/extra.yaml": ADDON})
    market.build(slipway, tmp_path_factory.mktemp("second"), SECOND, kubernetes, OTHER_RUNC, {"etc/kubeadm.yml": KUBEADM})


@pytest.fixture(scope="module")
def lab(slipway: Slipway, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(slipway, "test-change", 3, 2)
    try:
        market.start(lab, FIRST, tmp_path_factory.mktemp("cluster"))
        lab.kubectl("label", "configmap", "taken", "--namespace=shared", "slipway.dev/addon-")
        NodeKubectl(lab.first).run("apply", "--filename=-", input=USERS)
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def traffic(lab: Lab) -> Traffic:
    return Traffic(lab)


def changed(lab: Lab) -> dict[str, str]:
    """How many pods each node takes, by its short name."""
    nodes = lab.json("get", "nodes")["items"]
    return {market.short(lab, node["metadata"]["name"]): node["status"]["capacity"]["pods"] for node in nodes}


def all_are(pods: str) -> dict[str, str]:
    return dict.fromkeys(NODES, pods)


def of_addon(lab: Lab) -> set[str]:
    """What there is of the addon that only the first image has."""
    return set(NodeKubectl(lab.first).run("get", "--ignore-not-found", "--output=name", "--filename=-", input=ADDON).split())


def server(lab: Lab) -> str:
    return lab.first.run("cat /etc/kubernetes/manifests/kube-apiserver.yaml").stdout


def test_upgrade_and_rollback_invalid_requests_are_refused_and_change_nothing(lab: Lab) -> None:
    before = lab.journals()
    plan = json.loads(lab.slipway(*market.upgrade(lab, SECOND, "--plan", "--output", "json")).stdout)
    assert [(market.short(lab, node["node"]), node["from"], node["to"], node["turn"]) for node in plan["nodes"]] == [
        (name, KUBERNETES, KUBERNETES, turn) for turn, name in enumerate(NODES, 1)
    ]
    assert "prune-addons" in [step["id"] for step in plan["steps"]]
    secret = lab.slipway("upgrade", lab.name, SECOND, "--yes", check=False)
    assert secret.returncode == 2
    assert "-e DbPassword" in secret.stderr
    assert "manifests/shop.yaml" in secret.stderr
    back = lab.slipway(*market.rollback(lab), check=False)
    assert (back.returncode, "has not been upgraded" in back.stderr) == (7, True)
    assert lab.journals() == before


def test_upgrade_image_killed_twice_is_completed_without_lost_request(lab: Lab, traffic: Traffic) -> None:
    # As an earlier slipway has left it.
    login = lab.login(lab.first)
    lab.take_login()
    assert lab.registry(MANIFEST) == 200
    client = Client(lab.worker, market.PORT)
    until(client.answers)
    traffic.begin()
    kill_at(market.upgrade(lab, SECOND), f"- change control-plane node {lab.name}-control-plane-2")
    said = kill_at(market.upgrade(lab, SECOND), f"- change worker {lab.name}-worker-1")
    # The control-plane node has had its turn, and its registry asks for a login; those that are still to come have it already.
    assert lab.registry(MANIFEST) == 401
    assert {lab.login(machine) for machine in lab.machines} == {login}
    for machine in lab.machines:
        machine.run(PULLED)
    assert "+ remove addons that the image has not any more (5 objects removed, 3 kept)" in said
    assert changed(lab)["control-plane-1"] == AFTER
    done = lab.slipway(*market.upgrade(lab, SECOND, "--output", "json"), timeout=HANG)
    assert f"+ change control-plane node {lab.name}-control-plane-1 (done before)" in done.stderr
    assert json.loads(done.stdout)["resumed"]
    told = traffic.end()
    client.stop()
    answers = client.answers()
    assert told.lost == ()
    assert [answer for answer in answers if not (answer.api and answer.app)] == []
    assert min(len(answers), told.reads, told.service) > 100
    assert changed(lab) == all_are(AFTER)
    assert "--max-requests-inflight=401" in server(lab)
    found = lab.status()
    assert (found["healthy"], found["kubernetes"], found["image"]) == (True, KUBERNETES, SECOND)
    assert all(node["schedulable"] for node in found["nodes"])


def test_upgrade_keeps_settings_backup_and_former_files(lab: Lab) -> None:
    market.was_kept(lab, SECOND)
    assert lab.first.run(f"stat -c %a {rollout.BACKUP}").stdout.strip() == "600"
    for machine in lab.machines:
        assert not machine.run(f"cmp -s {rootfs_update.FORMER}/bin/runc /var/lib/slipway/rootfs/bin/runc", check=False).ok


def test_upgrade_removes_addons_of_former_image_but_not_those_of_other_owners(lab: Lab) -> None:
    assert of_addon(lab) == STAYS
    users = lab.kubectl("get", "things.extra.example/mine", "persistentvolumeclaim/mine", "--output=name").split()
    assert users == ["thing.extra.example/mine", "persistentvolumeclaim/mine"]
    # Those of the base are in both images.
    lab.kubectl("get", "deployment", "metrics-server", "--namespace=kube-system")


def test_rollback_restores_former_image_without_sending_files_or_losing_requests(lab: Lab, traffic: Traffic) -> None:
    client = Client(lab.worker, market.PORT)
    traffic.begin()
    done = lab.slipway(*market.rollback(lab), timeout=HANG)
    told = traffic.end()
    client.stop()
    assert told.lost == ()
    assert [answer for answer in client.answers() if not (answer.api and answer.app)] == []
    assert changed(lab) == all_are(BEFORE)
    assert "--max-requests-inflight=401" not in server(lab)
    assert of_addon(lab) == OF_ADDON
    assert "0 MB of images and 0 MB of files are new" in done.stderr
    assert lab.registry(MANIFEST) == 401
    assert lab.status()["healthy"]
    assert (market.page(lab), market.settings(lab)) == ("kept from version 1", "from = the Clusterfile")
    again = lab.slipway(*market.rollback(lab), check=False)
    assert (again.returncode, "has been rolled back already" in again.stderr) == (7, True)


def test_certs_renew_restarts_control_plane_without_lost_request(lab: Lab, traffic: Traffic) -> None:
    """etcd as well, which neither image has of its own."""
    part = "get", "pod", f"etcd-{lab.name}-control-plane-1", "--namespace=kube-system", "--output=jsonpath={.metadata.annotations}"
    before = lab.kubectl(*part)
    client = Client(lab.worker, market.PORT)
    traffic.begin()
    lab.slipway("certs", "renew", lab.name, timeout=HANG)
    told = traffic.end()
    client.stop()
    assert told.lost == ()
    assert [answer for answer in client.answers() if not (answer.api and answer.app)] == []
    until(lambda: lab.kubectl(*part) != before)
    until(lambda: lab.status()["healthy"])


def test_upgrade_with_lost_machine_is_reported_and_rolled_back(lab: Lab) -> None:
    lost = lab.workers[1]
    with begun(market.upgrade(lab, SECOND)) as running:
        reached(running, f"- change worker {lab.name}-worker-2")
        # It holds its breath: a machine that is lost when its pods were asked to end is another case.
        running.send_signal(signal.SIGSTOP)
        lab.kill(lost)
        running.send_signal(signal.SIGCONT)
        code, said = ended(running)
    assert (code, lost in said) == (5, True), said
    half_way = lab.status()
    assert half_way["change"]["kind"] == "upgrade"
    assert [one["address"] for one in half_way["unreachable"]] == [lost]
    assert {name: pods for name, pods in changed(lab).items() if name != "worker-2"} == dict.fromkeys(NODES[:-1], AFTER)
    lab.reboot(lost)
    lab.slipway(*market.rollback(lab), timeout=HANG)
    found = until(lambda: (now := lab.status())["healthy"] and now)
    assert (found["change"], found["image"]) == (None, FIRST)
    assert changed(lab) == all_are(BEFORE)
    assert all(node["schedulable"] for node in found["nodes"])
    assert market.page(lab) == "kept from version 1"
