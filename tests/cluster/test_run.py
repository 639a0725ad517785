"""`slipway run` and `slipway delete` on real machines: what comes up, what survives a kill, a lost master, and what is left afterwards."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import process
from harness.clusterstate import ClusterState
from harness.errors import CommandError
from harness.nodes import Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import Ssh, SshNode
from harness.runtimes.kubeadm import CONFIG
from tests.conftest import Slipway

PROJECT = Path(__file__).parents[2]
SECRET = "hunter2-in-the-environment"


@pytest.fixture(scope="session")
def web(slipway: Slipway, kubernetes: str) -> str:
    assert kubernetes
    slipway("build", "-t", "web", PROJECT / "kubefiles/web")
    return "web:latest"


class Lab:
    """A group of machines, and the cluster that is made of them."""

    def __init__(self, slipway: Slipway, name: str, masters: int, nodes: int) -> None:
        # Two runs of these tests on one machine do not meet.
        self.slipway, self.name = slipway, f"{name}-{os.getpid()}"
        group = json.loads(slipway("nodes", "up", "--name", self.name, "-m", str(masters), "-n", str(nodes), "--output", "json").stdout)
        self.key = Path(group["key"])
        self.masters = [made["address"] for made in group["nodes"] if made["role"] == "master"]
        self.workers = [made["address"] for made in group["nodes"] if made["role"] == "node"]
        self.ssh = Ssh(ClusterState.of(f"{self.name}-tests").folder, [Machine(address, Login(key=self.key)) for address in self.addresses])
        self.ssh.connect()

    @property
    def addresses(self) -> list[str]:
        return [*self.masters, *self.workers]

    @property
    def machines(self) -> Sequence[SshNode]:
        return self.ssh.nodes

    @property
    def first(self) -> SshNode:
        return self.machines[0]

    @property
    def worker(self) -> SshNode:
        return self.machines[len(self.masters)]

    def words(self, image: str, *more: str, name: str | None = None) -> list[str]:
        workers = ["--nodes", ",".join(self.workers)] if self.workers else []
        return ["run", image, "--masters", ",".join(self.masters), *workers, "--key", str(self.key), "--name", name or self.name, *more]

    def run(self, image: str, *more: str, check: bool = True, name: str | None = None) -> process.Result:
        return self.slipway(*self.words(image, *more, name=name), check=check, timeout=900)

    def kubectl(self, *argv: str) -> str:
        return NodeKubectl(self.first).run(*argv)

    def json(self, *argv: str) -> Any:
        return json.loads(self.kubectl(*argv, "--output=json"))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.slipway("status", self.name, "--output", "json").stdout))

    def down(self) -> None:
        self.ssh.close()
        self.slipway("nodes", "down", self.name)
        for name in (self.name, f"{self.name}-tests"):
            ClusterState.of(name).forget()


@pytest.fixture(scope="module", autouse=True)
def swept(slipway: Slipway) -> None:
    """Removes the machines of runs of these tests that were killed."""
    for group in json.loads(slipway("nodes", "list", "--output", "json").stdout):
        owner = re.fullmatch(r"test-(?:run|kill|three|share|operate)-(\d+)", group["name"])
        if owner and not Path("/proc", owner[1]).exists():
            slipway("nodes", "down", group["name"])


@pytest.fixture(scope="module")
def lab(slipway: Slipway, web: str) -> Iterator[Lab]:
    """A master and a worker that run the image."""
    made = Lab(slipway, "test-run", 1, 1)
    try:
        made.run(web, "-e", "Greeting=It's <b>here</b>", "-e", f"DbPassword={SECRET}")
        yield made
    finally:
        made.down()


RUN = ("run", "--image-pull-policy=Always", "--restart=Never")
MEMBERS = """kubectl() { /var/lib/slipway/rootfs/bin/kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace kube-system "$@"; }
cd /etc/kubernetes/pki/etcd
kubectl exec etcd-$(uname -n) -- etcdctl --endpoints https://127.0.0.1:2379 --cacert $PWD/ca.crt --cert $PWD/peer.crt \
  --key $PWD/peer.key member list"""


def succeeded(master: SshNode, pod: str) -> bool:
    return bool(json.loads(NodeKubectl(master).run("get", "pod", pod, "--output=json"))["status"]["phase"] == "Succeeded")


def until(condition: Any, seconds: float = 60) -> Any:
    """The first true value of a condition; a command that fails is not one yet. Fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        failed: object = None
        try:
            if found := condition():
                return found
        except CommandError as error:
            failed = error.details
        assert time.monotonic() < deadline, f"it did not come about: {failed}"
        time.sleep(0.5)


