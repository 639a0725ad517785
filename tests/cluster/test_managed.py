"""Applications in a cluster whose machines cannot be entered: kind as the managed cluster, which reaches one registry and nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cloudimage, process
from harness.cloudimage import unpacked
from harness.host import apt, docker, tools
from harness.nodes.container import gateway as network_gateway
from harness.oci.store import Store
from tests.bench import one_node
from tests.cluster.conftest import alone
from tests.conftest import Slipway
from tests.integration.registry import Registry, registry
from tests.waiting import HANG, until

pytestmark = pytest.mark.long

NAME = f"test-managed-{os.getpid()}"

KUBEFILE = """FROM scratch
ENV Replicas=1
COPY manifests manifests
CMDS ["kubectl apply -f manifests"]
"""

SHOP = """apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, namespace: shop}
spec:
  selector: {matchLabels: {app: shop}}
  replicas: 2
  template:
    metadata: {labels: {app: shop}}
    spec:
      initContainers:
      - {name: once, image: once:1, imagePullPolicy: Always, command: [sh, -c, "true"]}
      containers:
      - {name: web, image: "slipway.dev/nginx:1.22", imagePullPolicy: Always}
"""

# Docker Hub's short spelling, for an image that only this application has.
ONCE = """# image: docker.io/library/once:1
FROM slipway.dev/nginx:1.22
LABEL what=once
"""

POD = """apiVersion: v1
kind: Pod
metadata: {name: other, namespace: default}
spec:
  containers:
  - {name: it, image: "registry.example.com/other:1"}
  - {name: web, image: "docker.io/library/once:1"}
  volumes:
  - {name: data, image: {reference: "once:1"}}
