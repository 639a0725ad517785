"""A cluster goes to another image and back, killed on the way, and whoever uses its application notices nothing.

The newer Kubernetes is a stamped rebuild: the same source, linked with another version in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from harness.lifecycle import staging, transition
from harness.runtimes.kubeadm import CONFIG
from tests.cluster.conftest import PROJECT, SECRET
from tests.cluster.lab import Client, Lab, begun, ended, kill_at, reached, until
from tests.conftest import Slipway
from tests.waiting import HANG

PORT = 30090
OLD, NEW = "v1.20.2", "v1.20.3"

KUBEFILE = """FROM {base}
ENV Greeting=unset DbPassword=none
COPY manifests manifests
COPY etc etc
CMD kubectl create configmap settings --from-file=etc/shop.conf --dry-run=client --output=yaml | kubectl apply -f -
CMD kubectl apply -f manifests
"""

# As an application has to be that wants to be served all the time: two of it, that say when they are ready, and go on for a moment when
# they are asked to end, until nobody sends them anything any more.
SHOP = """apiVersion: v1
kind: Service
metadata: {{name: shop}}
spec:
  type: NodePort
  selector: {{app: shop}}
  ports: [{{port: 80, nodePort: {port}}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: shop}}
stringData: {{password: "{{{{ DbPassword }}}}"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop-{version}}}
data: {{index.html: "{{{{ Greeting }}}} from version {version}"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shop}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: shop}}}}
    spec:
      terminationGracePeriodSeconds: 20
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {{weight: 100, podAffinityTerm: {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: shop}}}}}}}}
      containers:
      - name: nginx
        image: slipway.dev/nginx:1.22
        lifecycle: {{preStop: {{exec: {{command: [sleep, "8"]}}}}}}
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
        volumeMounts: [{{name: page, mountPath: /usr/share/nginx/html}}]
      volumes: [{{name: page, configMap: {{name: shop-{version}}}}}]
"""

CLUSTERFILE = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {{name: {name}}}
spec:
  image: market:1
  ssh: {{pk: {key}}}
  env: {{Greeting: kept, DbPassword: {secret}}}
  hosts:
  - {{ips: {masters}, roles: [master]}}
  - {{ips: {workers}, roles: [node], labels: {{disk: ssd}}}}
---
apiVersion: slipway.dev/v1
kind: Config
metadata: {{name: settings}}
spec: {{path: etc/shop.conf, data: "from = the Clusterfile"}}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {{name: once}}
spec: {{phases: [PreUpgrade], type: SHELL, on: [master0], data: "echo before >> /root/hooks"}}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {{name: each}}
spec: {{phases: [upgrade-host], type: SHELL, on: [all], data: "echo here with $Greeting >> /root/hooks"}}
"""


