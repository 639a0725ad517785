"""`slipway build` for more platforms than this machine's, and `slipway manifest`: without a cluster, with the real engine and registry."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage, process
from harness.build import container_images, definitions
from harness.cloudimage import elf
from harness.oci import layer
from harness.oci.graph import descriptors
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.integration.registry import Registry, image, index, push
from tests.integration.test_build import POD, context

HERE = Platform.host()
THERE = Platform("linux", "arm64" if HERE.architecture == "amd64" else "amd64")
BOTH = f"{HERE},{THERE}"
MACHINES = {"amd64": 62, "arm64": 183}


def program(architecture: str) -> bytes:
    """Enough of a static ELF program that a kernel looks which processor it is for."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    return ident + struct.pack("<HHIQQQIHHHHHH", 2, MACHINES[architecture], 1, 0x400000, 64, 0, 0, 64, 56, 1, 0, 0, 0) + bytes(64)


def inspected(slipway: Slipway, name: str) -> dict[str, dict[str, Any]]:
    described = json.loads(slipway("inspect", name, "-o", "json").stdout)
    return {one["platform"]: one for one in described["platforms"]}


def two(folder: Path) -> Path:
    """A context that yields other files on each platform, and declares a container image that has both."""
    made = context(
        folder, "FROM scratch\nCOPY tool-${ARCH} bin/tool\nCOPY manifests manifests\nRUN echo $TARGETPLATFORM > Metadata\n",
        manifests__app_yaml=POD.format(image="quay.io/some/app:2"),
    )  # fmt: skip
    for architecture in MACHINES:
        (made / f"tool-{architecture}").write_bytes(program(architecture))
    return made


def push_both(where: Registry, repository: str, tag: str) -> dict[str, str]:
    """An index with both platforms; their digests by platform."""
    children = {str(platform): image(f"{repository} {platform}", platform=str(platform)) for platform in (HERE, THERE)}
    push(where, repository, tag, index(children))
    return {platform: child.digest for platform, child in children.items()}


def test_build_two_platforms_index_has_files_and_images_of_each(tmp_path: Path, home: Path, mirrored: Registry, slipway: Slipway) -> None:
    children = push_both(mirrored, "quay.io/some/app", "2")
    said = slipway("build", "-t", "one", "--platform", BOTH, two(tmp_path / "c"))
    assert "not for linux/" not in said.stderr
    store = Store(home / "store")
    for part in cloudimage.read(store, "one").platforms:
        root = tmp_path / part.platform.architecture
        layer.unpack(store, part.layers, root)
        assert (root / "Metadata").read_text().strip() == str(part.platform)
        assert elf.processor((root / "bin/tool").read_bytes()) == part.platform.architecture
        kept = {blob.digest for blob in part.images.blobs}
        assert {platform for platform, digest in children.items() if digest in kept} == {str(part.platform)}


def test_build_container_images_without_platform_are_all_reported(tmp_path: Path, home: Path, mirrored: Registry, slipway: Slipway) -> None:
    push(mirrored, "quay.io/only/here", "1", index({str(HERE): image("here", platform=str(HERE))}))
    push(mirrored, "quay.io/plain/here", "1", image("plain", platform=str(HERE)))
    made = context(
        tmp_path / "c", "FROM scratch\nCOPY manifests manifests\n",
        manifests__a_yaml=POD.format(image="quay.io/only/here:1"), manifests__b_yaml=POD.format(image="quay.io/plain/here:1"),
    )  # fmt: skip
    said = slipway("build", "-t", "one", "--platform", BOTH, made, check=False)
    assert said.returncode == 3
    assert f"quay.io/only/here:1 (manifests/a.yaml:7): does not exist for {THERE}, only for {HERE}" in said.stderr
    assert f"quay.io/plain/here:1 (manifests/b.yaml:7): does not exist for {THERE}, only for {HERE}" in said.stderr
    assert Store(home / "store").names() == {}