"""


@dataclasses.dataclass(frozen=True)
class Managed:
    """A cluster of kind, by its kubeconfig."""

    kubeconfig: Path
    registry: Registry
    programs: dict[str, str]

    def kubectl(self, *words: str, input: str | None = None) -> str:
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *words]
        return process.run(command, env=self.programs, input=input, timeout=HANG).stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.kubectl(*words, "--output=json"))

    def objects(self) -> set[str]:
        """Everything that an application could leave behind."""
        kinds = "namespaces,configmaps,secrets,deployments,services,mutatingadmissionpolicies,mutatingadmissionpolicybindings"
        return set(self.kubectl("get", kinds, "--all-namespaces", "--output=name").split())


@pytest.fixture(scope="module")
def managed(kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """A cluster on a network without a way out, whose nodes know the registry on this machine."""
    apt.ensure("docker-registry", "docker-registry")
    folder, client = tmp_path_factory.mktemp("managed"), docker.connect()
    image = cloudimage.read(Store.default(), kubernetes).platforms[0]
    tree = unpacked.unpacked_rootfs(Store.default(), image.layers)
    programs = {"PATH": f"{tree}/bin:{process.run(['sh', '-c', 'echo $PATH']).stdout.strip()}"}
    network = client.networks.create(NAME, driver="bridge")
    kind, kubeconfig = str(tools.kind()), folder / "kubeconfig"
    try:
        network.reload()
        gateway = network_gateway(network)
        with registry(folder / "registry", address=gateway) as serving, alone():
            one_node.preload(client, tree, image)
            configuration = one_node.kind_configuration(tree, folder)
            hosts = folder / "certs.d" / serving.host
            hosts.mkdir(parents=True)
            (hosts / "hosts.toml").write_text(f'server = "{serving.url}"\n')
            document = yaml.safe_load(configuration.read_text())
            mount = {"hostPath": str(hosts.parent), "containerPath": "/etc/containerd/certs.d", "readOnly": True}
            document["nodes"][0]["extraMounts"].append(mount)
            configuration.write_text(json.dumps(document))
            command: list[str | Path] = [
                kind,
                "create",
                "cluster",
                "--name",
                NAME,
                "--config",
                configuration,
                "--kubeconfig",
                kubeconfig,
                "--wait",
                "300s",
            ]
            process.run(command, env={"KIND_EXPERIMENTAL_DOCKER_NETWORK": NAME}, timeout=HANG)
            # Addresses beyond the network have no way. An isolated network of the engine would not do: kind wants a published port.
            docker.command_output(client.containers.get(f"{NAME}-control-plane"), ["ip", "route", "replace", "default", "dev", "eth0"])
            yield Managed(kubeconfig, serving, programs)
    finally:
        process.run([kind, "delete", "cluster", "--name", NAME, "--kubeconfig", kubeconfig], check=False)
        network.remove()


@pytest.fixture(scope="module")
def shop(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "manifests").mkdir()
    (folder / "images/once").mkdir(parents=True)
    (folder / "Kubefile").write_text(KUBEFILE)
    (folder / "manifests/shop.yaml").write_text(SHOP)
    (folder / "images/once/Dockerfile").write_text(ONCE)
    slipway("build", "-t", "shop:managed", "--on", "none", folder)
    return "shop:managed"


def test_run_application_without_ssh_points_pods_at_registry_and_removal_leaves_no_trace(
    slipway: Slipway, managed: Managed, shop: str
) -> None:
    before = managed.objects()
    place = f"{managed.registry.host}/team"
    where: list[str | Path] = ["--kubeconfig", managed.kubeconfig]
    words: list[str | Path] = ["run", shop, *where, "--registry", place, "--plain-http"]
    done = slipway(*words, env=managed.programs, timeout=HANG)
    assert f"point pods at {place}" in done.stderr

    pods = managed.json("get", "pods", "--namespace=shop")["items"]
    assert [pod["status"]["phase"] for pod in pods] == ["Running", "Running"]
    for pod in pods:
        assert pod["spec"]["initContainers"][0]["image"] == f"{place}/docker.io/library/once:1"
        assert pod["spec"]["containers"][0]["image"] == f"{place}/slipway.dev/nginx:1.22"
    deployment = managed.json("get", "deployment", "shop", "--namespace=shop")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == "slipway.dev/nginx:1.22"
    # What runs is what the CloudImage has, byte for byte.
    embedded = {one.name: one.digest for one in cloudimage.read(Store.default(), shop).platforms[0].images.images}
    pulled = pods[0]["status"]["containerStatuses"][0]["imageID"]
    assert pulled == f"{place}/slipway.dev/nginx@{embedded['slipway.dev/nginx:1.22']}"

    other = json.loads(managed.kubectl("create", "--dry-run=server", "--filename=-", "--output=json", input=POD))
    assert [one["image"] for one in other["spec"]["containers"]] == ["registry.example.com/other:1", f"{place}/docker.io/library/once:1"]
    assert other["spec"]["volumes"][0]["image"]["reference"] == f"{place}/docker.io/library/once:1"

    name = pods[0]["metadata"]["name"]
    managed.kubectl("debug", name, "--namespace=shop", "--image=once:1", "--profile=general", "--container=seen", "--", "sleep", "600")
    added = managed.json("get", "pod", name, "--namespace=shop")["spec"]["ephemeralContainers"]
    assert [one["image"] for one in added] == [f"{place}/docker.io/library/once:1"]
    until(
        lambda: "running" in managed.json("get", "pod", name, "--namespace=shop")["status"]["ephemeralContainerStatuses"][0]["state"],
        lambda: managed.kubectl("get", "events", "--namespace=shop"),
    )
    # A second one leaves the first as it is.
    managed.kubectl("debug", name, "--namespace=shop", "--image=once:1", "--profile=general", "--container=second", "--", "true")

    uploads = managed.registry.requests("POST", "/blobs/uploads/")
    slipway(*words, env=managed.programs, timeout=HANG)
    assert managed.registry.requests("POST", "/blobs/uploads/") == uploads
    assert {pod["metadata"]["uid"] for pod in managed.json("get", "pods", "--namespace=shop")["items"]} == {
        pod["metadata"]["uid"] for pod in pods
    }

    slipway("apps", "remove", "shop", *where, "--yes", env=managed.programs, timeout=HANG)
    until(lambda: managed.objects() <= before, lambda: str(managed.objects() - before))


def test_managed_nodes_have_no_way_beyond_their_network(managed: Managed) -> None:
    node = docker.connect().containers.get(f"{NAME}-control-plane")
    routes = docker.command_output(node, ["ip", "route", "show"])
    assert "default dev eth0" in routes
    assert " via " not in "\n".join(line for line in routes.splitlines() if "eth0" in line), managed.registry.host
