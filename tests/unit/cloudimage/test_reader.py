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


def test_what_was_written_is_read(store: Store) -> None:
    written = [platform_image(store), platform_image(store, ARM64)]
    image = write(store, *written)
    assert [dataclasses.replace(platform, images=platform.images.sorted()) for platform in written] == list(image.platforms)
    assert image.name == "web:latest"
    assert cloudimage.read(store, image.digest) == dataclasses.replace(image, name=None)
    cloudimage.verify(store, image)


def test_an_image_of_nothing_but_a_name_is_an_image(store: Store) -> None:
    image = write(store, PlatformImage(AMD64, (), (), info=Info(type="app")))
    assert image.platforms[0].info == Info(type="app")
    assert image.platforms[0].images == ImageSet()


def test_an_ordinary_image_is_no_cloudimage(store: Store) -> None:
    store.tag("nginx", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    with pytest.raises(StoreError, match="nginx:latest is an image, but not a CloudImage"):
        cloudimage.read(store, "nginx")
    store.tag("index", Descriptor(OCI_INDEX, *store.put(b'{"manifests": []}')))
    with pytest.raises(StoreError, match="not a CloudImage"):
        cloudimage.read(store, "index")


def test_any_missing_or_damaged_part_is_noticed(store: Store) -> None:
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


def test_changed_bytes_of_the_same_length_are_found_by_verify(store: Store) -> None:
    image = write(store)
    layer = image.platforms[0].images.blobs[0].digest
    store.path(layer).write_bytes(bytes(store.size(layer)))
    with pytest.raises(StoreError, match=f"{layer}.*damaged"):
        cloudimage.verify(store, image)


def retag(store: Store, index: dict[str, Any]) -> None:
    store.tag("web", Descriptor(OCI_INDEX, *store.put(canonical_json(index))))


def test_an_image_of_a_newer_format_says_so(store: Store) -> None:
    index = store.json(write(store).digest)
    rootfs = store.json(index["manifests"][0]["digest"])
    rootfs["annotations"]["dev.slipway.cloudimage"] = '{"schemaVersion": 2}'
    index["manifests"][0].update(zip(("digest", "size"), store.put(canonical_json(rootfs)), strict=True))
    retag(store, index)
    with pytest.raises(StoreError, match="format version 2") as caught:
        cloudimage.read(store, "web")
    assert "newer slipway" in (caught.value.hint or "")


@pytest.mark.parametrize("damage", ["no image set", "no platform", "no entries", "no info", "no layers", "an image that is not carried"])
def test_index_of_another_tool_is_an_error(store: Store, damage: str) -> None:
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


def test_entries_of_a_kind_from_the_future_are_left_alone(store: Store) -> None:
    image = write(store)
    index = store.json(image.digest)
    index["manifests"].append({**index["manifests"][1], "annotations": {"dev.slipway.kind": "signature"}})
    retag(store, index)
    assert cloudimage.read(store, "web").platforms == image.platforms


def test_an_image_of_which_one_platform_was_fetched_is_read_for_that_one(store: Store) -> None:
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
