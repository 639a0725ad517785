"""Each program that a node gets starts on any Linux: in Debian 11, and where there is nothing but the rootfs."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build import debian
from harness.build.container_images import Builder
from harness.build.definitions import bundled
from harness.host import docker
from harness.oci import layer
from harness.oci.graph import descriptors
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.conftest import KUBERNETES

SUITE = "bullseye"
"""Debian 11 by its own name: that of its age is another release's later."""
OLDEST = f"slipway-test/debian-{SUITE}:1"
EMPTY = f"slipway-test/rootfs:{os.getpid()}"
"""Of this process: another one may test at the same time."""
IMAGES = ("slipway.dev/runtime:13", f"slipway.dev/kubernetes-modules:{KUBERNETES}")
SHELL = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
"""An image with a shell and the few tools that every machine has, static ones."""

STATIC = {
    "containerd": "--version", "containerd-shim-runc-v2": "-v", "ctr": "--version", "runc": "--version", "crictl": "--version",
    "registry": "--version", "kubeadm": "version", "kubelet": "--version", "kubectl": "version --client",
}  # fmt: skip
"""What a program is asked; it needs nothing of the machine."""
WITH_LIBRARIES = {"haproxy": "-v", "ipvsadm": "--version", "nft": "--version", "openssl": "version", "unpigz": "--version"}
"""Programs that bring their loader along; a script starts them, so a machine needs a shell."""
NO_IPVS = "Can't initialize ipvs"
"""What ipvsadm says before anything else on a kernel that has no IPVS: then it has started."""
PLUGINS = ("bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "static", "tuning")
"""Of CNI. Without a command they say what they are."""
SCRIPTED = "flannel-bridge"
"""Of CNI as well, and a script."""
END = """printf %s '{"cniVersion": "1.0.0", "name": "cbr0", "type": "flannel-bridge"}' |
CNI_COMMAND=DEL CNI_CONTAINERID=gone CNI_IFNAME=eth0 CNI_PATH=FOLDER FOLDER/flannel-bridge"""
"""Ends the network of a container that is gone: the script has `bridge` do it, and that one `host-local`."""


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the base image puts on a node, of its programs."""
    return unpacked(tmp_path_factory.mktemp("rootfs"), *IMAGES) / "rootfs"


def unpacked(tree: Path, *images: str) -> Path:
    """The files of images, built where they are not there, in one folder."""
    store = Store.default()
    builder = Builder(store, tuple(bundled()))
    for name in images:
        manifest = builder.ensure(Reference.parse(name))
        assert manifest is not None
        layer.unpack(store, descriptors(store.read(manifest.digest))[1:], tree)
    return tree


@pytest.fixture(scope="module")
def empty(rootfs: Path) -> Iterator[str]:
    """An image that holds the rootfs and nothing else, not even a shell."""
    client = docker.connect()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(rootfs, "rootfs")
        # Go programs look for a place for temporary files before they do anything.
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(folder)
    repository, tag = EMPTY.split(":")
    client.api.import_image_from_data(archive.getvalue(), repository=repository, tag=tag)
    yield EMPTY
    client.images.remove(EMPTY, force=True)


@pytest.fixture(scope="module")
def oldest() -> str:
    """Debian 11, made of the archive that this machine uses."""
    client = docker.connect()
    try:
        client.images.get(OLDEST)
    except docker.NotFound:
        debian.make_debian(client, OLDEST, SUITE, Platform.host())
    return OLDEST


def test_rootfs_programs_equal_list_of_tested_programs(rootfs: Path) -> None:
    assert {path.name for path in (rootfs / "bin").iterdir() if path.is_file()} == {*STATIC, *WITH_LIBRARIES}
    assert {path.name for path in (rootfs / "bin/cni").iterdir()} == {*PLUGINS, SCRIPTED}


@pytest.mark.parametrize("name", STATIC)
def test_rootfs_static_program_starts_in_empty_container(empty: str, name: str) -> None:
    code, said = docker.run_container(docker.connect(), empty, [f"/rootfs/bin/{name}", *STATIC[name].split()], network_mode="none")
    assert code == 0, said
    assert any(figure in said for figure in ("1.", "2.", "3.")), said


@pytest.mark.parametrize("name", PLUGINS)
def test_rootfs_cni_plugin_starts_in_empty_container(empty: str, name: str) -> None:
    code, said = docker.run_container(docker.connect(), empty, [f"/rootfs/bin/cni/{name}"], network_mode="none")
    assert (code, f"CNI {name} plugin v" in said) == (0, True), said


def test_rootfs_scripted_cni_plugin_ends_network_in_container_with_shell_only(empty: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    tools = unpacked(tmp_path_factory.mktemp("shell"), SHELL) / "bin"
    words = ["/bin/sh", "-c", END.replace("FOLDER", "/rootfs/bin/cni")]
    mounted = {str(tools): {"bind": "/bin", "mode": "ro"}}
    code, said = docker.run_container(docker.connect(), empty, words, volumes=mounted, network_mode="none")
    assert (code, said.strip()) == (0, ""), said


@pytest.mark.parametrize("name", WITH_LIBRARIES)
def test_rootfs_dynamic_program_starts_by_bundled_loader(empty: str, name: str) -> None:
    folder = "/rootfs/lib/balancer"
    words = [f"{folder}/ld.so", "--library-path", folder, f"{folder}/{name}", *WITH_LIBRARIES[name].split()]
    code, said = docker.run_container(docker.connect(), empty, words, network_mode="none")
    assert code == 0 or NO_IPVS in said, said


@pytest.mark.parametrize("name", [*STATIC, *WITH_LIBRARIES])
def test_rootfs_program_starts_in_oldest_debian(oldest: str, rootfs: Path, name: str) -> None:
    words = [f"/mnt/bin/{name}", *{**STATIC, **WITH_LIBRARIES}[name].split()]
    mounted = {str(rootfs): {"bind": "/mnt", "mode": "ro"}}
    code, said = docker.run_container(docker.connect(), oldest, words, volumes=mounted, network_mode="none")
    assert code == 0 or NO_IPVS in said, said


@pytest.mark.parametrize("name", PLUGINS)
def test_rootfs_cni_plugin_starts_in_oldest_debian(oldest: str, rootfs: Path, name: str) -> None:
    mounted = {str(rootfs): {"bind": "/mnt", "mode": "ro"}}
    code, said = docker.run_container(docker.connect(), oldest, [f"/mnt/bin/cni/{name}"], volumes=mounted, network_mode="none")
    assert (code, f"CNI {name} plugin v" in said) == (0, True), said


def test_rootfs_scripted_cni_plugin_ends_network_in_oldest_debian(oldest: str, rootfs: Path) -> None:
    words = ["sh", "-c", END.replace("FOLDER", "/mnt/bin/cni")]
    mounted = {str(rootfs): {"bind": "/mnt", "mode": "ro"}}
    code, said = docker.run_container(docker.connect(), oldest, words, volumes=mounted, network_mode="none")
    assert (code, said.strip()) == (0, ""), said
