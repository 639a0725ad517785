"""The format -> CloudImage, and all that may be wrong with it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.errors import StoreError
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Platform, canonical_json
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64, ARM64, platform_image, write


def test_read_returns_written_image(store: Store) -> None:
    written = [platform_image(store), platform_image(store, ARM64)]
    image = write(store, *written)
    assert [dataclasses.replace(platform, images=platform.images.sorted()) for platform in written] == list(image.platforms)
    assert image.name == "web:latest"
    assert cloudimage.read(store, image.digest) == dataclasses.replace(image, name=None)
    cloudimage.verify(store, image)


def test_read_image_without_layers_is_accepted(store: Store) -> None:
    image = write(store, PlatformImage(AMD64, (), (), info=Info(type="app")))
    assert image.platforms[0].info == Info(type="app")
    assert image.platforms[0].images == ImageSet()


def test_read_plain_image_or_index_raises_store_error(store: Store) -> None:
    store.tag("nginx", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    with pytest.raises(StoreError, match="nginx:latest is an image, but not a CloudImage"):
        cloudimage.read(store, "nginx")
    store.tag("index", Descriptor(OCI_INDEX, *store.put(b'{"manifests": []}')))
    with pytest.raises(StoreError, match="not a CloudImage"):
        cloudimage.read(store, "index")


def test_read_missing_or_truncated_blob_raises_store_error(store: Store) -> None:
    image = write(store)
    for blob in image.blobs:
        data = store.read(blob.digest)
        for damage in (None, data[:-1]):
            store.path(blob.digest).unlink()
            if damage is not None:
                store.path(blob.digest).write_bytes(damage)
            with pytest.raises(StoreError, match=blob.digest):
                cloudimage.read(store, "web")
            store.put(data)
    assert cloudimage.read(store, "web") == image


def test_verify_changed_bytes_of_same_length_raise_store_error(store: Store) -> None:
    image = write(store)
    layer = image.platforms[0].images.blobs[0].digest
    store.path(layer).write_bytes(bytes(store.size(layer)))
    with pytest.raises(StoreError, match=f"{layer}.*damaged"):
        cloudimage.verify(store, image)


def retag(store: Store, index: dict[str, Any]) -> None:
    store.tag("web", Descriptor(OCI_INDEX, *store.put(canonical_json(index))))


def test_read_newer_format_version_raises_store_error_with_hint(store: Store) -> None:
    index = store.json(write(store).digest)
    rootfs = store.json(index["manifests"][0]["digest"])
    rootfs["annotations"]["dev.slipway.cloudimage"] = '{"schemaVersion": 2}'
    index["manifests"][0].update(zip(("digest", "size"), store.put(canonical_json(rootfs)), strict=True))
    retag(store, index)
    with pytest.raises(StoreError, match="format version 2") as caught:
        cloudimage.read(store, "web")
    assert "newer slipway" in (caught.value.hint or "")


@pytest.mark.parametrize("damage", ["no image set", "no platform", "no entries", "no info", "no layers", "an image that is not carried"])
def test_read_incomplete_index_raises_store_error(store: Store, damage: str) -> None:
    index = store.json(write(store).digest)
    rootfs, images = index["manifests"]
    manifest = store.json(rootfs["digest"])
    if damage == "no image set":
        index["manifests"] = [rootfs]
    elif damage == "no platform":
        del rootfs["platform"]
    elif damage == "no entries":
        index["manifests"] = []
    elif damage == "an image that is not carried":
        carrying = {**store.json(images["digest"]), "layers": []}
        images.update(zip(("digest", "size"), store.put(canonical_json(carrying)), strict=True))
    else:
        del manifest["annotations" if damage == "no info" else "layers"]
        rootfs.update(zip(("digest", "size"), store.put(canonical_json(manifest)), strict=True))
    retag(store, index)
    with pytest.raises(StoreError, match="cannot be understood"):
        cloudimage.read(store, "web")


def test_read_ignores_index_entries_of_unknown_kind(store: Store) -> None:
    image = write(store)
    index = store.json(image.digest)
    index["manifests"].append({**index["manifests"][1], "annotations": {"dev.slipway.kind": "signature"}})
    retag(store, index)
    assert cloudimage.read(store, "web").platforms == image.platforms


def test_read_partly_fetched_image_lists_other_platforms_as_absent(store: Store) -> None:
    index = cloudimage.write(store, [platform_image(store), platform_image(store, Platform.parse("linux/arm64"))])
    store.tag("web", index)
    rootfs = {entry["platform"]["architecture"]: entry["digest"] for entry in store.json(index.digest)["manifests"][::2]}
    store.path(rootfs["arm64"]).unlink()
    image = cloudimage.read(store, "web")
    assert [str(one.platform) for one in image.platforms] == ["linux/amd64"]
    assert image.absent == (Platform.parse("linux/arm64"),)
    with pytest.raises(StoreError, match=r"without its part for linux/arm64"):
        image.platform(Platform.parse("arm64"))
    store.path(rootfs["amd64"]).unlink()
    with pytest.raises(StoreError, match=r"is not in"):
        cloudimage.read(store, "web")
