"""The CloudImage as a value."""

from __future__ import annotations

import dataclasses

import pytest

from harness.cloudimage import ImageSet, Info, ProvingRun
from harness.errors import StoreError
from harness.oci import garbage
from harness.oci.model import Platform
from harness.oci.store import Store
from tests.unit.cloudimage.examples import ARM64, INFO, platform_image, put_image, write


def test_what_a_newer_slipway_added_to_the_info_is_kept(store: Store) -> None:
    value = {**INFO.to_json(), "rollout": {"waves": 3}}
    info = Info.from_json(value)
    assert info.extra == {"rollout": {"waves": 3}}
    assert write(store, platform_image(store, info=info)).platforms[0].info.to_json() == value


def test_a_platform_that_is_not_in_it_is_answered_with_those_that_are(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    assert image.platform(Platform("linux", "arm64", "v8")).platform == ARM64
    with pytest.raises(StoreError, match="only for linux/amd64, linux/arm64"):
        image.platform(Platform("linux", "s390x"))


def test_a_union_keeps_each_blob_once_and_everyone_who_asked(store: Store) -> None:
    one, two = put_image(store, "docker.io/library/a:1", b"base", b"a"), put_image(store, "docker.io/library/b:1", b"base", b"b")
    declared = dataclasses.replace(one.images[0], found_by=("declared",), requested_by=("charts/x",))
    both = one.union(two).union(ImageSet((declared,), one.blobs))
    assert [image.name for image in both.images] == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert both.images[0].found_by == ("declared", "pulled")
    assert both.images[0].requested_by == ("charts/x", "manifests/a.yaml:3")
    assert len(both.blobs) == len({blob.digest for blob in both.blobs}) == 8
    assert both == both.union(both) == two.union(one).union(ImageSet((declared,)))


def test_a_name_means_what_it_means_in_the_newer_set(store: Store) -> None:
    old, new = put_image(store, "docker.io/library/a:1", b"old"), put_image(store, "docker.io/library/a:1", b"new")
    assert [image.digest for image in old.union(new).images] == [new.images[0].digest]


def test_the_size_counts_each_blob_once(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    garbage.collect(store)
    assert image.size == sum(path.stat().st_size for path in (store.root / "blobs/sha256").iterdir())


PROVEN = {"on": {"reference": "kubernetes:latest", "digest": f"sha256:{'a' * 64}"}, "exercise": f"sha256:{'b' * 64}", "workers": 2}


def test_the_run_that_found_the_images_is_kept_and_an_image_without_one_is_as_before() -> None:
    assert ProvingRun.from_json(PROVEN).to_json() == PROVEN
    assert Info.from_json({**Info().to_json(), "proven": PROVEN}).to_json()["proven"] == PROVEN
    assert "proven" not in Info().to_json()
    assert ProvingRun().to_json() == {}


@pytest.mark.parametrize(
    "changed",
    [
        {"on": {"reference": "kubernetes:latest"}}, {"on": {"reference": "A B", "digest": f"sha256:{'a' * 64}"}},
        {"on": {"reference": "a", "digest": "x"}}, {"exercise": "x"}, {"workers": True},
    ],
)  # fmt: skip
def test_a_run_that_says_something_else_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError, StoreError)):
        ProvingRun.from_json({**PROVEN, **changed})


def test_values_of_launch_commands_are_kept_and_cost_nothing_where_there_are_none() -> None:
    info = Info(launch=("echo 1",), launch_template=("echo $A",), launch_arguments={"A": "1"})
    assert Info.from_json(info.to_json()) == info
    assert Info.from_json(info.to_json()).extra == {}
    assert not {"launchTemplate", "launchArguments"} & Info().to_json().keys()
