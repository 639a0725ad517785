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


def test_info_unknown_fields_of_newer_slipway_are_kept(store: Store) -> None:
    value = {**INFO.to_json(), "rollout": {"waves": 3}}
    info = Info.from_json(value)
    assert info.extra == {"rollout": {"waves": 3}}
    assert write(store, platform_image(store, info=info)).platforms[0].info.to_json() == value


def test_platform_missing_in_image_raises_store_error_with_known_platforms(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    assert image.platform(Platform("linux", "arm64", "v8")).platform == ARM64
    with pytest.raises(StoreError, match="only for linux/amd64, linux/arm64"):
        image.platform(Platform("linux", "s390x"))


def test_union_keeps_each_blob_once_and_all_requesters(store: Store) -> None:
    one, two = put_image(store, "docker.io/library/a:1", b"base", b"a"), put_image(store, "docker.io/library/b:1", b"base", b"b")
    declared = dataclasses.replace(one.images[0], found_by=("declared",), requested_by=("charts/x",))
    both = one.union(two).union(ImageSet((declared,), one.blobs))
    assert [image.name for image in both.images] == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert both.images[0].found_by == ("declared", "pulled")
    assert both.images[0].requested_by == ("charts/x", "manifests/a.yaml:3")
    assert len(both.blobs) == len({blob.digest for blob in both.blobs}) == 8
    assert both == both.union(both) == two.union(one).union(ImageSet((declared,)))


def test_union_takes_same_name_from_newer_set(store: Store) -> None:
    old, new = put_image(store, "docker.io/library/a:1", b"old"), put_image(store, "docker.io/library/a:1", b"new")
    assert [image.digest for image in old.union(new).images] == [new.images[0].digest]


def test_image_size_counts_each_blob_once(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    garbage.collect(store)
    assert image.size == sum(path.stat().st_size for path in (store.root / "blobs/sha256").iterdir())


PROVEN = {"on": {"reference": "kubernetes:latest", "digest": f"sha256:{'a' * 64}"}, "exercise": f"sha256:{'b' * 64}", "workers": 2}


def test_info_proving_run_round_trips_and_is_omitted_when_absent() -> None:
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
def test_proving_run_with_invalid_json_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError, StoreError)):
        ProvingRun.from_json({**PROVEN, **changed})


def test_info_launch_arguments_round_trip_and_are_omitted_when_absent() -> None:
    info = Info(launch=("echo 1",), launch_template=("echo $A",), launch_arguments={"A": "1"})
    assert Info.from_json(info.to_json()) == info
    assert Info.from_json(info.to_json()).extra == {}
    assert not {"launchTemplate", "launchArguments"} & Info().to_json().keys()
