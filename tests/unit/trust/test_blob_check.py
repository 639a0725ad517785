from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.cloudimage import CloudImage
from harness.oci.model import OCI_INDEX, Descriptor
from harness.oci.store import Store
from harness.trust import blob_check
from harness.trust.signature import RefusedError
from tests.unit.cloudimage.examples import ARM64
from tests.unit.trust.damage import flip


def root(store: Store, image: CloudImage) -> Descriptor:
    return store.resolve(image.digest)


def parts(store: Store, image: CloudImage) -> Iterator[tuple[str, str]]:
    """A digest of each kind of blob, and how it is called."""
    index = store.json(image.digest)
    rootfs, images = (store.json(index["manifests"][number]["digest"]) for number in (2, 1))
    yield "index", image.digest
    yield "manifest of linux/arm64", index["manifests"][2]["digest"]
    yield "config of linux/arm64", rootfs["config"]["digest"]
    yield "layer of linux/arm64", rootfs["layers"][0]["digest"]
    yield "image set manifest of linux/amd64", index["manifests"][1]["digest"]
    yield "config of image set manifest of linux/amd64", images["config"]["digest"]
    for layer in images["layers"]:
        yield "blob of an embedded image", layer["digest"]


def test_check_stored_whole_image_counts_blobs_and_bytes(store: Store, image: CloudImage) -> None:
    whole = blob_check.check_stored(store, "web", root(store, image))
    assert whole.digest == image.digest
    assert whole.blobs == len({blob.digest for blob in image.blobs})
    assert whole.bytes == image.size


def test_check_stored_flipped_bit_in_any_blob_kind_is_reported(store: Store, image: CloudImage) -> None:
    index = root(store, image)
    kinds = set()
    for role, digest in parts(store, image):
        for position in (0, -1):
            flip(store, digest, position)
            with pytest.raises(RefusedError) as caught:
                blob_check.check_stored(store, "web", index)
            assert f"{role} {digest}" in caught.value.message, role
            assert "damaged" in caught.value.message, role
            flip(store, digest, position)
        kinds.add(role)
    assert len(kinds) == 7
    blob_check.check_stored(store, "web", index)


def test_check_stored_truncated_grown_or_missing_layer_is_reported(store: Store, image: CloudImage) -> None:
    index = root(store, image)
    layer = image.platforms[0].layers[0]
    path = store.path(layer.digest)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(RefusedError, match=f"has {len(data) - 1} bytes instead of {len(data)}"):
        blob_check.check_stored(store, "web", index)
    path.write_bytes(data + b"\0")
    with pytest.raises(RefusedError, match=f"has {len(data) + 1} bytes instead of {len(data)}"):
        blob_check.check_stored(store, "web", index)
    path.unlink()
    with pytest.raises(RefusedError, match=f"layer of linux/amd64 {layer.digest} is missing"):
        blob_check.check_stored(store, "web", index)


def test_check_stored_absent_platform_is_reported_and_rest_is_checked(store: Store, image: CloudImage) -> None:
    index = root(store, image)
    rootfs = [entry["digest"] for entry in store.json(image.digest)["manifests"][::2]]
    store.path(rootfs[1]).unlink()
    whole = blob_check.check_stored(store, "web", index)
    assert whole.absent == (ARM64,)
    flip(store, image.platforms[0].layers[0].digest)
    with pytest.raises(RefusedError, match="layer of linux/amd64"):
        blob_check.check_stored(store, "web", index)
    flip(store, image.platforms[0].layers[0].digest)
    store.path(rootfs[0]).unlink()
    with pytest.raises(RefusedError, match=f"manifest of linux/amd64 {rootfs[0]} is damaged or missing"):
        blob_check.check_stored(store, "web", index)


def test_check_stored_missing_image_set_is_reported(store: Store, image: CloudImage) -> None:
    index = root(store, image)
    images = store.json(image.digest)["manifests"][1]["digest"]
    store.path(images).unlink()
    with pytest.raises(RefusedError, match=f"image set manifest of linux/amd64 {images} is damaged or missing"):
        blob_check.check_stored(store, "web", index)


def test_check_stored_lists_all_damaged_layers(store: Store, image: CloudImage) -> None:
    index = root(store, image)
    layers = [layer.digest for platform in image.platforms for layer in platform.layers]
    for digest in dict.fromkeys(layers):
        flip(store, digest)
    with pytest.raises(RefusedError) as caught:
        blob_check.check_stored(store, "web", index)
    assert f"and {len(set(layers)) - 1} more" in caught.value.message
    assert all(digest in (caught.value.details or "") for digest in layers)


def test_check_stored_wrong_index_size_is_reported(store: Store, image: CloudImage) -> None:
    with pytest.raises(RefusedError, match="bytes instead of 7"):
        blob_check.check_stored(store, "web", Descriptor(OCI_INDEX, image.digest, 7))


def test_check_stored_malformed_index_is_refused(store: Store) -> None:
    for text in (b'{"manifests": [{"digest": 1}]}', b"[1]", b"no JSON"):
        digest, size = store.put(text)
        with pytest.raises(RefusedError, match="cannot be understood"):
            blob_check.check_stored(store, "web", Descriptor(OCI_INDEX, digest, size))


def test_check_stored_root_of_non_image_type_is_refused(store: Store, image: CloudImage) -> None:
    """The type of the root stands in no signed place: it must not be a way to have nothing looked at."""
    flip(store, image.platforms[0].layers[0].digest)
    with pytest.raises(RefusedError, match="which is not an image"):
        blob_check.check_stored(store, "web", Descriptor("application/octet-stream", image.digest, store.size(image.digest)))
