"""CloudImages as people see them."""

from __future__ import annotations

import json

from harness.cloudimage import ImageSet, Info, listing
from harness.oci.model import OCI_MANIFEST, Descriptor
from harness.oci.store import Store
from tests.unit.cloudimage.examples import ARM64, INFO, platform_image, write


def test_describe_returns_json_data_of_all_platforms(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    value = json.loads(json.dumps(listing.describe(image)))
    assert (value["name"], value["digest"], value["size"]) == ("web:latest", image.digest, image.size)
    amd64, arm64 = value["platforms"]
    assert (amd64["platform"], arm64["platform"]) == ("linux/amd64", "linux/arm64")
    assert amd64["info"] == INFO.to_json()
    assert [layer["diffId"] for layer in amd64["rootfs"]["layers"]] == list(image.platforms[0].diff_ids)
    assert [embedded["name"] for embedded in amd64["images"]] == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.2"]
    assert amd64["images"][0]["foundBy"] == ["pulled"]


def test_images_are_listed_with_their_problems(store: Store) -> None:
    assert listing.images(store) == ()
    image = write(store)
    write(store, platform_image(store, info=Info(type="app"), images=ImageSet()), name="ghcr.io/x/small:1")
    store.tag("plain", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    small, web = listing.images(store)
    assert (web.name, web.digest, web.platforms, web.size, web.images) == ("web:latest", image.digest, ("linux/amd64",), image.size, 2)
    assert (web.kubernetes, web.problem) == ("v1.36.3", None)
    assert (small.name, small.images, small.kubernetes) == ("ghcr.io/x/small:1", 0, None)
    gone = next(blob.digest for blob in image.platforms[0].images.blobs)
    store.path(gone).unlink()
    small, web = listing.images(store)
    assert small.problem is None
    assert gone in (web.problem or "")
    store.path(image.digest).write_bytes(b"")
    assert "damaged" in (listing.images(store)[1].problem or "")


def test_history_links_instructions_to_layers_and_sizes(store: Store) -> None:
    image = write(store)
    below, above = image.platforms[0].layers
    assert [(row.created_by, row.step, row.layer, row.size) for row in listing.history(image)] == [
        ("FROM scratch", "sha256:1", below.digest, below.size),
        ("LABEL a=b", "sha256:2", None, 0),
        ("COPY a.yaml manifests/", "sha256:3", above.digest, above.size),
    ]