# ---- what comes up ----------------------------------------------------------------------------------------------------


def test_the_image_runs_with_the_values_it_was_given(lab: Lab) -> None:
    for machine in lab.machines:
        assert machine.run("curl -s --max-time 10 http://127.0.0.1:30080/").stdout.strip() == "<h1>It's <b>here</b></h1>"


def test_the_cluster_is_healthy_and_says_what_it_runs(lab: Lab, web: str) -> None:
    found = lab.status()
    assert found["healthy"], found["notReady"]
    assert (found["image"], found["kubernetes"]) == (web, "v1.20.2")
    assert [(node["roles"], node["ready"]) for node in found["nodes"]] == [(["master"], True), (["node"], True)]
    inspected = json.loads(lab.slipway("inspect", web, "--output", "json").stdout)
    assert found["digest"] == inspected["digest"]


def test_the_applied_clusterfile_is_in_the_cluster_without_secrets(lab: Lab, web: str) -> None:
    data = lab.json("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")["data"]
    document = yaml.safe_load(data["Clusterfile"])
    assert document["spec"]["image"] == web
    assert document["spec"]["hosts"] == [{"ips": lab.masters, "roles": ["master"]}, {"ips": lab.workers, "roles": ["node"]}]
    assert document["spec"]["env"]["DbPassword"].startswith("<redacted")
    everything = lab.kubectl("get", "configmaps,secrets", "--all-namespaces", "--output=yaml")
    assert SECRET not in everything


def test_a_secret_lies_nowhere_on_a_machine_nor_here(lab: Lab) -> None:
    for machine in lab.machines:
        assert not machine.run(f"grep -rlF {SECRET} /var/lib/slipway /var/log /etc /tmp /root 2>/dev/null", check=False).stdout
    assert SECRET not in "".join(path.read_text() for path in ClusterState.of(lab.name).folder.iterdir() if path.is_file())


