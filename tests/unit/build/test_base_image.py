"""The base image of a Kubefile."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import cloudimage, kubefile, log
from harness.build.base_image import base_digest, base_image
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.errors import BuildError
from harness.oci.model import Platform
from harness.oci.store import Store

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def part(platform: Platform) -> PlatformImage:
    return PlatformImage(platform, (), (), (), Info(), ImageSet())


def test_base_image_of_scratch_is_none(tmp_path: Path) -> None:
    assert base_image(kubefile.parse("FROM scratch\n", "K"), Store(tmp_path), AMD64) is None


def test_base_image_missing_in_store_raises_build_error_with_line(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"K:2: the base image kube:1 is not in the local store") as caught:
        base_image(kubefile.parse("\nFROM kube:1\n", "K"), Store(tmp_path), AMD64)
    assert caught.value.hint


def test_base_digest_does_not_depend_on_other_platforms(tmp_path: Path) -> None:
    store, parsed = Store(tmp_path), kubefile.parse("FROM kube:1\n", "K")
    digests = []
    for platforms in ((AMD64,), (AMD64, ARM64)):
        store.tag("kube:1", cloudimage.write(store, [part(platform) for platform in platforms]))
        base = base_image(parsed, store, AMD64)
        assert base is not None
        digests.append(base_digest(parsed, store, base))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("name", ["k3s:v1.18.3", "docker.io/rancher/k3s:v1.18.3", "K0S", "registry.example.com/rke2@sha256:" + "0" * 64])
def test_base_image_of_unsupported_runtime_lists_runtimes_and_base_images(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(BuildError, match="and slipway does not run ") as caught:
        base_image(kubefile.parse(f"FROM {name}\n", "K"), store, AMD64)
    assert caught.value.message.startswith("K:1: the base image ")
    assert caught.value.hint is not None
    assert "slipway build kubefiles/kubernetes" in caught.value.hint
    store.tag("kubernetes:v1.36.3", cloudimage.write(store, [dataclasses.replace(part(AMD64), info=Info(kubernetes="v1.36.3"))]))
    store.tag("web:1", cloudimage.write(store, [dataclasses.replace(part(AMD64), info=Info(type="app"))]))
    with pytest.raises(BuildError) as caught:
        base_image(kubefile.parse(f"FROM {name}\n", "K"), store, AMD64)
    assert caught.value.hint == "runtimes: kubeadm; base images: kubernetes:v1.36.3"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("registry.example.com:5000/cloudrootfs:v1.16.9-alpha.7", True),
        ("kube:1.16.9", True),
        ("kube:1.36.3", False),
        ("kube:stable", False),
    ],
)
def test_base_image_tag_unlike_its_kubernetes_version_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: bool
) -> None:
    log.setup()
    store = Store(tmp_path)
    store.tag(name, cloudimage.write(store, [dataclasses.replace(part(AMD64), info=Info(kubernetes="v1.36.3"))]))
    base_image(kubefile.parse(f"FROM {name}\n", "K"), store, AMD64)
    assert (f"K:1: {name} brings Kubernetes v1.36.3" in capsys.readouterr().err) is said


def test_base_image_stored_under_runtime_name_is_accepted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.tag("k3s:v1.18.3", cloudimage.write(store, [part(AMD64)]))
    assert base_image(kubefile.parse("FROM k3s:v1.18.3\n", "K"), store, AMD64) is not None
