"""`slipway run` on real machines: what comes up, after a kill at every step too, what it says, and what it refuses."""

from __future__ import annotations

import base64
import functools
import json
import re

import pytest
import yaml

from harness.host.cluster_cache import ClusterState
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes.kubeadm import CONFIG
from tests.cluster.conftest import GIVEN, GREETING, SECRET, Made
from tests.cluster.lab import RUN, Lab, repeated, runs_on, succeeded, until
from tests.conftest import KUBERNETES

MANIFEST = "slipway.dev/redis/manifests/7.0"
"""Of an image that the cluster has, below ``/v2/`` of its registry."""

# ---- what comes up ----------------------------------------------------------------------------------------------------


def test_run_killed_at_each_step_is_completed_without_repeating_steps(made: Made, web: str) -> None:
    plan = json.loads(made.lab.run(web, *GIVEN, "--plan", "--output", "json").stdout)
    assert {step["title"] for step in plan} <= set(made.killed.titles)
    for address, journal in made.lab.journals().items():
        assert journal
        assert repeated(journal) == [], address
    assert "+ send the rootfs (done before)" in made.killed.said


def test_run_renders_given_values_into_page(lab: Lab) -> None:
    for machine in lab.machines:
        assert machine.run(f"curl -s --max-time 60 http://{machine.address}:30080/").stdout.strip() == f"<h1>{GREETING}</h1>"


def test_node_port_answers_after_each_restart_of_kube_proxy(lab: Lab) -> None:
    worker = lab.worker
    name = next(node["metadata"]["name"] for node in lab.json("get", "nodes", "--selector=!node-role.kubernetes.io/control-plane")["items"])

    def pod() -> str:
        words = ("--namespace=kube-system", "--selector=k8s-app=kube-proxy", f"--field-selector=spec.nodeName={name}")
        found = lab.json("get", "pods", *words)["items"]
        return next((one["metadata"]["name"] for one in found if "deletionTimestamp" not in one["metadata"]), "")

    def replaced(former: str) -> bool:
        return pod() not in ("", former)

    def programmed() -> bool:
        metrics = worker.run("curl -s --max-time 60 http://127.0.0.1:10249/metrics", check=False).stdout
        done = r'^kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} [1-9]'
        return re.search(done, metrics, re.MULTILINE) is not None

    # A proxy reads what the one before it has left. Twice: what one of them removes the next one adds.
    for _ in range(2):
        before = pod()
        lab.kubectl("delete", "pod", before, "--namespace=kube-system")
        until(functools.partial(replaced, before))
        until(programmed)
        done = worker.run(f"curl -sS --max-time 60 http://{worker.address}:30080/", check=False)
        assert done.stdout.strip() == f"<h1>{GREETING}</h1>", done.output


def test_status_reports_healthy_cluster_and_its_image(lab: Lab, web: str) -> None:
    found = lab.status()
    assert found["healthy"], found["notReady"]
    assert (found["image"], found["kubernetes"]) == (web, KUBERNETES)
    assert [(node["roles"], node["ready"]) for node in found["nodes"]] == [(["control-plane"], True), (["worker"], True)]
    inspected = json.loads(lab.slipway("inspect", web, "--output", "json").stdout)
    assert found["digest"] == inspected["digest"]


def test_run_stores_applied_clusterfile_without_secrets(lab: Lab, web: str) -> None:
    data = lab.json("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")["data"]
    document = yaml.safe_load(data["Clusterfile"])
    assert document["spec"]["image"] == web
    assert document["spec"]["hosts"] == [{"ips": lab.control_plane, "roles": ["control-plane"]}, {"ips": lab.workers, "roles": ["worker"]}]
    assert document["spec"]["env"]["DbPassword"].startswith("<redacted")
    everything = lab.kubectl("get", "configmaps,secrets", "--all-namespaces", "--output=yaml")
    assert SECRET not in everything


