"""What a pull fetches, and what is left when it ends early. The registry is a stand-in."""

from __future__ import annotations

import re
from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.admission import Admitted
from harness.oci.garbage import collect
from harness.oci.graph import DEEPEST_INDEX, closure
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import SIGNATURES, tag_of
from harness.oci.store import UNFINISHED, Store
from harness.transfer.pull import pull
from harness.transfer.push import push
from tests.unit.oci.standin import HOST, Registry, client
from tests.unit.transfer.images import ARM64, TARGET, blobs_of


def test_pull_fetches_each_blob_once_and_completes_record(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    pulled = pull(other, TARGET, remote)
    assert (pulled.name, pulled.digest, pulled.present) == (f"{HOST}/team/web:1", image.digest, 0)
    assert pulled.received == sum(blob.size for blob in closure(other, image))
    fetched = [line for line in registry.lines if line.startswith("GET ") and "/blobs/" in line]
    assert len(fetched) == len(set(fetched)) == pulled.fetched
    assert other.record(UNFINISHED, image.digest.removeprefix("sha256:")) is None


def test_pull_again_requests_no_blobs(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    pull(other, TARGET, remote)
    registry.asked.clear()
    again = pull(other, TARGET, remote)
    assert (again.fetched, again.present) == (0, len(blobs_of(other, image)))
    assert registry.count("GET", "/blobs/") == 0
    assert registry.count("GET", "/manifests/sha256:") == 0


def test_pull_sets_given_name_and_by_digest_sets_none(image: Descriptor, other: Store, remote: Client) -> None:
    assert pull(other, TARGET, remote, name="mine:2").name == "mine:2"
    assert list(other.names()) == ["mine:2"]
    by_digest = Reference.parse(f"{HOST}/team/web@{image.digest}")
    assert pull(other, by_digest, remote).name == image.digest
    assert list(other.names()) == ["mine:2"]


def test_pull_one_platform_keeps_index_digest_and_fetches_fewer_blobs(
    image: Descriptor, store: Store, other: Store, remote: Client
) -> None:
    pulled = pull(other, TARGET, remote, platforms=[ARM64])
    assert pulled.digest == image.digest
    assert pulled.fetched < len(blobs_of(store, image))
    with pytest.raises(StoreError, match="not made for linux/s390x") as absent:
        pull(other, TARGET, remote, platforms=[Platform.parse("linux/s390x")])
    assert "linux/amd64, linux/arm64" in str(absent.value.hint)


def test_pull_failure_sets_no_name_and_keeps_blobs_for_retry(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    lost = sorted(registry.blobs)[3]
    data = registry.blobs.pop(lost)
    with pytest.raises(RemoteError, match="404"):
        pull(other, TARGET, remote)
    assert other.names() == {}
    assert collect(other).blobs == 0
    here = {path.name for path in (other.root / "blobs/sha256").iterdir()}
    registry.blobs[lost] = data
    registry.asked.clear()
    with client(registry) as second:
        pull(other, TARGET, second)
    assert not [asked for asked in registry.asked if asked.path.rpartition(":")[2] in here and "/blobs/" in asked.path]
    assert other.resolve(f"{HOST}/team/web:1").digest == image.digest


def test_pull_resumes_partial_blob(image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client) -> None:
    digest = max(blobs_of(store, image), key=lambda one: (store.size(one), one))
    data = store.path(digest).read_bytes()
    (other.root / "partial" / digest[7:]).write_bytes(data[:1000])
    pulled = pull(other, TARGET, remote)
    asked = next(asked for asked in registry.asked if asked.path.endswith(digest))
    assert asked.headers["Range"] == "bytes=1000-"
    assert pulled.received == sum(blob.size for blob in closure(other, image)) - 1000
    other.verify(digest)


@pytest.mark.parametrize("left", [b"something else", bytes(3000), bytes(9000)], ids=["begun wrong", "whole and wrong", "too long"])
def test_pull_damaged_partial_blob_is_fetched_again(
    image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client, left: bytes
) -> None:
    digest = max(blobs_of(store, image), key=lambda one: (store.size(one), one))
    (other.root / "partial" / digest[7:]).write_bytes(left)
    pull(other, TARGET, remote)
    other.verify(digest)
    assert registry.count("GET", digest) <= 2


def test_pull_after_unfinished_pull_replaces_damaged_stored_blob(image: Descriptor, store: Store, other: Store, remote: Client) -> None:
    digest = max(blobs_of(store, image), key=lambda one: (store.size(one), one))
    other.keep(UNFINISHED, image.digest.removeprefix("sha256:"), {"image": image.digest})
    other.path(digest).write_bytes(bytes(store.size(digest)))  # its length, and none of its bytes
    pull(other, TARGET, remote)
    other.verify(digest)


def test_pull_wrong_bytes_are_refused_and_not_kept(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    key = min(registry.blobs)
    registry.blobs[key] = bytes(len(registry.blobs[key]))
    with pytest.raises(StoreError, match=f"should be {key[1]}"):
        pull(other, TARGET, remote)
    assert not other.has(key[1])
    assert list((other.root / "partial").glob(key[1][7:])) == []
    assert other.names() == {}


def refer(registry: Registry, tag: str, manifests: list[dict[str, Any]]) -> str:
    data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
    for name in (tag, digest_of(data)):
        registry.manifests["team/web", name] = (OCI_INDEX, data)
    return digest_of(data)


@pytest.mark.parametrize("depth", [DEEPEST_INDEX, DEEPEST_INDEX + 1, 12])
def test_pull_nested_indexes_are_refused_beyond_limit(
    depth: int, image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client
) -> None:
    # The image that the registry has is an index of manifests: one level more.
    inner = [image.to_json()]
    for _ in range(depth - 1):
        digest = refer(registry, "1", inner)
        inner = [{"mediaType": OCI_INDEX, "digest": digest, "size": len(registry.manifests["team/web", digest][1])}]
    if depth > DEEPEST_INDEX:
        with pytest.raises(StoreError, match="indexes within each other"):
            pull(other, TARGET, remote)
    else:
        pull(other, TARGET, remote)
        assert other.has(image.digest)


def test_pull_index_of_non_image_is_refused(other: Store, registry: Registry, remote: Client) -> None:
    refer(registry, "1", [{"mediaType": "text/plain", "digest": digest_of(b"x"), "size": 1}])
    with pytest.raises(StoreError, match="text/plain, which is not an image"):
        pull(other, TARGET, remote)


def test_pull_manifest_size_differing_from_index_is_refused(
    image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client
) -> None:
    entries = store.json(image.digest)["manifests"]
    entries[0]["size"] += 1
    refer(registry, "1", entries)
    with pytest.raises(StoreError, match=re.escape(f"manifest {entries[0]['digest']} has")):
        pull(other, TARGET, remote)


def test_pull_image_not_admitted_requests_no_blobs(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    def refuse(_: Client, reference: Reference) -> Admitted:
        raise StoreError(f"{reference.digest} is not signed")

    with pytest.raises(StoreError, match=f"{image.digest} is not signed"):
        pull(other, TARGET, remote, admit=refuse)
    assert registry.count("GET", "/blobs/") == 0
    assert other.names() == {}


def test_push_and_pull_copy_signatures_once(image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client) -> None:
    tag = tag_of(image.digest, SIGNATURES)
    layer, config = Descriptor("text/plain", *store.put(b"signed")), Descriptor("text/plain", *store.put(b"{}"))
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [layer.to_json()]}
    store.tag(f"web:{tag}", Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))))
    assert push(store, "web:1", TARGET, remote).attachments == (tag,)
    assert registry.manifests["team/web", tag][1] == canonical_json(manifest)
    assert push(store, "web:1", TARGET, remote).attachments == ()
    assert pull(other, TARGET, remote).attachments == (tag,)
    assert other.read(layer.digest) == b"signed"
    assert pull(other, TARGET, remote).attachments == ()