@pytest.fixture(scope="module")
def shops(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two versions of an application, each with a Kubernetes of its own."""
    newer = f"kubernetes:{NEW}"
    slipway("build", "-t", newer, "--build-arg", f"VERSION={NEW}", PROJECT / "kubefiles/kubernetes")
    for number, base in (("1", kubernetes), ("2", newer)):
        context = tmp_path_factory.mktemp("shop")
        files = {
            "Kubefile": KUBEFILE.format(base=base),
            "manifests/shop.yaml": SHOP.format(port=PORT, version=number),
            "etc/shop.conf": "from = the image\n",
        }
        for path, text in files.items():
            (context / path).parent.mkdir(exist_ok=True)
            (context / path).write_text(text)
        slipway("build", "-t", f"market:{number}", "--discover", "declared", context)


@pytest.fixture(scope="module")
def lab(slipway: Slipway, shops: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(slipway, "test-upgrade", 1, 2)
    try:
        file = tmp_path_factory.mktemp("cluster") / "Clusterfile"
        file.write_text(CLUSTERFILE.format(name=lab.name, key=lab.key, secret=SECRET, masters=lab.masters, workers=lab.workers))
        slipway("run", "-f", file, timeout=HANG)
        yield lab
    finally:
        lab.down()


def words(lab: Lab, *more: str) -> list[str]:
    return ["upgrade", lab.name, "market:2", "--yes", "-e", f"DbPassword={SECRET}", *more]


def versions(lab: Lab) -> dict[str, str]:
    return {node["name"].removeprefix(f"{lab.name}-"): node["version"] for node in lab.status()["nodes"]}


def page(lab: Lab) -> str:
    return lab.worker.run(f"curl -s --max-time 60 http://127.0.0.1:{PORT}/").stdout


def settings(lab: Lab) -> str:
    return str(lab.json("get", "configmap", "settings")["data"]["shop.conf"])


def test_what_cannot_be_done_is_told_and_nothing_is_changed(lab: Lab) -> None:
    before = lab.journals()
    plan = json.loads(lab.slipway(*words(lab, "--plan", "--output", "json")).stdout)
    assert [(node["node"].removeprefix(f"{lab.name}-"), node["from"], node["to"], node["turn"]) for node in plan["nodes"]] == [
        ("master-1", OLD, NEW, 1),
        ("node-1", OLD, NEW, 2),
        ("node-2", OLD, NEW, 3),
    ]
    secret = lab.slipway("upgrade", lab.name, "market:2", "--yes", check=False)
    assert secret.returncode == 2
    assert "-e DbPassword" in secret.stderr
    assert "manifests/shop.yaml" in secret.stderr
    back = lab.slipway("rollback", lab.name, "--yes", "-e", f"DbPassword={SECRET}", check=False)
    assert (back.returncode, "has not been upgraded" in back.stderr) == (7, True)
    lab.kubectl("run", "alone", "--image=slipway.dev/nginx:1.22")
    until(lambda: lab.json("get", "pod", "alone")["spec"].get("nodeName"))
    alone = lab.slipway(*words(lab), check=False)
    lab.kubectl("delete", "pod", "alone", "--grace-period=0", "--force")
    assert (alone.returncode, "default/alone" in alone.stderr) == (7, True)
    assert lab.journals() == before


def test_an_upgrade_that_was_killed_is_finished_by_the_same_command_and_the_application_is_served_all_the_time(lab: Lab) -> None:
    client = Client(lab.worker, PORT)
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
    assert page(lab) == "kept from version 2"
    assert settings(lab) == "from = the Clusterfile"
    assert lab.json("get", "node", f"{lab.name}-node-2")["metadata"]["labels"]["disk"] == "ssd"
    record = lab.json("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")["data"]
    assert record["image"] == "market:2"
    assert "Greeting: kept" in record["Clusterfile"]
    assert "from = the Clusterfile" in record["Clusterfile"]
    assert SECRET not in record["Clusterfile"]
    assert [machine.run("cat /root/hooks").stdout for machine in lab.machines] == [
        "before\nhere with kept\n",
        "here with kept\n",
        "here with kept\n",
    ]


def test_it_is_still_an_ordinary_kubeadm_cluster(lab: Lab) -> None:
    plan = lab.first.run(f"kubeadm upgrade plan {NEW.replace('.3', '.4')}").stdout
    assert f"Cluster version: {NEW}" in plan
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


def test_a_rollback_brings_the_former_image_back_and_sends_next_to_nothing(lab: Lab) -> None:
    client = Client(lab.worker, PORT)
    done = lab.slipway("rollback", lab.name, "--yes", "-e", f"DbPassword={SECRET}", timeout=HANG)
    client.stop()
    assert [answer for answer in client.answers() if not answer.app] == []
    assert versions(lab) == {"master-1": OLD, "node-1": OLD, "node-2": OLD}
    assert "0 MB of images and 0 MB of files are new" in done.stderr
    assert lab.status()["healthy"]
    assert (page(lab), settings(lab)) == ("kept from version 1", "from = the Clusterfile")
    again = lab.slipway("rollback", lab.name, "--yes", "-e", f"DbPassword={SECRET}", check=False)
    assert (again.returncode, "has been rolled back already" in again.stderr) == (7, True)


def test_an_upgrade_that_lost_a_machine_is_told_and_rolled_back_from_where_it_stood(lab: Lab) -> None:
    lost = lab.workers[1]
    with begun(words(lab)) as running:
        reached(running, f"- change node {lab.name}-node-2")
        lab.kill(lost)
        code, said = ended(running)
    assert (code, lost in said) == (5, True), said
    half_way = lab.status()
    assert half_way["change"]["kind"] == "upgrade"
    assert [one["address"] for one in half_way["unreachable"]] == [lost]
    assert {name: version for name, version in versions(lab).items() if name != "node-2"} == {"master-1": NEW, "node-1": NEW}
    lab.reboot(lost)
    lab.slipway("rollback", lab.name, "--yes", "-e", f"DbPassword={SECRET}", timeout=HANG)
    found = until(lambda: (now := lab.status())["healthy"] and now)
    assert (found["change"], found["image"]) == (None, "market:1")
    assert versions(lab) == {"master-1": OLD, "node-1": OLD, "node-2": OLD}
    assert all(node["schedulable"] for node in found["nodes"])
    assert page(lab) == "kept from version 1"
