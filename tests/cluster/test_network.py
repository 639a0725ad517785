"""The base image with parts left out: an image built from it brings another pod network, and NetworkPolicies are enforced.

kube-router is compiled from its module where its registry does not answer, and so is what enforces policies by a queue of the kernel.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.host import docker
from tests.cluster.conftest import PROJECT, alone
from tests.cluster.lab import Lab, kill_at, repeated, until
from tests.cluster.workload import pods_of
from tests.conftest import Slipway

pytestmark = pytest.mark.long

BARE, ROUTED, QUEUED = "kubernetes:bare", "routed:1", "queued:1"
NET, PAGES = "net:1", "pages:1"
"""Application images: the pod network, and pages."""
LEFT_OUT = ("NETWORK=none", "STORAGE=none", "METRICS=none")

_KUBEFILE = """FROM {base}
COPY manifests manifests
CMDS ["kubectl apply -f manifests"]
"""
_SERVER = """apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  {pods}
    spec:
      tolerations: [{{operator: Exists}}]
      containers:
      - name: nginx
        image: slipway.dev/nginx:1.22
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
"""
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "friends", "namespace": "default"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "page"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"friend": "yes"}}}]}],
    },
}
# A table of its own, which the kernel checks and then forgets.
_QUEUES = "nft --check 'add table inet t; add chain inet t c {{ type filter hook postrouting priority 0; }}; add rule inet t c {}'"


def arguments(values: tuple[str, ...]) -> list[str]:
    return [word for value in values for word in ("--build-arg", value)]


def application(slipway: Slipway, folder: Path, image: str, base: str) -> None:
    """Build an image with a page on every node, and somebody there who asks for it."""
    (folder / "manifests").mkdir()
    (folder / "Kubefile").write_text(_KUBEFILE.format(base=base))
    for name in ("page", "asker"):
        (folder / f"manifests/{name}.yaml").write_text(_SERVER.format(name=name, pods=pods_of(name)))
    slipway("build", "-t", image, "--discover", "declared", folder)


@pytest.fixture(scope="module")
def images(slipway: Slipway, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both of the first are run on throw-away clusters: one without a pod network, and one with that of the image."""
    base = PROJECT / "kubefiles/kubernetes"
    with alone():
        slipway("build", "-t", BARE, *arguments(LEFT_OUT), base)
        slipway("build", "-t", "kube-router", PROJECT / "tests/cluster/kube-router")
        queue = arguments(("POLICY=kube-network-policies",))
        slipway("build", "-t", "kubernetes:policies", "--discover", "declared", *queue, base)
        application(slipway, tmp_path_factory.mktemp("routed"), ROUTED, "kube-router:latest")
        application(slipway, tmp_path_factory.mktemp("queued"), QUEUED, "kubernetes:policies")
        application(slipway, tmp_path_factory.mktemp("pages"), PAGES, "scratch")
        net = tmp_path_factory.mktemp("net")
        shutil.copytree(PROJECT / "tests/cluster/kube-router/images", net / "images")
        shutil.copy(PROJECT / "tests/cluster/kube-router/etc/addons/network.yaml", net / "network.yaml.tmpl")
        (net / "Kubefile").write_text("FROM scratch\nCNI kube-router local://network.yaml.tmpl\n")
        slipway("build", "-t", NET, "--discover", "declared", net)


@pytest.fixture(scope="module")
def lab(slipway: Slipway, images: None) -> Iterator[Lab]:
    lab = Lab(slipway, "test-network", 1, 1)
    try:
        with carrying_pods(lab):
            yield lab
    finally:
        lab.down()


@contextlib.contextmanager
def carrying_pods(lab: Lab) -> Iterator[None]:
    """The network of the machines carries packets whose addresses are pods', as that of a site does.

    kube-router routes without an overlay here: the kernel may have no tunnel for one. The engine drops such packets in an isolated network.
    """
    (network,) = docker.connect().containers.get(f"slipway-{lab.host(lab.control_plane[0])}").attrs["NetworkSettings"]["Networks"].values()
    bridge = f"br-{network['NetworkID'][:12]}"
    rule = ["DOCKER-USER", "-i", bridge, "-o", bridge, "-j", "ACCEPT"]
    process.run(["iptables", "-I", *rule])
    try:
        yield
    finally:
        process.run(["iptables", "-D", *rule])


def described(slipway: Slipway, image: str) -> dict[str, Any]:
    (platform,) = json.loads(slipway("inspect", image, "--output", "json").stdout)["platforms"]
    return dict(platform)


def names(slipway: Slipway, image: str) -> set[str]:
    """The last parts of the names of the container images in an image."""
    return {one["name"].rpartition("/")[2].partition(":")[0] for one in described(slipway, image)["images"]}


@pytest.mark.usefixtures("images")
def test_build_without_parts_embeds_none_of_them_and_inspect_shows_policy_enforcer(slipway: Slipway) -> None:
    parts = {"flannel", "local-path-provisioner", "metrics-server", "kube-network-policies", "kube-router"}
    assert names(slipway, BARE) & parts == set()
    assert {"kube-apiserver", "coredns", "pause"} <= names(slipway, BARE)
    assert names(slipway, ROUTED) & parts == {"kube-router"}
    assert names(slipway, QUEUED) & parts == parts - {"kube-router"}
    told = {image: described(slipway, image)["policiesEnforcedBy"] for image in (BARE, ROUTED, QUEUED)}
    assert told == {BARE: [], ROUTED: ["kube-router"], QUEUED: ["kube-network-policies"]}
    assert "policies    stored, not enforced" in slipway("inspect", BARE).stdout


