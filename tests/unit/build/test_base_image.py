"""The base image of a Kubefile."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cloudimage, kubefile
from harness.build.base_image import base_digest, base_image, pull_bases
from harness.build.options import BuildOptions
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.errors import BuildError
from harness.oci.model import Platform
from harness.oci.registry.client import Client
from harness.oci.store import Store
from harness.transfer.push import push
from tests.unit.oci.standin import HOST, Registry, client
from tests.unit.transfer.images import TARGET, make

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def part(platform: Platform) -> PlatformImage:
    return PlatformImage(platform, (), (), (), Info(), ImageSet())


def test_base_image_of_scratch_is_none(tmp_path: Path) -> None:
    assert base_image(kubefile.parse("FROM scratch\n", "K"), Store(tmp_path), AMD64) is None


def test_base_image_that_the_store_lacks_is_a_fault_of_its_line(tmp_path: Path) -> None:
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
def test_base_image_of_another_runtime_says_which_there_are(tmp_path: Path, name: str) -> None:
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


def test_image_that_is_called_like_a_runtime_is_taken(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.tag("k3s:v1.18.3", cloudimage.write(store, [part(AMD64)]))
    assert base_image(kubefile.parse("FROM k3s:v1.18.3\n", "K"), store, AMD64) is not None


# Pulling

NAME = f"{HOST}/team/web:1"


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[Registry, Client]]:
    """A registry that has an image under NAME, and a client for it."""
    registry = Registry()
    with client(registry) as found:
        store = Store(tmp_path / "publisher")
        make(store)
        push(store, "web:1", TARGET, found)
        registry.asked.clear()
        yield registry, found


def pulled(store: Store, client: Client, name: str, when: str) -> None:
    options = BuildOptions(Path(), "x", platforms=(AMD64,), discover=("declared",), pull=when)
    pull_bases(options, [kubefile.parse(f"FROM {name}\n", "K"), kubefile.parse("FROM scratch\n", "K")], store, client)


def test_missing_base_image_is_pulled_once(tmp_path: Path, remote: tuple[Registry, Client]) -> None:
    registry, found = remote
    store = Store(tmp_path / "store")
    pulled(store, found, NAME, "missing")
    assert base_image(kubefile.parse(f"FROM {NAME}\n", "K"), store, AMD64) is not None
    registry.asked.clear()
    pulled(store, found, NAME, "missing")
    assert registry.lines == []
    pulled(store, found, NAME, "always")
    assert registry.lines
    assert registry.count("GET", "/blobs/") == 0


@pytest.mark.parametrize(("name", "when"), [(NAME, "never"), ("kubernetes:v1.36.3", "missing"), ("team/web:1", "missing")])
def test_base_image_of_the_local_store_is_not_asked_for(
    tmp_path: Path, remote: tuple[Registry, Client], name: str, when: str
) -> None:  # fmt: skip
    registry, found = remote
    pulled(Store(tmp_path / "store"), found, name, when)
    assert registry.lines == []


def test_base_image_that_no_registry_has_is_an_error_of_its_line(tmp_path: Path, remote: tuple[Registry, Client]) -> None:
    with pytest.raises(BuildError, match=r"^K:1: the base image .*team/none") as caught:
        pulled(Store(tmp_path / "store"), remote[1], f"{HOST}/team/none:1", "missing")
    assert caught.value.hint


def test_base_image_that_policy_refuses_is_not_pulled(
    tmp_path: Path, remote: tuple[Registry, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, found = remote
    rules = tmp_path / "policy.yaml"
    rules.write_text("default: deny\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(rules))
    store = Store(tmp_path / "store")
    with pytest.raises(BuildError, match="refused by policy"):
        pulled(store, found, NAME, "missing")
    assert (store.names(), registry.count("GET", "/blobs/")) == ({}, 0)
