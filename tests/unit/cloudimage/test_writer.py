"""CloudImage -> the format, to the letter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Blob, History, ImageSet
from harness.errors import StoreError
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, digest_of
from harness.oci.store import Store
from tests.unit.cloudimage.examples import ARM64, INFO, platform_image, write


def test_write_digest_does_not_depend_on_order_or_store(store: Store, tmp_path: Path) -> None:
    first = cloudimage.write(store, [platform_image(store), platform_image(store, ARM64)])
    elsewhere = Store(tmp_path / "elsewhere")
    again = [platform_image(elsewhere, ARM64), platform_image(elsewhere)]
    shuffled = dataclasses.replace(INFO, env=dict(reversed(list(INFO.env.items()))))
    for number, image in enumerate(again):
        images = ImageSet(tuple(reversed(image.images.images)), tuple(reversed(image.images.blobs)) + image.images.blobs[:1])
        again[number] = dataclasses.replace(image, images=images, info=shuffled)
    assert cloudimage.write(elsewhere, again) == first


def test_write_produces_index_manifests_and_config_of_format(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    index = store.json(image.digest)
    assert set(index) == {"schemaVersion", "mediaType", "manifests", "annotations"}
    assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
    assert index["annotations"] == {"dev.slipway.kind": "cloudimage"}
    entries = [(entry["platform"]["architecture"], entry.get("annotations"), entry["mediaType"]) for entry in index["manifests"]]
    imageset = {"dev.slipway.kind": "imageset"}
    assert entries == [(arch, kind, OCI_MANIFEST) for arch in ("amd64", "arm64") for kind in (None, imageset)]

    rootfs = store.json(index["manifests"][0]["digest"])
    assert rootfs["config"]["mediaType"] == OCI_CONFIG
    assert {layer["mediaType"] for layer in rootfs["layers"]} == {OCI_LAYER_GZIP}
    info = json.loads(rootfs["annotations"]["dev.slipway.cloudimage"])
    assert (info["schemaVersion"], info["type"], info["kubernetes"], info["kubeVersion"]) == (1, "kube", "v1.36.3", ">=1.20")
    assert info["launch"] == list(INFO.launch)
    config = store.json(rootfs["config"]["digest"])
    assert (config["os"], config["architecture"], config["created"]) == ("linux", "amd64", "1970-01-01T00:00:00Z")
    assert config["config"]["Labels"] == INFO.labels
    assert config["history"] == [
        {"created": "1970-01-01T00:00:00Z", "created_by": "FROM scratch", "comment": "sha256:1"},
        {"created": "1970-01-01T00:00:00Z", "created_by": "LABEL a=b", "comment": "sha256:2", "empty_layer": True},
        {"created": "1970-01-01T00:00:00Z", "created_by": "COPY a.yaml manifests/", "comment": "sha256:3"},
    ]

    images = store.json(index["manifests"][1]["digest"])
    assert images["config"]["mediaType"] == "application/vnd.slipway.imageset.v1+json"
    assert {layer["mediaType"] for layer in images["layers"]} == {"application/vnd.slipway.blob.v1"}
    digests = [layer["digest"] for layer in images["layers"]]
    assert digests == sorted(set(digests))
    listed = store.json(images["config"]["digest"])
    assert {blob["digest"] for blob in listed["blobs"]} == set(digests)
    assert listed["images"][0]["name"] == "docker.io/library/nginx:1.25"
    assert set(listed["images"][0]) == {"name", "digest", "mediaType", "size", "foundBy", "requestedBy"}
    assert "artifactType" not in json.dumps([index, rootfs, images])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"diff_ids": ()}, "2 layers, 0 diff ids"),
        ({"history": (History("FROM scratch"),)}, "1 history entries"),
        ({"layers": (Descriptor(OCI_LAYER_GZIP, digest_of(b"gone"), 4),) * 2}, digest_of(b"gone")),
        ({"images": ImageSet((), (Blob(digest_of(b"gone"), OCI_LAYER_GZIP, 4),))}, digest_of(b"gone")),
    ],
)
def test_write_incomplete_platform_image_raises_store_error(store: Store, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreError, match=why):
        cloudimage.write(store, [platform_image(store, **changes)])


def test_write_without_or_with_duplicate_platform_raises_store_error(store: Store) -> None:
    with pytest.raises(StoreError, match="at least one"):
        cloudimage.write(store, [])
    with pytest.raises(StoreError, match="two images for one platform"):
        cloudimage.write(store, [platform_image(store, ARM64), platform_image(store, Platform("linux", "arm64", "v8"))])
