"""Images of sealer as CloudImages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cloudimage
from harness.cloudimage.listing import history
from harness.errors import StoreError
from harness.lifecycle import run
from harness.lifecycle.cluster.request import of_machines
from harness.nodes import Machine
from harness.oci.model import DOCKER_MANIFEST, Platform
from harness.oci.store import Store
from harness.sealer import convert, listing
from harness.sealer import image as sealer_image
from tests.integration import registry as made
from tests.integration import sealer
from tests.unit.sealer.examples import BOTH, NGINX, OLD, PAUSE, converted, names, problems, simple, tree_of, written


def test_convert_keeps_rootfs_and_turns_registry_into_image_set(store: Store, tmp_path: Path) -> None:
    found = converted(store, simple())
    assert tree_of(store, found, tmp_path / "out") == {**sealer.ROOTFS, "manifests/app.yaml": b"kind: Pod\n"}
    assert not (tmp_path / "out/registry").exists()
    assert (tmp_path / "out/scripts/docker.sh").stat().st_mode & 0o777 == 0o755
    assert (problems(found), found.notes) == ([], ())
    image = written(store, found)
    embedded = {one.name: one for one in image.platforms[0].images.images}
    assert {name: one.digest for name, one in embedded.items()} == {
        "docker.io/library/nginx:1.25": NGINX.digest,
        "registry.example.com:5000/acme/app:v2": OLD.digest,
        "registry.k8s.io/pause:3.5": PAUSE.digest,
    }
    assert embedded["registry.example.com:5000/acme/app:v2"].media_type == DOCKER_MANIFEST
    for one in (NGINX, PAUSE, OLD):
        for digest, data in one.blobs.items():
            assert store.read(digest) == data
        assert store.read(one.digest) == one.data
    carried = {blob.digest for blob in image.platforms[0].images.blobs}
    assert carried == NGINX.digests | PAUSE.digests | OLD.digests


def test_convert_same_image_has_same_digest_in_any_store(store: Store, tmp_path: Path) -> None:
    first = cloudimage.write(store, converted(store, simple()).platforms)
    elsewhere = Store(tmp_path / "elsewhere")
    for data in NGINX.blobs.values():
        elsewhere.put(data)
    sealer.put(elsewhere, "another/name", simple())
    listing.look(elsewhere, sealer_image.read(elsewhere, "another/name"))
    assert cloudimage.write(elsewhere, convert.convert(elsewhere, "another/name").platforms) == first


def test_convert_keeps_history_and_registry_step_is_empty(store: Store) -> None:
    image = written(store, converted(store, simple()))
    assert [row.layer is None for row in history(image)] == [False, True, False, True]
    assert history(image)[1].created_by.endswith("LABEL a=b")


def test_convert_image_without_history_has_step_per_layer(store: Store) -> None:
    image = written(store, converted(store, simple(history=False)))
    assert [row.layer is None for row in history(image)] == [False, False, True]


def test_convert_info_survives_write_to_store(store: Store) -> None:
    found = converted(store, simple())
    assert written(store, found).platforms[0].info == found.platforms[0].info


@pytest.mark.parametrize("place", ["manifest", "labels", "config"])
def test_convert_annotations_in_manifest_labels_or_config_are_read(store: Store, place: str) -> None:
    found = converted(store, simple(annotations_in=place, docker=place == "labels"))
    assert len(names(found)) == 3
    assert not [key for key in found.platforms[0].info.labels if key.startswith("sealer.image")]


def test_convert_docker_media_types_are_accepted(store: Store, tmp_path: Path) -> None:
    found = converted(store, simple(docker=True))
    assert len(names(found)) == 3
    assert tree_of(store, found, tmp_path / "out")["Metadata"] == sealer.ROOTFS["Metadata"]


def test_convert_embedded_index_keeps_index_and_own_platform_only(store: Store) -> None:
    arm = next(digest for digest in BOTH.manifests if digest != BOTH.digest and b"arm64" not in BOTH.manifests[digest][1])
    files = sealer.storage({"library/both:1": BOTH})
    amd64, arm64 = (child["digest"] for child in json.loads(BOTH.data)["manifests"])
    assert arm in (amd64, arm64)
    # sealer keeps the manifest and the blobs of its own platform only.
    del files[sealer.data_path(arm64)]
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=sealer.listed("both:1")))
    assert problems(found) == []
    assert found.platforms[0].images.images[0].digest == BOTH.digest
    carried = {blob.digest for blob in found.platforms[0].images.blobs}
    assert {BOTH.digest, amd64} < carried
    assert arm64 not in carried


def test_convert_index_of_two_platforms_keeps_both_or_selected_platform(store: Store) -> None:
    arm_tree = {"library/nginx:1.25": made.image("nginx arm", platform="linux/arm64")}
    arm = simple(arm_tree, sealer.listed("nginx:1.25", platform="linux/arm64"), platform="linux/arm64")
    both = made.index({"linux/amd64": simple(), "linux/arm64": arm}, docker=True)
    found = converted(store, both)
    assert problems(found) == []
    image = written(store, found)
    assert [str(part.platform) for part in image.platforms] == ["linux/amd64", "linux/arm64"]
    assert [len(part.images.images) for part in image.platforms] == [3, 1]
    only = convert.convert(store, "sealerio/app:v1", platform=Platform.parse("arm64"))
    assert [str(part.platform) for part in only.platforms] == ["linux/arm64"]
    with pytest.raises(StoreError, match="only for linux/amd64, linux/arm64"):
        convert.convert(store, "sealerio/app:v1", platform=Platform.parse("linux/arm/v7"))


def test_convert_platform_missing_in_store_is_noted(store: Store) -> None:
    arm = simple(platform="linux/arm64")
    sealer.put(store, "app", made.index({"linux/amd64": simple(), "linux/arm64": arm}), without=arm.digests - simple().digests)
    found = convert.convert(store, "app")
    assert found.notes == ("linux/arm64 is in the index, but not in the store",)
    assert len(found.platforms) == 1


def test_run_converted_cluster_image_is_refused_with_missing_files(store: Store) -> None:
    written(store, converted(store, simple()))
    with pytest.raises(StoreError, match=r"was made by sealer.*etc/slipway\.yaml.*bin/containerd") as caught:
        run.prepare(of_machines("default", "new", [Machine("10.0.0.1")]), store)
    assert "FROM a CloudImage with Kubernetes" in (caught.value.hint or "")