def test_build_base_image_without_platform_is_reported(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    slipway("build", "-t", "base", context(tmp_path / "b", "FROM scratch\nENV A=1\n"))
    said = slipway("build", "-t", "one", "--platform", BOTH, context(tmp_path / "c", "FROM base\nENV B=1\n"), check=False)
    assert said.returncode == 3
    assert f"Kubefile:1: the base image base:latest is not made for {THERE}, only for {HERE}" in said.stderr
    assert f"--platform {THERE}" in said.stderr


def test_build_rootfs_program_for_other_architecture_is_warned_about(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOPY tool bin/tool\n")
    (made / "tool").write_bytes(program(HERE.architecture))
    said = slipway("build", "-t", "one", "--platform", str(THERE), made)
    assert f"not for {THERE}: bin/tool ({HERE.architecture})" in said.stderr


def test_build_run_step_with_foreign_program_fails_with_reason(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    if any(Path("/proc/sys/fs/binfmt_misc").glob("qemu-*")):
        pytest.skip("the kernel of this machine emulates other processors")
    made = context(tmp_path / "c", "FROM scratch\nCOPY tool bin/tool\nRUN tool --version\n")
    (made / "tool").write_bytes(program(THERE.architecture))
    (made / "tool").chmod(0o755)
    said = slipway("build", "-t", "one", "--platform", str(THERE), made, check=False)
    assert said.returncode == 3
    assert "Kubefile:3: RUN failed with exit code 126: tool --version" in said.stderr
    assert f"programs for {THERE} do not run on this machine" in said.stderr


DOCKERFILE = """\
FROM --platform=${BUILDPLATFORM:-linux} slipway.dev/builder:12 AS files
ARG TARGETARCH
RUN obtain busybox-static && gather /out /bin/busybox
# image: example.test/busy:1
FROM scratch
COPY --from=files /out /
"""


def test_build_dockerfile_for_both_platforms_yields_programs_of_each(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOPY --from=example.test/busy:1 /bin/busybox bin/\n")
    (made / "images/busy").mkdir(parents=True)
    (made / "images/busy/Dockerfile").write_text(DOCKERFILE)
    slipway("build", "-t", "one", "--platform", BOTH, made)
    store = Store(home / "store")
    builder = container_images.Builder(store, (made / "images", *definitions.bundled()))
    for platform in (HERE, THERE):
        manifest = builder.on(platform).ensure(Reference.parse("example.test/busy:1"))
        assert manifest is not None
        config = store.json(descriptors(store.read(manifest.digest))[0].digest)
        assert (config["os"], config["architecture"]) == (platform.os, platform.architecture)
        layer.unpack(store, cloudimage.read(store, "one").platform(platform).layers, tmp_path / platform.architecture)
        busybox = tmp_path / platform.architecture / "bin/busybox"
        assert elf.processor(busybox.read_bytes()) == platform.architecture
    # Each has its own name in the engine, and none the plain one.
    names = [builder.on(platform).engine_name("example.test/busy:1") for platform in (HERE, THERE)]
    process.run(["docker", "run", "--rm", names[0], "/bin/busybox", "true"])
    assert not process.run(["docker", "image", "inspect", "example.test/busy:1"], check=False).ok
    process.run(["docker", "image", "rm", *names])


def test_build_dockerfile_ignoring_target_platform_is_refused(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOPY --from=example.test/wrong:1 /bin/busybox bin/\n")
    (made / "images/wrong").mkdir(parents=True)
    text = DOCKERFILE.replace("obtain busybox-static && gather /out /bin/busybox", "mkdir -p /out/bin && cp /bin/busybox /out/bin/")
    (made / "images/wrong/Dockerfile").write_text(text.replace("busy:1", "wrong:1"))
    said = slipway("build", "-t", "one", "--platform", str(THERE), made, check=False)
    assert said.returncode == 3
    assert f"1 programs of the image for {THERE} are for another processor" in said.stderr
    assert f"bin/busybox ({HERE.architecture})" in said.stderr
    assert "$TARGETARCH" in said.stderr
    builder = container_images.Builder(Store(home / "store"), (made / "images", *definitions.bundled()), THERE)
    process.run(["docker", "image", "rm", builder.engine_name("example.test/wrong:1")])


# Two machines, one tag


def test_manifest_create_from_builds_of_two_machines_equals_joint_build(
    tmp_path: Path, home: Path, mirrored: Registry, monkeypatch: pytest.MonkeyPatch, slipway: Slipway
) -> None:
    push_both(mirrored, "quay.io/some/app", "2")
    there = f"{mirrored.host}/team/one:v1"
    for platform in (HERE, THERE):
        monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / platform.architecture))
        slipway("build", "-t", "one", "--platform", str(platform), two(tmp_path / "c"))
        slipway("push", "--plain-http", "one", f"{there}-{platform.architecture}")
    monkeypatch.setenv("SLIPWAY_HOME", str(home))
    parts = [f"{there}-{platform.architecture}" for platform in (THERE, HERE)]
    made = json.loads(slipway("manifest", "create", "--plain-http", "-o", "json", there, *parts).stdout)
    slipway("push", "--plain-http", there)
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "single"))
    alone = json.loads(slipway("build", "-t", "one", "--platform", BOTH, "-o", "json", two(tmp_path / "c")).stdout)
    assert made["digest"] == alone["digest"]
    raw = process.run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{there}"]).stdout
    assert sorted({entry["platform"]["architecture"] for entry in json.loads(raw)["manifests"]}) == ["amd64", "arm64"]


def test_manifest_add_and_remove_change_platforms_and_duplicate_is_refused(
    tmp_path: Path, home: Path, mirrored: Registry, slipway: Slipway
) -> None:
    push_both(mirrored, "quay.io/some/app", "2")
    made = two(tmp_path / "c")
    for platform in (HERE, THERE):
        slipway("build", "-t", f"one:{platform.architecture}", "--platform", str(platform), made)
    first = slipway("manifest", "create", "one", f"one:{HERE.architecture}").stdout
    slipway("manifest", "add", "one", f"one:{THERE.architecture}")
    assert set(inspected(slipway, "one")) == {str(HERE), str(THERE)}
    shown = slipway("manifest", "inspect", "one").stdout
    assert str(HERE) in shown
    assert str(THERE) in shown
    assert slipway("manifest", "remove", "one", str(THERE)).stdout == first
    (made / "manifests/app.yaml").write_text("kind: ConfigMap\n")
    slipway("build", "-t", "other", "--platform", str(HERE), made)
    said = slipway("manifest", "add", "one", "other", check=False)
    assert said.returncode == 4
    assert f"two images for one platform: {HERE}" in said.stderr
    assert "which container images there are differs" in slipway(
        "manifest", "create", "mixed", "other", f"one:{THERE.architecture}"
    ).stderr  # fmt: skip