def test_the_kubeconfig_that_is_left_here_leads_to_the_cluster(lab: Lab) -> None:
    state = ClusterState.of(lab.name)
    assert state.kubeconfig.stat().st_mode & 0o077 == 0
    server = yaml.safe_load(state.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    assert server == f"https://{lab.masters[0]}:6443"
    lab.first.put(state.kubeconfig.read_bytes(), "/root/from-elsewhere", 0o600)
    assert f"{lab.name}-master-1" in NodeKubectl(lab.first, kubeconfig="/root/from-elsewhere").run("get", "nodes")


def test_original_names_digests_and_always_work_on_every_node(lab: Lab) -> None:
    digest = next(
        image["digest"]
        for platform in json.loads(lab.slipway("inspect", "web", "--output", "json").stdout)["platforms"]
        for image in platform["images"]
        if "redis" in image["name"]
    )
    for number, (node, image) in enumerate(
        (node, image)
        for node in (f"{lab.name}-master-1", f"{lab.name}-node-1")
        for image in ("slipway.dev/redis:7.0", f"slipway.dev/redis@{digest}")
    ):
        spec = {"nodeName": node, "tolerations": [{"operator": "Exists"}]}
        placed = f"--overrides={json.dumps({'spec': spec})}"
        lab.kubectl(*RUN, f"pull-{number}", f"--image={image}", placed, "--command", "--", "redis-server", "--version")
    for number in range(4):
        until(functools.partial(succeeded, lab.first, f"pull-{number}"))
        lab.kubectl("delete", "pod", f"pull-{number}", "--wait=false")


@pytest.mark.parametrize("image", ["slipway.dev/nosuch:1", "docker.io/library/busybox:1", "registry.example.com/app:1"])
def test_an_image_that_is_not_embedded_fails_within_seconds_with_the_reason(lab: Lab, image: str) -> None:
    lab.kubectl("run", "absent", f"--image={image}", "--restart=Never")
    try:

        def reason() -> str:
            states = lab.json("get", "pod", "absent")["status"].get("containerStatuses") or [{}]
            return str(states[0].get("state", {}).get("waiting", {}).get("message") or "")

        assert "not found" in until(lambda: reason() if "not found" in reason() else None, seconds=15)
        said = lab.slipway("check", lab.name, check=False)
        assert said.returncode == 7
        assert image in said.stdout
    finally:
        lab.kubectl("delete", "pod", "absent", "--grace-period=0", "--force")


def test_what_is_left_is_an_ordinary_kubeadm_cluster(lab: Lab) -> None:
    checked = lab.first.run(f"kubeadm certs check-expiration --config {CONFIG}").stdout
    for name in ("apiserver", "etcd-server", "admin.conf", "front-proxy-client"):
        assert name in checked
    assert "invalid" not in checked
    lab.first.run(f"kubeadm certs renew apiserver --config {CONFIG}")
    config = lab.kubectl("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=yaml")
    assert "initial-cluster" not in config
    for node in lab.json("get", "nodes")["items"]:
        assert node["metadata"]["annotations"]["kubeadm.alpha.kubernetes.io/cri-socket"] == "/run/containerd/containerd.sock"


# ---- again ------------------------------------------------------------------------------------------------------------


def test_the_same_command_again_repeats_nothing(lab: Lab, web: str) -> None:
    def running() -> dict[str, str]:
        pods = lab.json("get", "pods", "--all-namespaces")["items"]
        return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods if pod["metadata"]["namespace"] != "default"}

    before = running()
    again = lab.run(web, "-e", "Greeting=It's <b>here</b>", "-e", f"DbPassword={SECRET}")
    for title in ("send the rootfs", "send the container images", "start the kubelets", "launch: kubectl apply -f manifests/web.yaml"):
        assert f"+ {title} (done before)" in again.stderr
    assert running() == before


def test_a_plan_touches_nothing(lab: Lab, web: str) -> None:
    journals = [machine.run("cksum < /var/lib/slipway/journal").stdout for machine in lab.machines]
    plan = json.loads(lab.run(web, "--plan", "--output", "json").stdout)
    assert [step["id"] for step in plan][:2] == ["connect", "check-machines"]
    assert {address for step in plan for address in step["nodes"]} == set(lab.addresses)
    assert [machine.run("cksum < /var/lib/slipway/journal").stdout for machine in lab.machines] == journals


def test_machines_of_a_cluster_are_not_given_to_another(lab: Lab, web: str) -> None:
    said = lab.run(web, name=f"{lab.name}-other", check=False)
    assert said.returncode == 7
    assert "nothing has been changed" in said.stderr
    for address in lab.addresses:
        assert f"{address}: belongs to a cluster {lab.name}" in said.stderr
    ClusterState.of(f"{lab.name}-other").forget()
    assert lab.status()["healthy"]


def test_a_machine_that_cannot_be_reached_is_told_before_anything_is_done(lab: Lab, web: str) -> None:
    said = lab.slipway(*lab.words(web), "--port", "2222", check=False)
    assert said.returncode == 5
    for address in lab.addresses:
        assert f"{address}: nothing listens on port 2222" in said.stderr


# ---- kills, losses, and what is left ----------------------------------------------------------------------------------

