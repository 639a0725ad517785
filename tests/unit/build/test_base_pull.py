"""Base images that a build fetches from their registries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import kubefile
from harness.build.base_image import base_image
from harness.build.base_pull import pull_bases
from harness.build.options import BuildOptions
from harness.errors import BuildError
from harness.oci.model import Platform
from harness.oci.registry.client import Client
from harness.oci.store import Store
from harness.transfer.push import push
from tests.unit.oci.standin import HOST, Registry, client
from tests.unit.transfer.images import TARGET, make

AMD64 = Platform.parse("linux/amd64")
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