def test_run_image_without_pod_network_is_refused_and_changes_nothing(lab: Lab) -> None:
    said = lab.run(BARE, check=False)
    assert (said.returncode, "brings no pod network" in said.stderr) == (4, True)
    # The folder itself may be a disk that is mounted.
    assert not any(machine.run("ls -A /var/lib/slipway 2> /dev/null", check=False).stdout for machine in lab.machines)


def test_run_kubernetes_network_and_application_resumes_without_repeating_steps(lab: Lab) -> None:
    images = (PAGES, NET, BARE)
    planned = json.loads(lab.run(*images, "--plan", "--output", "json").stdout)
    steps = [step["id"] for step in planned]
    assert steps.index("app-net") < steps.index("wait-for-nodes") < steps.index("app-pages")
    kill_at(lab.words(*images), "- launch: kubectl apply -f manifests")
    said = lab.run(*images)
    assert "pages (pages:1) runs in" in said.stdout
    journals = lab.journals()
    assert all(repeated(lines) == [] for lines in journals.values())
    lab.run(*images)
    assert lab.journals() == journals
    assert all(lab.nodes().values())
    applications = json.loads(lab.slipway("apps", "--cluster", lab.name, "--output", "json").stdout)
    assert {one["name"]: (one["state"], one["byFile"]) for one in applications} == dict.fromkeys(("net", "pages"), ("installed", True))
    pods = Pods(lab)
    until(lambda: pods.reached() == [[True, True], [True, True]])
    lab.slipway("delete", lab.name, "--yes")


class Pods:
    """The pages and those who ask for them, by the place of their node among the machines."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.places = {lab.host(address): index for index, address in enumerate(lab.addresses)}

    def of(self, app: str) -> list[dict[str, Any]]:
        found = self.lab.json("get", "pods", f"--selector=app={app}")["items"]
        return sorted(found, key=lambda pod: self.places[pod["spec"]["nodeName"]])

    def reached(self) -> list[list[bool]]:
        """For each who asks, whether each page answers."""
        pages = [pod["status"]["podIP"] for pod in self.of("page")]
        return [[self._answers(asker["metadata"]["name"], address) for address in pages] for asker in self.of("asker")]

    def _answers(self, asker: str, address: str) -> bool:
        # Not with -T: busybox, which is static, ends in a fault then.
        script = f"busybox timeout 3 wget -qO- http://{address}/ > /dev/null && echo reached || true"
        return "reached" in self.lab.kubectl("exec", asker, "--", "sh", "-c", script)


def enforces(lab: Lab) -> None:
    """Fails unless a policy keeps strangers out, lets friends in, on one node and between two, and is gone when it is removed."""
    pods, everybody = Pods(lab), [[True, True], [True, True]]
    until(lambda: pods.reached() == everybody)
    lab.first.run("KUBECONFIG=/etc/kubernetes/admin.conf /var/lib/slipway/rootfs/bin/kubectl apply --filename=-", input=json.dumps(POLICY))
    until(lambda: pods.reached() == [[False, False], [False, False]])
    lab.kubectl("label", "pod", pods.of("asker")[0]["metadata"]["name"], "friend=yes")
    until(lambda: pods.reached() == [[True, True], [False, False]])
    report = json.loads(until(lambda: lab.slipway("check", lab.name, "--output", "json")).stdout)
    (told,) = (check for check in report["checks"] if check["id"] == "network-policies")
    assert (report["healthy"], told["result"]) == (True, "ok"), report
    assert "enforced by" in told["findings"][0]["seen"]
    lab.kubectl("delete", "networkpolicy", "friends")
    until(lambda: pods.reached() == everybody)


def test_run_policy_queue_is_enforced_or_refused_on_kernel_without_nft_queue(lab: Lab) -> None:
    assert lab.first.run(_QUEUES.format("accept"), check=False).ok
    if lab.first.run(_QUEUES.format("queue num 9"), check=False).ok:
        lab.run(QUEUED)
        enforces(lab)
        lab.slipway("delete", lab.name, "--yes")
        assert "kube-network-policies" not in lab.worker.run("nft list tables").stdout
    else:
        said = lab.run(QUEUED, check=False)
        assert (said.returncode, "[network-policies]" in said.stderr) == (7, True), said.output
        assert "kube-network-policies enforces nothing there: the kernel has no nft_queue (CONFIG_NFT_QUEUE)" in said.stderr


def test_run_image_with_own_pod_network_uses_it_and_enforces_policies(lab: Lab) -> None:
    lab.run(ROUTED)
    assert [daemon["metadata"]["name"] for daemon in lab.json("get", "daemonsets", "--namespace=kube-system")["items"]] == [
        "kube-proxy",
        "kube-router",
    ]
    assert lab.worker.run("ls /etc/cni/net.d").stdout.split() == ["10-kube-router.conflist"]
    # What the machine has had before stays; of the image there would be a link.
    assert not lab.worker.run("[ -L /opt/cni/bin/flannel-bridge ]", check=False).ok
    # Its pods reach each other over plain routes.
    assert "flannel" not in lab.worker.run("ls /sys/class/net").stdout
    enforces(lab)
