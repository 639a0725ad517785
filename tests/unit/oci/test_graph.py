"""The graph of an image: what leads to what, for some platforms or all, and graphs that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import BuildError, StoreError
from harness.oci import graph
from harness.oci.model import LARGEST_MANIFEST, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import for_platform, put_index, put_manifest

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def put(store: Store, value: dict[str, Any], media_type: str = OCI_MANIFEST) -> Descriptor:
    return Descriptor(media_type, *store.put(canonical_json(value)))


def multi(store: Store) -> tuple[Descriptor, Descriptor, Descriptor]:
    """An index for two platforms, and its manifests."""
    amd64, arm64 = (for_platform(put_manifest(store, name.encode()), f"linux/{name}") for name in ("amd64", "arm64"))
    return put_index(store, amd64, arm64), amd64, arm64


def test_walk_gives_each_blob_once_parents_first(store: Store) -> None:
    index, amd64, arm64 = multi(store)
    digests = [blob.digest for blob in graph.walk(store, index)]
    config = digest_of(b"{}")
    assert digests == [index.digest, amd64.digest, arm64.digest, config, digest_of(b"amd64"), digest_of(b"arm64")]
    some = [blob.digest for blob in graph.walk(store, index, [ARM64])]
    assert some == [index.digest, arm64.digest, config, digest_of(b"arm64")]


def test_walk_missing_or_too_large_manifest_raises(store: Store) -> None:
    index, amd64, _ = multi(store)
    with store.path(amd64.digest).open("r+b") as file:
        file.truncate(LARGEST_MANIFEST + 1)
    with pytest.raises(StoreError, match=f"manifest {amd64.digest} is larger than manifests may be"):
        list(graph.walk(store, index))
    store.path(amd64.digest).unlink()
    with pytest.raises(StoreError, match=f"blob {amd64.digest} is not in"):
        list(graph.walk(store, index))


def test_walk_indexes_nested_too_deep_raise(store: Store) -> None:
    image = put_manifest(store, b"deep")
    for _ in range(graph.DEEPEST_INDEX):
        image = put_index(store, image)
    assert len(list(graph.walk(store, image))) == graph.DEEPEST_INDEX + 3
    with pytest.raises(StoreError, match=f"more than {graph.DEEPEST_INDEX} indexes within each other"):
        list(graph.walk(store, put_index(store, image)))


def test_closure_needs_every_blob_in_full_length(store: Store) -> None:
    index, *_ = multi(store)
    assert {blob.digest for blob in graph.closure(store, index)} == {blob.digest for blob in graph.walk(store, index)}
    layer = store.path(digest_of(b"arm64"))
    layer.write_bytes(b"arm")
    with pytest.raises(StoreError, match="has 3 bytes instead of 5"):
        graph.closure(store, index)
    assert graph.closure(store, index, [AMD64])
    layer.unlink()
    with pytest.raises(StoreError, match="is not in"):
        graph.closure(store, index)


def test_children_manifest_of_another_type_than_its_descriptor_raises(store: Store) -> None:
    manifest = put_manifest(store, b"layer")
    as_index = Descriptor(OCI_INDEX, manifest.digest, manifest.size)
    with pytest.raises(StoreError, match=r"but says that it is application/vnd\.oci\.image\.manifest"):
        graph.children(store.json(manifest.digest), as_index)


@pytest.mark.parametrize(
    "value",
    [
        {"manifests": 5},
        {"manifests": [5]},
        {"manifests": [{"digest": "x"}]},
        {"layers": "none"},
        {"config": None},
        {"config": {}, "annotations": {"a": 5}},
    ],
)
def test_children_malformed_manifest_raises(value: dict[str, Any]) -> None:
    of = Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 2)
    with pytest.raises(StoreError, match=f"manifest {of.digest} cannot be understood"):
        graph.children(value, of)


def test_descriptors_lists_children_and_refuses_other_documents(store: Store) -> None:
    index, amd64, arm64 = multi(store)
    assert [child.digest for child in graph.descriptors(store.read(index.digest))] == [amd64.digest, arm64.digest]
    assert [child.digest for child in graph.descriptors(store.read(amd64.digest))] == [digest_of(b"{}"), digest_of(b"amd64")]
    for data in (b"{}", b"[]", b'{"manifests": [1]}', b"not JSON"):
        with pytest.raises(StoreError):
            graph.descriptors(data)


def test_child_for_picks_the_platform_and_names_those_that_exist(store: Store) -> None:
    index, amd64, arm64 = multi(store)
    data = store.read(index.digest)
    assert graph.child_for(data, ARM64).digest == arm64.digest
    with pytest.raises(BuildError, match="does not exist for linux/s390x, only for linux/amd64, linux/arm64"):
        graph.child_for(data, Platform.parse("linux/s390x"))
    single = put_index(store, Descriptor(OCI_MANIFEST, amd64.digest, amd64.size))
    assert graph.child_for(store.read(single.digest), ARM64).digest == amd64.digest


def test_walk_blob_that_is_a_manifest_and_a_layer_is_both(store: Store) -> None:
    inner = put_manifest(store, b"layer")
    config = Descriptor("text/plain", *store.put(b"{}"))
    as_layer = Descriptor(OCI_LAYER_GZIP, inner.digest, inner.size)
    outer = put(store, {"schemaVersion": 2, "config": config.to_json(), "layers": [as_layer.to_json()]})
    index = put_index(store, outer, inner)
    kinds = [blob.media_type for blob in graph.walk(store, index) if blob.digest == inner.digest]
    assert kinds == [OCI_MANIFEST, OCI_LAYER_GZIP]


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        (f"web:sha256-{'a' * 64}.sig", f"sha256:{'a' * 64}"),
        (f"ghcr.io/x/web:sha256-{'a' * 64}", f"sha256:{'a' * 64}"),
        (f"web:sha256-{'a' * 63}.sig", None),
        ("web:1", None),
    ],
)
def test_attached_to_reads_the_digest_of_a_tag(name: str, digest: str | None) -> None:
    assert graph.attached_to(name) == digest


def test_attachments_are_those_of_the_digests(store: Store) -> None:
    image, other = put_manifest(store, b"one"), put_manifest(store, b"two")
    names = {f"web:{each.digest.replace(':', '-')}.sig": each for each in (image, other)}
    names["web:1"] = image
    assert list(graph.attachments(names, [image.digest])) == [f"web:{image.digest.replace(':', '-')}.sig"]
