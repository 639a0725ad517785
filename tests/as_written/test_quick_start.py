"""The quick start, line by line: a build, a cluster at exactly the addresses of the text, a tag, a push; then a SaaS in that cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import process
from tests.as_written import texts
from tests.as_written.conftest import World
from tests.cluster.lab import Lab
from tests.conftest import Slipway
from tests.waiting import HANG

SUBNET = "192.168.0.0/24"
CONTROL_PLANE = ["192.168.0.2", "192.168.0.3", "192.168.0.4"]
WORKERS = ["192.168.0.5", "192.168.0.6"]
PASSWORD_LOGIN = """printf 'PermitRootLogin yes\\nPasswordAuthentication yes\\n' > /etc/ssh/sshd_config.d/10-password.conf
echo root:xxx | chpasswd
systemctl restart ssh"""

PASSWORD = {"SLIPWAY_SSH_PASSWORD": "xxx"}
"""For commands that are not of the text: this machine keeps no password."""

SAAS = {"mysql": "slipway.dev/redis:7.0", "redis": "slipway.dev/redis:7.0", "es": "slipway.dev/nginx:1.22"}
"""Applications of the SaaS, which its author names and does not show, with images that stand in for them."""
APP = "FROM scratch\nCOPY manifests manifests\nCMD kubectl apply -f manifests\n"
WORKLOAD = """apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: main, image: "{image}"}}]}}
"""


def app(folder: Path, applications: dict[str, str]) -> Path:
    manifests = {f"manifests/{name}.yaml": WORKLOAD.format(name=name, image=image) for name, image in applications.items()}
    return texts.write(folder, {"Kubefile": APP, **manifests})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return texts.write(tmp_path_factory.mktemp("quick-start"), {"Kubefile": texts.kubefile("quick-start")})


@pytest.fixture(scope="module")
def built(world: World, dashboard_images: None, context: Path) -> str:
    return world.type(texts.command("quick-start", "sealer build"), context).stderr


@pytest.fixture(scope="module")
def saas(world: World, built: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The images of the second text: the whole SaaS, and Prometheus, without Kubernetes."""
    assert built
    said = world.type(texts.command("saas", "sealer build"), app(tmp_path_factory.mktemp("saas"), SAAS)).stderr
    prometheus = app(tmp_path_factory.mktemp("prometheus"), {"prometheus": "slipway.dev/nginx:1.22"})
    world("build", "-t", "prometheus:latest", "--on", "none", prometheus)
    return said


@pytest.fixture(scope="module")
def lab(slipway: Slipway, built: str) -> Iterator[Lab]:
    """Machines at the addresses of the text, which let root in with its password."""
    assert built
    lab = Lab(slipway, "test-written", len(CONTROL_PLANE), len(WORKERS), subnet=SUBNET)
    try:
        for machine in lab.machines:
            machine.run(PASSWORD_LOGIN)
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def made(world: World, lab: Lab, context: Path) -> process.ProcessResult:
    return world.type(texts.command("quick-start", "sealer run"), context)


def images(world: World, name: str) -> dict[str, list[str]]:
    """The container images within an image, and how each was found."""
    (platform,) = json.loads(world("inspect", name, "--output", "json").stdout)["platforms"]
    return {one["name"]: one["foundBy"] for one in platform["images"]}


def test_build_fetches_remote_manifest_and_finds_its_images(world: World, built: str) -> None:
    assert texts.DASHBOARD_URL in world.site.asked
    assert "cloudrootfs:v1.16.9-alpha.7 brings Kubernetes v1.36" in built
    found = images(world, "kubernetes-with-dashobard:latest")
    for name in texts.DASHBOARD_IMAGES:
        assert set(found.get(f"docker.io/{name}", ())) == {"pulled", "declared"}, found


def test_run_application_without_cluster_is_refused(world: World, saas: str, context: Path) -> None:
    assert saas
    for start in ("sealer run your-saas", "sealer run prometheus"):
        said = world.type(texts.command("saas", start), context, check=False)
        assert said.returncode == 2
        assert "nothing is known of a cluster default" in said.stderr
        assert "--control-plane" in said.stderr


def test_lab_machines_have_addresses_of_text(lab: Lab) -> None:
    assert (lab.control_plane, lab.workers) == (CONTROL_PLANE, WORKERS)
    line = texts.command("quick-start", "sealer run")
    assert all(address in line for address in lab.addresses)


def test_run_with_password_makes_healthy_cluster(world: World, made: process.ProcessResult) -> None:
    assert "every user of this machine can read the password" in made.stderr
    status = json.loads(world("status", "--output", "json", env=PASSWORD).stdout)
    assert status["healthy"], status
    assert [node["ready"] for node in status["nodes"]] == [True] * 5


def test_kubectl_line_of_text_lists_running_dashboard(world: World, lab: Lab, made: process.ProcessResult, tmp_path: Path) -> None:
    """With kubectl of the image, on the machine that ran `run`, and the kubeconfig that it printed."""
    assert f"--kubeconfig {world.home}/clusters/default/kubeconfig" in made.stdout
    kubectl = tmp_path / "bin/kubectl"
    kubectl.parent.mkdir()
    source = f"slipway-{lab.host(lab.control_plane[0])}:/var/lib/slipway/rootfs/bin/kubectl"
    process.run(["docker", "cp", "--follow-link", source, kubectl])
    line = texts.command("quick-start", "kubectl")
    env = {
        "KUBECONFIG": str(world.home / "clusters/default/kubeconfig"),
        "PATH": f"{kubectl.parent}:{os.environ['PATH']}",
    }
    rows = [row.split() for row in world.type(line, env=env).stdout.splitlines()]
    pods = {row[1].rpartition("-")[0].rpartition("-")[0]: row[2:4] for row in rows}
    assert pods == {"kubernetes-dashboard": ["1/1", "Running"], "dashboard-metrics-scraper": ["1/1", "Running"]}


def test_tag_and_push_use_public_name(world: World, built: str, context: Path) -> None:
    assert built
    world.type(texts.command("quick-start", "sealer tag"), context)
    world.type(texts.command("quick-start", "sealer push"), context)
    assert world.tags("docker.io/fanux/dashobard") == ["latest"]


def test_run_adds_saas_and_prometheus_to_existing_cluster(
    world: World, lab: Lab, made: process.ProcessResult, saas: str, context: Path
) -> None:
    assert made.ok
    assert saas
    for start in ("sealer run your-saas", "sealer run prometheus"):
        world.type(texts.command("saas", start), context, env=PASSWORD)
    for name in (*SAAS, "prometheus"):
        lab.kubectl("rollout", "status", f"deployment/{name}", f"--timeout={HANG:.0f}s")
