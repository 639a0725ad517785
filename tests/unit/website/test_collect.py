"""Which images and versions a site has, and in which order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage.search import RegistryNamespace
from harness.errors import UsageError
from harness.oci.model import Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from harness.oci.store import Store
from harness.website import collect, site
from harness.website.collect import Collection
from harness.website.site import SiteRequest
from tests.unit.cloudimage.examples import file, put
from tests.unit.cloudimage.registries import HOST, Registry, container
from tests.unit.website.examples import no_demands, page


def test_newest_first_orders_latest_then_versions_then_words() -> None:
    names = ["1.9", "edge", "1.10", "latest", "v1.10.1", "1.10.0-rc.1", "stable", "1.10.0-rc.2", "latest-amd64", "1.9-arm64", "3-arm64"]
    assert collect.newest_first(names) == (
        "latest", "3-arm64", "v1.10.1", "1.10", "1.10.0-rc.2", "1.10.0-rc.1", "1.9", "edge", "stable",
    )  # fmt: skip


def test_history_before_is_next_lower_version_with_other_content(store: Store) -> None:
    for tag in ("1", "2", "edge"):
        put(store, f"web:{tag}", [file("a", tag)])
    for tag in ("2.0.0", "latest"):
        store.tag(f"web:{tag}", store.resolve("web:2"))
    (history,) = collect.of_store(store, (), 9, no_demands).images
    before = {version.tag: history.before(version) for version in history.versions}
    assert {tag: one.tag if one else None for tag, one in before.items()} == {
        "latest": "1",
        "2": "1",
        "2.0.0": "1",
        "1": None,
        "edge": None,
    }


class Answering(Registry):
    """A registry that also gives configs, and has nothing attached."""

    def blob(self, reference: Reference, digest: str, size: int) -> Any:
        return self.store.open(digest)

    def referrers(self, reference: Reference) -> tuple[Descriptor, ...]:
        return ()

    def manifest(self, reference: Reference) -> Any:
        if reference.digest is None and str(reference.tag) not in self.names[reference.path]:
            raise RemoteError(f"{reference}: not found", status=404)
        return super().manifest(reference)

    def close(self) -> None: ...


def collected(store: Store, client: Any, *names: str, most: int = 9) -> Collection:
    return collect.of_registry(store, RegistryNamespace(HOST, "acme"), names, most, no_demands, client)


@pytest.fixture
def far(tmp_path: Path) -> Store:
    return Store(tmp_path / "far")


def test_site_of_registry_shows_cloudimages_without_layers(store: Store, far: Store, tmp_path: Path) -> None:
    old, new = put(far, "mq:1", [file("a", "1")], embedded={"x.io/i:1": b"i"}), put(far, "mq:2", [file("a", "2")])
    names = {"acme/mq": {"1": old.digest, "2": new.digest}, "acme/container": {"1": container(far)}, "other/mq": {"1": old.digest}}
    client: Any = Answering(far, names)
    written = site.make(store, SiteRequest(tmp_path / "site", registries=(RegistryNamespace(HOST, "acme"),)), no_demands, client)
    assert (written.images, written.versions, written.left_out) == (1, 2, ())
    text = page(tmp_path / "site", "reg-test-5000-acme-mq-2")
    assert f"slipway pull {HOST}/acme/mq@{new.digest}" in text
    assert "Files were not compared, only layers." in text
    assert "x.io/i:1" in page(tmp_path / "site", "reg-test-5000-acme-mq-1")


def test_of_registry_damaged_image_and_missing_tag_are_left_out_with_reason(store: Store, far: Store) -> None:
    image = put(far, "mq:1", [file("a")])
    index = far.read(image.digest)
    extended = far.put(index.replace(b'"manifests":[{', b'"manifests":[{"x":1,'))[0]
    damaged = far.put(index.replace(b'"manifests":[{"', b'"manifests":[{"no-'))[0]
    names = {"acme/mq": {"1": image.digest, "2": extended, "3": damaged}}
    client: Any = Answering(far, names)
    asked = client.tags

    def tags(reference: Reference) -> tuple[str, ...]:
        return (*asked(reference), "4")

    client.tags = tags
    found = collected(store, client)
    # The image specification lets a reader ignore fields that it does not know.
    assert [(version.tag, version.digest) for version in found.images[0].versions] == [("2", extended), ("1", image.digest)]
    missing, wrong = found.left_out
    assert (missing.name, missing.reason) == (f"{HOST}/acme/mq:4", f"{HOST}/acme/mq:4: not found")
    assert wrong.name == f"{HOST}/acme/mq:3"
    assert f"manifest {damaged} cannot be understood: not a descriptor" in wrong.reason


def test_site_of_registry_that_fails_is_not_written(store: Store, far: Store, tmp_path: Path) -> None:
    image = put(far, "mq:1", [file("a")])
    client: Any = Answering(far, {"acme/mq": {"1": image.digest}})

    def dying(*_: Any) -> Any:
        raise RemoteError("it answers 503", status=503)

    client.blob = dying
    with pytest.raises(RemoteError, match="503"):
        site.make(store, SiteRequest(tmp_path / "site", registries=(RegistryNamespace(HOST, "acme"),)), no_demands, client)
    assert not (tmp_path / "site").exists()


def test_of_registry_without_catalog_requires_names(store: Store, far: Store) -> None:
    image = put(far, "mq:1", [file("a")])
    client: Any = Answering(far, {"acme/mq": {"1": image.digest}}, lists=False)
    with pytest.raises(RemoteError, match="401") as caught:
        collected(store, client)
    assert "name the repositories" in (caught.value.hint or "")
    assert [history.name for history in collected(store, client, "mq").images] == [f"{HOST}/acme/mq"]
    with pytest.raises(UsageError, match="NAME"):
        collected(store, client, "M Q")