# Everything on a machine that a cluster could change: files with their contents, services, interfaces, rules, settings.
FOUND = """cd /
find /etc /usr/local /opt /root /usr/libexec /var/lib /var/log /usr/lib/cni -xdev \\( -path /etc/resolv.conf -o -path /var/lib/systemd \
  -o -path /var/log/journal -o -path /root/.ssh \\) -prune -o -print | sort | while read -r path; do
  if [ -L "$path" ]; then echo "$path -> $(readlink "$path")"
  elif [ -f "$path" ]; then echo "$path $(stat -c %a "$path") $(cksum < "$path")"
  else echo "$path $(stat -c %a "$path")"; fi
done
systemctl list-unit-files --no-legend 'containerd*' 'kubelet*' 'slipway*'
systemctl is-active containerd kubelet
systemctl --failed --no-legend
ls /sys/class/net; ip route
{ iptables-save; ip6tables-save; } | grep -E -e '-A|KUBE|CNI' | sed 's/\\[[0-9:]*\\]//'
cut -d' ' -f2 /proc/mounts | sort
sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding fs.inotify.max_user_instances
ps -eo args --no-headers | grep -E 'kube|etcd|haproxy|registry|pause|shim' | grep -v grep
"""


def found(machine: SshNode) -> str:
    return machine.run(FOUND, check=False).stdout


def kill_at(words: Sequence[str], line: str) -> str:
    """Start the command line and kill it without warning as soon as it says ``line``; what it had said."""
    with subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stderr is not None
        said = ""
        for text in running.stderr:
            said += text
            if line in text:
                running.kill()
                break
    assert line in said, said
    return said


def test_a_run_killed_anywhere_is_finished_by_the_same_command_and_delete_leaves_the_machines_as_they_were(
    slipway: Slipway, web: str
) -> None:
    lab = Lab(slipway, "test-kill", 1, 1)
    try:
        before = [found(machine) for machine in lab.machines]
        for line in ("- send the rootfs", "- set up the machines", "- start the kubelets", "- wait for the API", "- configure the cluster"):
            kill_at(lab.words(web), line)
        said = lab.run(web)
        assert "+ send the rootfs (done before)" in said.stderr
        assert lab.status()["healthy"]
        assert lab.machines[1].run("curl -s http://127.0.0.1:30080/").stdout.strip() == "<h1>Hello from a CloudImage</h1>"
        # A run on top of a half-done delete, and a delete after that, are no different.
        assert "2 machines cleaned" in slipway("delete", lab.name, "--yes").stdout
        assert [found(machine) for machine in lab.machines] == before
        assert not ClusterState.of(lab.name).exists
        lab.run(web)
        assert lab.status()["healthy"]
    finally:
        lab.down()


def test_three_masters_come_up_together_and_one_may_be_lost(slipway: Slipway, web: str) -> None:
    lab = Lab(slipway, "test-three", 3, 1)
    try:
        lab.run(web)
        assert lab.status()["healthy"]
        members = until(lambda: lab.first.run(MEMBERS, check=False).stdout)
        assert members.count("started") == 3
        # The first master goes: it has the images, the API and the keys like the others.
        process.run(["docker", "kill", f"slipway-{lab.name}-master-1"])
        second = NodeKubectl(lab.machines[1])
        until(lambda: f"{lab.name}-node-1" in second.run("get", "nodes"), seconds=60)
        # Through the worker's own balancer: API and registry of those that live.
        until(lambda: lab.worker.run("curl -sk https://apiserver.cluster.local:6443/readyz", check=False).stdout == "ok", seconds=30)
        placed = f"--overrides={json.dumps({'spec': {'nodeName': f'{lab.name}-node-1'}})}"
        second.run(*RUN, "after", "--image=slipway.dev/redis:7.0", placed, "--command", "--", "redis-server", "--version")
        until(functools.partial(succeeded, lab.machines[1], "after"), seconds=90)
        found = lab.status()
        assert not found["healthy"]
        assert [one["address"] for one in found["unreachable"]] == [lab.masters[0]]
        # A machine that is gone does not hold up the end of the others.
        done = slipway("delete", lab.name, "--yes", "--output", "json")
        deleted = json.loads(done.stdout)
        assert sorted(deleted["cleaned"]) == [f"{lab.name}-master-2", f"{lab.name}-master-3", f"{lab.name}-node-1"]
        assert list(deleted["unreachable"]) == [lab.masters[0]]
    finally:
        lab.down()
