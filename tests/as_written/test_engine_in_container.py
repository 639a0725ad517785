"""A build whose engine runs in a container of its own, as CI systems have it: the job shares its network and a folder for caches.

The engine is reached as in a pod of a CI runner: by TCP on loopback, which is that of the engine's container. What a build mounts into
containers lies below the cache folder, which both see under one path.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker as library
import pytest

from harness import assets, process
from harness.build.container_images import Builder, package_image
from harness.build.layers import BUILDER_IMAGE
from harness.host import docker, paths
from harness.nodes.container import IMAGE
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.as_written import texts
from tests.conftest import Slipway
from tests.waiting import HANG, until

ENGINE = "slipway.dev/tests-engine:1"
NGINX = "slipway.dev/nginx:1.22"
KUBEFILE = """FROM kubernetes
RUN echo made > etc/made
COPY web.yaml manifests/
CMD grep -qx made etc/made
CMD kubectl apply -f manifests/web.yaml
"""
WEB = f"""apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: web, image: "{NGINX}"}}]}}
"""


@dataclasses.dataclass(frozen=True)
class Engine:
    """An engine in a container; ``client`` is one of it, ``pid`` the number of its process here."""

    client: Any
    pid: int

    def job(self, *words: str | Path) -> process.ProcessResult:
        """Run slipway in the network of the engine's container, with the files of this machine."""
        argv = ["nsenter", f"--net=/proc/{self.pid}/ns/net", sys.executable, "-m", "harness.cli", *words]
        return process.run(argv, env={"DOCKER_HOST": "tcp://127.0.0.1:2375"}, timeout=2 * HANG)


def configuration(folder: Path) -> None:
    """The configuration of the engine: on a machine that lacks capabilities it needs the runtime that slipway gives to its own."""
    settings: dict[str, Any] = {}
    if docker.missing_capabilities():
        runtime = folder / "oci-runtime"
        runtime.write_text(f"#!/usr/bin/python3 -IS\n{(assets.FOLDER / 'oci_runtime.py').read_text()}")
        runtime.chmod(0o755)
        settings = {"runtimes": {"slipway": {"path": "/run/engine/oci-runtime"}}, "default-runtime": "slipway"}
    (folder / "daemon.json").write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def engine(slipway: Slipway, base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that has the images in which steps and nodes run, as from the cache of a CI system."""
    assert base
    outer, folder = docker.connect(), tmp_path_factory.mktemp("engine")
    configuration(folder)
    image = Builder(Store.default(), (Path(__file__).parent,)).engine_image(outer, Reference.parse(ENGINE))
    cache = str(paths.cache())
    container = outer.containers.run(
        image, detach=True, privileged=True,
        volumes={str(folder): {"bind": "/run/engine", "mode": "rw"}, cache: {"bind": cache, "mode": "rw"}},
        mounts=[library.types.Mount("/var/lib/docker", None)],
    )  # fmt: skip
    try:
        socket = folder / "docker.sock"
        until(lambda: socket.exists() or ended(container), "the engine starts", pause=0.2)
        client = library.DockerClient(base_url=f"unix://{socket}", timeout=int(HANG))
        until(lambda: answers(client) or ended(container), "the engine answers", pause=0.2)
        for name in (package_image(outer, BUILDER_IMAGE), package_image(outer, IMAGE)):
            archive: Any = outer.images.get(name).save(named=True)
            client.images.load(archive)
        container.reload()
        yield Engine(client, int(container.attrs["State"]["Pid"]))
        client.close()
    finally:
        container.remove(force=True, v=True)


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except (library.errors.DockerException, OSError):
        return False


def ended(container: Any) -> bool:
    """Fails when the engine has ended, with its log."""
    container.reload()
    assert container.status in {"created", "running"}, container.logs(tail=30).decode(errors="replace")
    return False


def test_build_on_engine_in_container_boots_cluster_and_leaves_nothing(engine: Engine, slipway: Slipway, tmp_path: Path) -> None:
    context = texts.write(tmp_path / "web", {"Kubefile": KUBEFILE, "web.yaml": WEB})
    # The container image of the application is built once, by whatever engine.
    slipway("build", "-t", "in-container", "--discover", "declared", context)
    said = engine.job("build", "-t", "in-container", "--no-cache", "-o", "json", context)
    built = json.loads(said.stdout)
    assert built["booted"]
    (platform,) = built["platforms"]
    found = {one["name"]: one["foundBy"] for one in platform["images"]}
    assert set(found[NGINX]) == {"pulled", "declared"}
    assert [each.name for each in engine.client.containers.list(all=True)] == []
    assert {each.name for each in engine.client.networks.list()} == {"bridge", "host", "none"}
