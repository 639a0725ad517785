"""One tag for several platforms: the index is the one that a single build makes, and what does not fit together is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness import cloudimage
from harness.cloudimage import ImageSet
from harness.errors import InputError, StoreError
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.transfer import multi_platform
from tests.unit.cloudimage.examples import AMD64, ARM64, INFO, platform_image


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Holds web:amd64 and web:arm64, built apart."""
    store = Store(tmp_path / "store")
    for platform in (AMD64, ARM64):
        build(store, f"web:{platform.architecture}", platform)
    return store


def build(store: Store, name: str, *platforms: Platform, **changes: object) -> str:
    """What `slipway build` leaves behind; the digest of the index."""
    made = cloudimage.write(store, [platform_image(store, platform, **changes) for platform in platforms])
    store.tag(name, made)
    return made.digest


@pytest.mark.parametrize("order", [("web:amd64", "web:arm64"), ("web:arm64", "web:amd64")])
def test_it_is_the_image_that_one_machine_makes_for_both(store: Store, order: tuple[str, str]) -> None:
    both = build(store, "both", AMD64, ARM64)
    made = multi_platform.create(store, "web", order)
    assert made.digest == both == store.resolve("web").digest
    assert made.platforms == ("linux/amd64", "linux/arm64")
    assert made.warnings == ()


def test_adding_one_after_the_other_ends_in_the_same_image(store: Store) -> None:
    multi_platform.create(store, "web", ["web:arm64"])
    assert (
        multi_platform.add(store, "web", ["web:amd64"]).digest == multi_platform.create(store, "other", ["web:amd64", "web:arm64"]).digest
    )


def test_taking_a_platform_out_gives_the_image_back_that_was_built_alone(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    assert multi_platform.remove(store, "web", ARM64).digest == store.resolve("web:amd64").digest


def test_the_same_image_twice_is_no_conflict(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    assert multi_platform.create(store, "again", ["web", "web:amd64"]).digest == store.resolve("web").digest


def test_two_images_for_one_platform_are_refused_and_no_name_changes(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64"])
    before = store.names()
    build(store, "newer", AMD64, images=ImageSet())
    with pytest.raises(StoreError, match=r"two images for one platform: linux/amd64: web:latest \(\w{12}\) and newer \(\w{12}\)") as caught:
        multi_platform.add(store, "web", ["newer"])
    assert "--replace" in str(caught.value.hint)
    assert {name: store.names()[name] for name in before} == before


def test_replace_takes_the_later_one(store: Store) -> None:
    newer = build(store, "newer", AMD64, images=ImageSet())
    assert multi_platform.create(store, "web", ["web:amd64", "newer"], replace=True).digest == newer


def test_every_conflict_is_named(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    build(store, "newer", AMD64, ARM64, images=ImageSet())
    with pytest.raises(StoreError) as caught:
        multi_platform.add(store, "web", ["newer"])
    assert "linux/amd64: " in caught.value.message
    assert "linux/arm64: " in caught.value.message


def test_an_image_that_is_no_cloudimage_is_refused(store: Store) -> None:
    config = store.resolve("web:amd64")
    entry = store.json(config.digest)["manifests"][0]
    store.tag("plain", Descriptor.from_json({key: entry[key] for key in ("mediaType", "digest", "size")}))
    with pytest.raises(StoreError, match="not a CloudImage"):
        multi_platform.create(store, "web", ["web:amd64", "plain"])


def test_platforms_that_differ_in_what_should_be_equal_are_reported(store: Store) -> None:
    build(store, "newer", ARM64, info=dataclasses.replace(INFO, kubernetes="v1.36.4", launch=()))
    said = multi_platform.create(store, "web", ["web:amd64", "newer"]).warnings
    assert said == (
        "the Kubernetes version differs: linux/amd64 v1.36.3 (web:amd64), linux/arm64 v1.36.4 (newer)",
        "the launch differs: linux/amd64 (web:amd64), linux/arm64 (newer)",
    )
    assert multi_platform.inspect(store, "web")["warnings"][0].startswith("the Kubernetes version differs")


def test_the_last_platform_stays(store: Store) -> None:
    with pytest.raises(StoreError, match="is all that web:amd64 has"):
        multi_platform.remove(store, "web:amd64", AMD64)
    with pytest.raises(StoreError, match="has no linux/arm64, only linux/amd64"):
        multi_platform.remove(store, "web:amd64", ARM64)


def test_a_name_without_an_image_cannot_be_added_to(store: Store) -> None:
    with pytest.raises(StoreError, match="no such image"):
        multi_platform.add(store, "nothere", ["web:amd64"])


@pytest.mark.parametrize("name", ["Web", f"web@sha256:{'0' * 64}"])
def test_what_cannot_be_a_name_is_a_fault(store: Store, name: str) -> None:
    with pytest.raises(InputError):
        multi_platform.create(store, name, ["web:amd64"])


def test_an_image_of_a_registry_is_fetched_first(store: Store) -> None:
    asked: list[str] = []

    def fetch(reference: Reference) -> None:
        asked.append(str(reference))
        store.tag(str(reference), store.resolve("web:arm64"))

    made = multi_platform.create(store, "web", ["web:amd64", "registry.example/team/web:arm64"], fetch=fetch)
    assert asked == ["registry.example/team/web:arm64"]
    assert made.platforms == ("linux/amd64", "linux/arm64")


def test_fetched_file_is_asked_for_again_only_on_request(store: Store) -> None:
    asked: list[Reference] = []
    store.tag("registry.example/web:arm64", store.resolve("web:arm64"))
    multi_platform.create(store, "web", ["registry.example/web:arm64"], fetch=asked.append)
    assert asked == []
    multi_platform.create(store, "web", ["registry.example/web:arm64", "web:amd64"], fetch=asked.append, fresh=True)
    assert [str(one) for one in asked] == ["registry.example/web:arm64"]


def test_a_mistyped_local_name_is_not_asked_for_anywhere(store: Store) -> None:
    def fetch(reference: Reference) -> None:
        pytest.fail(f"{reference} was asked for")

    with pytest.raises(StoreError, match="no such image") as caught:
        multi_platform.create(store, "web", ["web:amd46"], fetch=fetch)
    assert "web:amd64" in str(caught.value.hint)


def test_inspect_tells_what_each_platform_has(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    found = multi_platform.inspect(store, "web")
    assert [(one["platform"], one["kubernetes"], one["images"]) for one in found["platforms"]] == [
        ("linux/amd64", "v1.36.3", 2),
        ("linux/arm64", "v1.36.3", 2),
    ]
    entries = store.json(found["digest"])["manifests"]
    assert [entry["digest"] for entry in entries] == [digest for one in found["platforms"] for digest in (one["rootfs"], one["imageSet"])]
