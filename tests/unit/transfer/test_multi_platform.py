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
def test_create_from_single_platforms_equals_multi_platform_build(store: Store, order: tuple[str, str]) -> None:
    both = build(store, "both", AMD64, ARM64)
    made = multi_platform.create(store, "web", order)
    assert made.digest == both == store.resolve("web").digest
    assert made.platforms == ("linux/amd64", "linux/arm64")
    assert made.warnings == ()


def test_add_one_by_one_equals_create_at_once(store: Store) -> None:
    multi_platform.create(store, "web", ["web:arm64"])
    assert (
        multi_platform.add(store, "web", ["web:amd64"]).digest == multi_platform.create(store, "other", ["web:amd64", "web:arm64"]).digest
    )


def test_remove_platform_restores_single_platform_digest(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    assert multi_platform.remove(store, "web", ARM64).digest == store.resolve("web:amd64").digest


def test_create_with_same_image_twice_is_accepted(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    assert multi_platform.create(store, "again", ["web", "web:amd64"]).digest == store.resolve("web").digest


def test_add_second_image_for_platform_is_refused_and_keeps_names(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64"])
    before = store.names()
    build(store, "newer", AMD64, images=ImageSet())
    with pytest.raises(StoreError, match=r"two images for one platform: linux/amd64: web:latest \(\w{12}\) and newer \(\w{12}\)") as caught:
        multi_platform.add(store, "web", ["newer"])
    assert "--replace" in str(caught.value.hint)
    assert {name: store.names()[name] for name in before} == before


def test_create_with_replace_takes_later_image(store: Store) -> None:
    newer = build(store, "newer", AMD64, images=ImageSet())
    assert multi_platform.create(store, "web", ["web:amd64", "newer"], replace=True).digest == newer


def test_add_names_conflicts_of_all_platforms(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    build(store, "newer", AMD64, ARM64, images=ImageSet())
    with pytest.raises(StoreError) as caught:
        multi_platform.add(store, "web", ["newer"])
    assert "linux/amd64: " in caught.value.message
    assert "linux/arm64: " in caught.value.message


def test_create_from_image_that_is_not_cloudimage_is_refused(store: Store) -> None:
    config = store.resolve("web:amd64")
    entry = store.json(config.digest)["manifests"][0]
    store.tag("plain", Descriptor.from_json({key: entry[key] for key in ("mediaType", "digest", "size")}))
    with pytest.raises(StoreError, match="not a CloudImage"):
        multi_platform.create(store, "web", ["web:amd64", "plain"])


def test_create_differing_versions_and_launch_are_reported(store: Store) -> None:
    build(store, "newer", ARM64, info=dataclasses.replace(INFO, kubernetes="v1.36.4", launch=()))
    said = multi_platform.create(store, "web", ["web:amd64", "newer"]).warnings
    assert said == (
        "the Kubernetes version differs: linux/amd64 v1.36.3 (web:amd64), linux/arm64 v1.36.4 (newer)",
        "the launch differs: linux/amd64 (web:amd64), linux/arm64 (newer)",
    )
    assert multi_platform.inspect(store, "web")["warnings"][0].startswith("the Kubernetes version differs")


def test_remove_last_or_absent_platform_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="is all that web:amd64 has"):
        multi_platform.remove(store, "web:amd64", AMD64)
    with pytest.raises(StoreError, match="has no linux/arm64, only linux/amd64"):
        multi_platform.remove(store, "web:amd64", ARM64)


def test_add_to_unknown_name_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no such image"):
        multi_platform.add(store, "nothere", ["web:amd64"])


@pytest.mark.parametrize("name", ["Web", f"web@sha256:{'0' * 64}"])
def test_create_invalid_name_raises_input_error(store: Store, name: str) -> None:
    with pytest.raises(InputError):
        multi_platform.create(store, name, ["web:amd64"])


def test_create_fetches_missing_registry_image(store: Store) -> None:
    asked: list[str] = []

    def fetch(reference: Reference) -> None:
        asked.append(str(reference))
        store.tag(str(reference), store.resolve("web:arm64"))

    made = multi_platform.create(store, "web", ["web:amd64", "registry.example/team/web:arm64"], fetch=fetch)
    assert asked == ["registry.example/team/web:arm64"]
    assert made.platforms == ("linux/amd64", "linux/arm64")


def test_create_stored_registry_image_is_fetched_again_only_when_fresh(store: Store) -> None:
    asked: list[Reference] = []
    store.tag("registry.example/web:arm64", store.resolve("web:arm64"))
    multi_platform.create(store, "web", ["registry.example/web:arm64"], fetch=asked.append)
    assert asked == []
    multi_platform.create(store, "web", ["registry.example/web:arm64", "web:amd64"], fetch=asked.append, fresh=True)
    assert [str(one) for one in asked] == ["registry.example/web:arm64"]


def test_create_mistyped_local_name_is_not_fetched(store: Store) -> None:
    def fetch(reference: Reference) -> None:
        pytest.fail(f"{reference} was asked for")

    with pytest.raises(StoreError, match="no such image") as caught:
        multi_platform.create(store, "web", ["web:amd46"], fetch=fetch)
    assert "web:amd64" in str(caught.value.hint)


def test_inspect_lists_version_and_images_of_each_platform(store: Store) -> None:
    multi_platform.create(store, "web", ["web:amd64", "web:arm64"])
    found = multi_platform.inspect(store, "web")
    assert [(one["platform"], one["kubernetes"], one["images"]) for one in found["platforms"]] == [
        ("linux/amd64", "v1.36.3", 2),
        ("linux/arm64", "v1.36.3", 2),
    ]
    entries = store.json(found["digest"])["manifests"]
    assert [entry["digest"] for entry in entries] == [digest for one in found["platforms"] for digest in (one["rootfs"], one["imageSet"])]
