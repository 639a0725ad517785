"""Attachments of an image in the store and in a registry, by the same protocol. The registry is a stand-in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.model import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import referrers
from harness.oci.registry.client import Client
from harness.oci.registry.referrers import (
    ATTESTATIONS,
    LARGEST,
    PREDICATE,
    REFERRERS,
    SIGNATURES,
    LocalReferrers,
    ReferrerStore,
    RemoteReferrers,
    layers_of,
    merge,
    put_layers,
    referrer,
    referrers_index,
    sha256_of,
    tag_of,
)
from harness.oci.store import Store
from tests.unit.oci.standin import HOST, Registry

SUBJECT = Descriptor(OCI_MANIFEST, digest_of(b"image"), 5)
IMAGE = Reference.parse(f"{HOST}/team/web:1")


@pytest.fixture(params=["store", "registry"])
def attachments(request: pytest.FixtureRequest, tmp_path: Path, remote: Client) -> ReferrerStore:
    return LocalReferrers(Store(tmp_path), IMAGE) if request.param == "store" else RemoteReferrers(remote, IMAGE)


def test_put_layers_are_found_under_their_tag(attachments: ReferrerStore) -> None:
    tag = tag_of(SUBJECT.digest, SIGNATURES)
    assert tag == f"sha256-{SUBJECT.digest[7:]}.sig"
    assert attachments.find(tag) == ()
    layers = [attachments.keep(data, "text/plain") for data in (b"one", b"two")]
    named = put_layers(attachments, tag, layers)
    (manifest,) = attachments.find(tag)
    assert digest_of(manifest) == named.digest
    assert layers_of(manifest) == tuple(layers)
    assert [attachments.read(layer) for layer in layers] == [b"one", b"two"]
    assert attachments.find(tag_of(SUBJECT.digest, ATTESTATIONS)) == ()


def test_referrer_is_found_by_its_subject_and_replaces_its_kind(attachments: ReferrerStore) -> None:
    assert attachments.referrers(SUBJECT.digest) == ()
    for data in (b"first", b"second"):
        with attachments.changing():
            manifest = referrer(attachments, SUBJECT, "text/sbom", data, {PREDICATE: "sbom"})
    found = attachments.referrers(SUBJECT.digest)
    assert manifest.digest in [entry.digest for entry in found]
    assert {entry.artifact_type for entry in found} == {"text/sbom"}
    value = json.loads(attachments.manifest(next(entry for entry in found if entry.digest == manifest.digest)))
    assert value["subject"] == SUBJECT.to_json()
    assert [attachments.read(Descriptor.from_json(layer)) for layer in value["layers"]] == [b"second"]


def test_local_attachment_is_found_in_any_repository(tmp_path: Path) -> None:
    store = Store(tmp_path)
    tag = tag_of(SUBJECT.digest, SIGNATURES)
    here, there = (LocalReferrers(store, Reference.parse(name)) for name in ("web:1", "ghcr.io/x/web:1"))
    put_layers(there, tag, [there.keep(b"one", "text/plain")])
    assert here.find(tag) == there.find(tag) != ()
    # A name of its own, and the other one follows.
    put_layers(here, tag, [here.keep(b"two", "text/plain")])
    assert len(store.names()) == 2
    assert len(here.find(tag)) == 1
    arriving = LocalReferrers(store, Reference.parse("web:1"), {f"web:{tag_of(digest_of(b'x'), REFERRERS)}": store.names()[f"web:{tag}"]})
    assert arriving.find(tag_of(digest_of(b"x"), REFERRERS)) == here.find(tag)


def test_remote_blob_that_is_damaged_or_too_large_raises(registry: Registry, remote: Client) -> None:
    attachments = RemoteReferrers(remote, IMAGE)
    blob = attachments.keep(b"signature", "text/plain")
    registry.blobs["team/web", blob.digest] = b"signaturE"
    with pytest.raises(StoreError, match="is damaged: its bytes have another digest"):
        attachments.read(blob)
    with pytest.raises(StoreError, match=f"more than {LARGEST} are refused"):
        attachments.read(Descriptor("text/plain", blob.digest, LARGEST + 1))


def test_local_blob_of_another_size_than_its_manifest_says_raises(tmp_path: Path) -> None:
    attachments = LocalReferrers(Store(tmp_path), IMAGE)
    blob = attachments.keep(b"signature", "text/plain")
    with pytest.raises(StoreError, match="has 9 bytes, and its manifest says 8"):
        attachments.read(Descriptor("text/plain", blob.digest, 8))


def test_refer_without_a_subject_raises(tmp_path: Path) -> None:
    attachments = LocalReferrers(Store(tmp_path), IMAGE)
    with pytest.raises(StoreError, match="cannot be understood"):
        attachments.refer(canonical_json({"artifactType": "x"}))


def test_merge_gives_each_layer_once() -> None:
    def manifest(*names: str) -> bytes:
        layers = [Descriptor(OCI_LAYER_GZIP, digest_of(name.encode()), 1).to_json() for name in names]
        return canonical_json({"layers": layers})

    merged = merge([manifest("a", "b"), manifest("b", "c")])
    assert [layer.digest for layer in merged] == [digest_of(name.encode()) for name in "abc"]
    for data in (b"{}", b'{"layers": 5}', b'{"layers": [5]}'):
        with pytest.raises(StoreError, match="cannot be understood"):
            merge([data])


def test_referrers_index_replaces_the_entry_of_the_same_kind() -> None:
    def entry(name: str, kind: str) -> dict[str, object]:
        return {**Descriptor(OCI_MANIFEST, digest_of(name.encode()), 1).to_json(), "artifactType": "x", "annotations": {PREDICATE: kind}}

    first = referrers_index([], entry("a", "sbom"))
    second = referrers_index([first], entry("b", "provenance"))
    third = referrers_index([first, second], entry("c", "sbom"))
    value = json.loads(third)
    assert value["mediaType"] == OCI_INDEX
    assert [one["digest"] for one in value["manifests"]] == [digest_of(b"b"), digest_of(b"c")]
    with pytest.raises(StoreError, match=r"the index of referrers .* cannot be understood"):
        referrers_index([b'{"manifests": 5}'], entry("a", "sbom"))


def test_put_layers_over_the_limit_of_registries_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(referrers, "MANIFEST_LIMIT", 1000)
    attachments = LocalReferrers(Store(tmp_path), IMAGE)
    layers = [attachments.keep(bytes([number]), "text/plain") for number in range(20)]
    with pytest.raises(StoreError, match="would be larger than registries take"):
        put_layers(attachments, tag_of(SUBJECT.digest, SIGNATURES), layers)


def test_sha256_of_chunks_is_the_digest_of_the_whole() -> None:
    assert sha256_of([b"one", b"", b"two"]) == digest_of(b"onetwo")