def test_run_leaves_no_secret_on_machines_or_in_local_state(lab: Lab) -> None:
    for machine in lab.machines:
        assert not machine.run(f"grep -rlF {SECRET} /var/lib/slipway /var/log /etc /tmp /root 2>/dev/null", check=False).stdout
    assert SECRET not in "".join(path.read_text() for path in ClusterState.of(lab.name).folder.iterdir() if path.is_file())


def test_run_writes_local_kubeconfig_that_reaches_cluster(lab: Lab) -> None:
    state = ClusterState.of(lab.name)
    assert state.kubeconfig.stat().st_mode & 0o077 == 0
    server = yaml.safe_load(state.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    assert server == f"https://{lab.control_plane[0]}:6443"
    lab.first.put(state.kubeconfig.read_bytes(), "/run/from-elsewhere", 0o600)
    assert f"{lab.name}-control-plane-1" in NodeKubectl(lab.first, kubeconfig="/run/from-elsewhere").run("get", "nodes")


def test_pod_with_pull_policy_always_starts_by_name_and_digest(lab: Lab) -> None:
    digest = next(
        image["digest"]
        for platform in json.loads(lab.slipway("inspect", "web", "--output", "json").stdout)["platforms"]
        for image in platform["images"]
        if "redis" in image["name"]
    )
    for number, (node, image) in enumerate(
        (node, image)
        for node in (f"{lab.name}-control-plane-1", f"{lab.name}-worker-1")
        for image in ("slipway.dev/redis:7.0", f"slipway.dev/redis@{digest}")
    ):
        spec = {"nodeName": node, "tolerations": [{"operator": "Exists"}]}
        placed = f"--overrides={json.dumps({'spec': spec})}"
        lab.kubectl(*RUN, f"pull-{number}", f"--image={image}", placed, "--command", "--", "redis-server", "--version")
    for number in range(4):
        until(functools.partial(succeeded, lab.first, f"pull-{number}"))
        lab.kubectl("delete", "pod", f"pull-{number}", "--wait=false")


def test_registry_serves_images_to_cluster_machines_only(lab: Lab) -> None:
    (login,) = {lab.login(machine) for machine in lab.machines}
    other = f"Basic {base64.b64encode(b'slipway:' + b'0' * 64).decode()}"
    for path in ("", MANIFEST):
        assert [lab.registry(path), lab.registry(path, Authorization=other), lab.registry(path, Authorization=login)] == [401, 401, 200]
    # From the network of every pod of a machine.
    url = f"https://{lab.control_plane[0]}:5000/v2/"
    ask = f"curl -sk --max-time 60 -o /dev/null -o /dev/null -w '%{{http_code}}\\n' {url} {url}{MANIFEST}"
    answers = lab.worker.run(f"for pod in /run/netns/cni-*; do nsenter --net=$pod {ask}; done").stdout.split()
    assert set(answers) == {"401"}


def test_registry_login_is_stored_in_containerd_configuration_only(lab: Lab) -> None:
    login = lab.login(lab.first).removeprefix("Basic ")
    password = base64.b64decode(login).decode().partition(":")[2]
    either = f"-e {login} -e {password}"
    for machine in lab.machines:
        found = machine.run(f"grep -rlF {either} /var/lib/slipway /var/log /etc /tmp /root 2>/dev/null", check=False).stdout.split()
        assert found
        assert [path for path in found if not path.startswith("/etc/containerd/certs.d/")] == []
        units = "-u slipway-registry -u containerd -u kubelet -u slipway-balancer"
        assert machine.run(f"journalctl --no-pager {units} | grep -cF {either}", check=False).stdout.strip() == "0"
    everything = lab.kubectl("get", "configmaps,secrets", "--all-namespaces", "--output=yaml")
    assert not any(word in everything for word in (login, password))


@pytest.mark.parametrize("image", ["slipway.dev/nosuch:1", "docker.io/library/busybox:1", "registry.example.com/app:1"])
def test_pod_with_image_not_embedded_fails_and_status_shows_image(lab: Lab, image: str) -> None:
    lab.kubectl("run", "absent", f"--image={image}", "--restart=Never")
    try:

        def reason() -> str:
            states = lab.json("get", "pod", "absent")["status"].get("containerStatuses") or [{}]
            return str(states[0].get("state", {}).get("waiting", {}).get("message") or "")

        assert "not found" in until(lambda: reason() if "not found" in reason() else None)
        assert image in lab.slipway("status", lab.name).stdout
    finally:
        lab.kubectl("delete", "pod", "absent", "--grace-period=0", "--force")


def test_run_leaves_cluster_manageable_by_kubeadm(lab: Lab) -> None:
    checked = lab.first.run(f"kubeadm certs check-expiration --config {CONFIG}").stdout
    for name in ("apiserver", "etcd-server", "admin.conf", "front-proxy-client"):
        assert name in checked
    assert "invalid" not in checked
    lab.first.run(f"kubeadm certs renew apiserver --config {CONFIG}")
    config = lab.kubectl("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=yaml")
    assert "initial-cluster" not in config
    for machine in lab.machines:
        # What kubeadm asks a node for, when it upgrades it or resets it.
        own = yaml.safe_load(machine.run("cat /var/lib/kubelet/instance-config.yaml").stdout)
        assert own["containerRuntimeEndpoint"] == "unix:///run/containerd/containerd.sock"


# ---- again ------------------------------------------------------------------------------------------------------------


def test_run_same_command_again_repeats_nothing(lab: Lab, web: str) -> None:
    def running() -> dict[str, str]:
        pods = lab.json("get", "pods", "--all-namespaces")["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods if pod["metadata"]["namespace"] != "default"}

    # The kubelet tells the API of its static pods when it gets round to it: four on the one control-plane node.
    until(lambda: sum(name.endswith(f"-{lab.name}-control-plane-1") for name in running()) == 4)
    before = running()
    again = lab.run(web, *GIVEN)
    for title in ("send the rootfs", "send the container images", "start the kubelets", "launch: kubectl apply -f manifests/web.yaml"):
        assert f"+ {title} (done before)" in again.stderr
    assert running() == before


def test_run_again_adds_registry_login_to_cluster_of_earlier_slipway(lab: Lab, web: str) -> None:
    before = lab.login(lab.first)
    lab.take_login()
    checked = lab.slipway("check", lab.name, "--output", "json", check=False).stdout
    assert "serves images to every client that reaches it: it requires no login" in checked
    lab.run(web, *GIVEN)
    assert {lab.login(machine) for machine in lab.machines} == {before}
    assert [lab.registry(MANIFEST), lab.registry(MANIFEST, Authorization=before)] == [401, 200]
    for node in ("control-plane-1", "worker-1"):
        runs_on(lab.first, f"{lab.name}-{node}", "again", "slipway.dev/redis:7.0", "redis-server", "--version")
        until(lambda: "again" not in lab.kubectl("get", "pods", "--output=name"))


def test_run_plan_changes_nothing(lab: Lab, web: str) -> None:
    journals = [machine.run("cksum < /var/lib/slipway/journal").stdout for machine in lab.machines]
    plan = json.loads(lab.run(web, "--plan", "--output", "json").stdout)
    assert [step["id"] for step in plan][:2] == ["connect", "check-machines"]
    assert {address for step in plan for address in step["nodes"]} == set(lab.addresses)
    assert [machine.run("cksum < /var/lib/slipway/journal").stdout for machine in lab.machines] == journals


def test_run_machines_of_other_cluster_are_refused(lab: Lab, web: str) -> None:
    said = lab.run(web, name=f"{lab.name}-other", check=False)
    assert said.returncode == 7
    assert "nothing has been changed" in said.stderr
    told = next(line for line in said.stderr.splitlines() if f"belongs to a cluster {lab.name}" in line)
    assert all(address in told for address in lab.addresses)
    ClusterState.of(f"{lab.name}-other").forget()
    assert lab.status()["healthy"]


def test_run_unreachable_machines_are_all_reported(lab: Lab, web: str) -> None:
    said = lab.slipway(*lab.words(web), "--port", "2222", check=False)
    assert said.returncode == 5
    for address in lab.addresses:
        assert f"{address}: nothing listens on port 2222" in said.stderr
