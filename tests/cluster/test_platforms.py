"""The base image for two platforms: real programs of both, and for the foreign one the images that a cluster pulled here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cloudimage, process
from harness.build.image_packages import layers_of
from harness.cloudimage import PlatformImage, elf
from harness.host import apt
from harness.oci import layer
from harness.oci.layer import Layer
from harness.oci.model import Descriptor
from harness.oci.store import Store
from tests.cluster.conftest import PROJECT
from tests.conftest import KUBERNETES, Slipway
from tests.integration.test_build import context
from tests.integration.test_platforms import BOTH, HERE, THERE

EMULATORS = {"arm64": "qemu-aarch64-static", "amd64": "qemu-x86_64-static"}

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.long]
"""Everything that the base is made of is compiled once more, for the other processor."""


@pytest.fixture(scope="module")
def both(slipway: Slipway) -> str:
    """The base CloudImage for this machine's platform and the other one, which is cross-compiled."""
    slipway("build", "-t", "kubernetes:both", "--platform", BOTH, PROJECT / "kubefiles/kubernetes")
    return "kubernetes:both"


@pytest.fixture(scope="module")
def foreign(both: str) -> PlatformImage:
    return cloudimage.read(Store.default(), both).platform(THERE)


@pytest.fixture(scope="module")
def rootfs(foreign: PlatformImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rootfs") / "rootfs"
    layer.unpack(Store.default(), foreign.layers, root)
    return root


def foreign_programs(store: Store, part: PlatformImage, name: str) -> int:
    """How many programs an embedded image has, all for its platform, as its config says."""
    found = next(one for one in part.images.images if one.name == name)
    config = store.json(store.json(found.digest)["config"]["digest"])
    assert (config["os"], config["architecture"]) == (THERE.os, THERE.architecture), name
    layers = layers_of(store, Descriptor(found.media_type, found.digest, found.size))
    assert elf.misfits(store, layers, THERE) == (), name
    return sum(len(elf.processors(store, one)) for one in layers)


def test_build_foreign_rootfs_has_programs_of_its_architecture_only(foreign: PlatformImage, rootfs: Path) -> None:
    expected = {"kubeadm", "kubelet", "kubectl", "containerd", "containerd-shim-runc-v2", "ctr", "crictl", "runc", "registry"}
    headers = {path: path.read_bytes()[: elf.HEADER] for path in (rootfs / "bin").rglob("*") if path.is_file()}
    found = {path.name: elf.processor(header) for path, header in headers.items() if header.startswith(b"\x7fELF")}
    assert {*expected, "bridge", "host-local", "loopback", "portmap"} <= set(found)
    assert set(found.values()) == {THERE.architecture}
    layers = [Layer(descriptor, diff_id) for descriptor, diff_id in zip(foreign.layers, foreign.diff_ids, strict=True)]
    assert elf.misfits(Store.default(), layers, THERE) == ()
    assert json.loads((rootfs / "Metadata").read_text())["arch"] == THERE.architecture


def test_build_foreign_container_images_match_native_set_in_their_architecture(both: str, foreign: PlatformImage) -> None:
    store = Store.default()
    native = cloudimage.read(store, both).platform(HERE)
    assert [one.name for one in foreign.images.images] == [one.name for one in native.images.images]
    assert {one.name: one.found_by for one in foreign.images.images} == {one.name: one.found_by for one in native.images.images}
    for image in foreign.images.images:
        assert foreign_programs(store, foreign, image.name) > 0


def test_build_foreign_programs_run_under_emulation(rootfs: Path) -> None:
    emulator = apt.ensure(EMULATORS[THERE.architecture], "qemu-user-static")
    assert process.run([emulator, rootfs / "bin/kubeadm", "version", "-o", "short"]).stdout.strip() == KUBERNETES
    for program, version in (("containerd", "2.4.2"), ("runc", "1.5.3"), ("crictl", "1.37.0"), ("registry", "3.1.2")):
        assert version in process.run([emulator, rootfs / "bin" / program, "--version"]).stdout
    # What is linked to libc takes the loader and libraries that the load balancer brings.
    libraries = rootfs / "lib/balancer"
    loader: list[str | Path] = [emulator, libraries / "ld.so", "--library-path", libraries]
    assert "HAProxy version" in process.run([*loader, libraries / "haproxy", "-v"]).stdout


def test_build_foreign_platform_embeds_image_pulled_in_native_run(both: str, tmp_path: Path, slipway: Slipway) -> None:
    # The name is put together by the command: no file declares it.
    made = context(tmp_path / "c", f"FROM {both}\nCMD kubectl create deployment cache --image=slipway.dev/re$(echo dis):7.0\n")
    try:
        said = slipway("build", "-t", "hidden", "--platform", str(THERE), made)
        part = cloudimage.read(Store.default(), "hidden").platform(THERE)
        image = next(one for one in part.images.images if one.name == "slipway.dev/redis:7.0")
        assert image.found_by == ("pulled",)
        assert image.requested_by == ("Deployment default/cache",)
        assert foreign_programs(Store.default(), part, image.name) > 1
        assert "pulled, but declared in no file: slipway.dev/redis:7.0" in said.stdout
        again = slipway("build", "-t", "hidden", "--platform", str(THERE), made)
        assert "nothing had changed" in again.stdout
        # Built for both at once it is the same.
        slipway("build", "-t", "hidden-both", "--platform", BOTH, made)
        assert slipway("manifest", "create", "hidden-joined", "hidden", "hidden-both").stdout.split()[1] == (
            Store.default().resolve("hidden-both").digest
        )
    finally:
        slipway("rmi", *[name for name in Store.default().names() if name.startswith("hidden")], check=False)
