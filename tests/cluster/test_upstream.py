"""The base image from official binaries and images: a download site and registries on loopback, laid out as the real ones are.

What they serve is what was compiled here: the same programs and images, under the names and in the places of their makers.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import PlatformImage
from harness.host import apt, docker
from harness.oci import layer
from harness.oci.graph import descriptors
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.testkit.isolation import Offline
from tests.cluster.conftest import PROJECT, alone
from tests.cluster.lab import Lab, until
from tests.conftest import KUBERNETES, Slipway
from tests.integration.registry import Image, mirrored_by, push, registry, serving

pytestmark = pytest.mark.long

BASE = "kubernetes:official"
PROGRAMS = ("kubeadm", "kubelet", "kubectl")


@pytest.fixture(scope="module")
def built(kubernetes: str) -> PlatformImage:
    return cloudimage.read(Store.default(), kubernetes).platform(Platform.host())


@pytest.fixture(scope="module")
def site(built: PlatformImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a download site, and the checksums that its user knows."""
    root, tree = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("rootfs")
    layer.unpack(Store.default(), built.layers, tree / "root")
    architecture = Platform.host().architecture
    folder = root / f"release/{KUBERNETES}/bin/linux/{architecture}"
    folder.mkdir(parents=True)
    known = []
    for name in PROGRAMS:
        (folder / name).symlink_to(tree / "root/bin" / name)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        (folder / f"{name}.sha256").write_text(digest)
        known.append(f"{architecture}/{name}={digest}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(root))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        yield f"http://127.0.0.1:{port}", ",".join(known)


@pytest.fixture(scope="module")
def registries(built: PlatformImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The configuration in which one registry on loopback stands for registry.k8s.io and docker.io."""
    apt.ensure("docker-registry", "docker-registry")
    folder = tmp_path_factory.mktemp("upstream")
    store = Store.default()
    with registry(folder) as found:
        for one in built.images.images:
            manifest = store.read(one.digest)
            blobs = {blob.digest: store.read(blob.digest) for blob in descriptors(manifest)}
            repository, _, tag = one.name.rpartition(":")
            push(found, repository, tag, Image(one.digest, one.media_type, {one.digest: (one.media_type, manifest)}, blobs))
        conf = folder / "registries.conf"
        conf.write_text(mirrored_by(found, "registry.k8s.io", "docker.io"))
        yield conf


@pytest.fixture(scope="module")
def base(slipway: Slipway, site: tuple[str, str], registries: Path) -> str:
    mirror, known = site
    wanted = {"SOURCE": "release", "VERSION": KUBERNETES, "MIRROR": mirror, "CHECKSUMS": known}
    arguments = [f"--build-arg={name}={value}" for name, value in wanted.items()]
    with alone():
        words = ("build", "-t", BASE, "--network", "host", "--images", "upstream", *arguments)
        slipway(*words, PROJECT / "kubefiles/kubernetes", env={"SLIPWAY_REGISTRIES_CONF": str(registries)})
    return BASE


@pytest.fixture(scope="module")
def lab(slipway: Slipway, base: str) -> Iterator[Lab]:
    lab = Lab(slipway, "test-upstream", 1, 1)
    try:
        lab.run(base)
        yield lab
    finally:
        lab.down()


def images(slipway: Slipway, name: str) -> list[dict[str, Any]]:
    described = json.loads(slipway("inspect", name, "--output", "json").stdout)
    return list(described["platforms"][0]["images"])


def test_build_images_upstream_marks_none_as_built_and_keeps_digests(slipway: Slipway, base: str, kubernetes: str) -> None:
    pulled, made = images(slipway, base), images(slipway, kubernetes)
    assert {one["name"]: one["digest"] for one in pulled} == {one["name"]: one["digest"] for one in made}
    assert [one["name"] for one in pulled if one.get("built")] == []
    assert all(one.get("built") for one in made)


def test_run_upstream_image_starts_all_pods_offline(lab: Lab) -> None:
    until(lambda: lab.status()["healthy"])
    pods = lab.json("get", "pods", "--all-namespaces")["items"]
    assert {container["image"].partition("/")[0] for pod in pods for container in pod["spec"]["containers"]} == {
        "registry.k8s.io",
        "docker.io",
    }
    Offline(docker.connect(), lab.name, lab.machines).prove()
