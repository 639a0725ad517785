"""Base images that a build fetches from their registries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cloudimage, kubefile
from harness.build import cluster_base
from harness.build.base_image import base_image
from harness.build.base_pull import pull_bases
from harness.build.options import BuildOptions
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.errors import BuildError, StoreError
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.store import Store
from harness.transfer.push import push
from tests.unit.oci.standin import HOST, Registry, client
from tests.unit.transfer.images import AMD64, ARM64, TARGET, make

NAME = f"{HOST}/team/web:1"
BASE = f"{HOST}/team/kubernetes:1"
HERE = Platform.host()


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[Registry, Client]]:
    """A registry that has an image under NAME, one with Kubernetes under BASE, and a client for it."""
    registry = Registry()
    with client(registry) as found:
        store = Store(tmp_path / "publisher")
        make(store)
        push(store, "web:1", TARGET, found)
        parts = [PlatformImage(one, (), (), (), Info(kubernetes="v1.36.3"), ImageSet()) for one in {HERE, AMD64, ARM64}]
        store.tag("kubernetes:1", cloudimage.write(store, sorted(parts, key=lambda part: str(part.platform))))
        push(store, "kubernetes:1", Reference.parse(BASE), found)
        registry.asked.clear()
        yield registry, found


def pulled(store: Store, client: Client, name: str, when: str) -> None:
    options = BuildOptions(Path(), "x", platforms=(AMD64,), discover=("declared",), pull=when)
    pull_bases(options, [kubefile.parse(f"FROM {name}\n", "K"), kubefile.parse("FROM scratch\n", "K")], store, client)


def test_pull_bases_missing_image_fetches_blobs_once(tmp_path: Path, remote: tuple[Registry, Client]) -> None:
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
def test_pull_bases_never_or_local_name_asks_no_registry(
    tmp_path: Path, remote: tuple[Registry, Client], name: str, when: str
) -> None:  # fmt: skip
    registry, found = remote
    pulled(Store(tmp_path / "store"), found, name, when)
    assert registry.lines == []


def test_pull_bases_image_missing_in_registry_raises_build_error_with_line(tmp_path: Path, remote: tuple[Registry, Client]) -> None:
    with pytest.raises(BuildError, match=r"^K:1: the base image .*team/none") as caught:
        pulled(Store(tmp_path / "store"), remote[1], f"{HOST}/team/none:1", "missing")
    assert caught.value.hint


def test_pull_bases_image_refused_by_policy_is_not_fetched(
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


def pulled_on(store: Store, client: Client, on: str, when: str = "missing") -> None:
    options = BuildOptions(Path(), "x", platforms=(AMD64, ARM64), on=on, pull=when)
    pull_bases(options, [kubefile.parse("FROM scratch\n", "K")], store, client)


def test_pull_bases_image_of_on_is_fetched_for_this_machine_once(tmp_path: Path, remote: tuple[Registry, Client]) -> None:
    registry, found = remote
    store = Store(tmp_path / "store")
    pulled_on(store, found, BASE)
    base = cluster_base.named(store, BASE, HERE, ">=1.30")
    assert (base.reference, base.kubernetes) == (BASE, "v1.36.3")
    stored = cloudimage.read(store, BASE)
    assert [part.platform for part in stored.platforms] == [HERE]
    # The record of the run must not depend on which other platforms were fetched.
    assert base.digest == cluster_base.named(Store(tmp_path / "publisher"), "kubernetes:1", HERE, None).digest != stored.digest
    registry.asked.clear()
    pulled_on(store, found, BASE)
    assert registry.lines == []
    pulled_on(store, found, BASE, "always")
    assert registry.lines


@pytest.mark.parametrize(
    ("on", "when"),
    [(BASE, "never"), ("kubernetes:v1.36.3", "missing"), (f"{HOST}/team/k3s:1", "missing"), (f"sha256:{'a' * 64}", "always")],
)
def test_pull_bases_image_of_on_never_local_or_other_runtime_asks_no_registry(
    tmp_path: Path, remote: tuple[Registry, Client], on: str, when: str
) -> None:
    registry, found = remote
    pulled_on(Store(tmp_path / "store"), found, on, when)
    assert registry.lines == []


@pytest.mark.parametrize("on", [cluster_base.AUTO, cluster_base.NONE])
def test_pull_bases_without_name_after_on_asks_no_registry(tmp_path: Path, remote: tuple[Registry, Client], on: str) -> None:
    registry, found = remote
    pulled_on(Store(tmp_path / "store"), found, on, "always")
    assert registry.lines == []


def test_pull_bases_image_of_on_missing_in_registry_raises_store_error(tmp_path: Path, remote: tuple[Registry, Client]) -> None:
    with pytest.raises(StoreError, match=rf"^--on {HOST}/team/none:1: .*team/none") as caught:
        pulled_on(Store(tmp_path / "store"), remote[1], f"{HOST}/team/none:1")
    assert caught.value.hint


def test_pull_bases_image_of_on_refused_by_policy_is_not_fetched(
    tmp_path: Path, remote: tuple[Registry, Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, found = remote
    (tmp_path / "policy.yaml").write_text("default: deny\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(tmp_path / "policy.yaml"))
    store = Store(tmp_path / "store")
    with pytest.raises(StoreError, match=r"^--on .*refused by policy"):
        pulled_on(store, found, BASE)
    assert (store.names(), registry.count("GET", "/blobs/")) == ({}, 0)
