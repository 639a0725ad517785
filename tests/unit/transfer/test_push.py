"""What a push sends, in which order, and what is left when it ends early. The registry is a stand-in."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Blob, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.errors import StoreError
from harness.oci.attached import ENVELOPE
from harness.oci.graph import DEEPEST_INDEX, closure, is_manifest
from harness.oci.model import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import LocalReferrers, put_layers, referrer, tag_of
from harness.oci.statement import IN_TOTO
from harness.oci.store import Store
from harness.transfer.pull import pull
from harness.transfer.push import TakenError, present, push
from tests.unit.oci.archive.test_load import nested
from tests.unit.oci.standin import HOST, Asked, Registry, answer
from tests.unit.transfer.images import AMD64, TARGET, blobs_of, make


def test_push_sends_blobs_before_manifests_and_tag_last(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    pushed = push(store, "web:1", TARGET, remote)
    assert (pushed.digest, pushed.uploaded, pushed.mounted, pushed.present) == (image.digest, len(blobs_of(store, image)), 0, 0)
    puts = [line for line in registry.lines if line.startswith("PUT ")]
    kinds = ["blob" if "/blobs/" in line else line.rpartition("/manifests/")[2].partition(":")[0] for line in puts]
    assert kinds == ["blob"] * pushed.uploaded + ["sha256", "sha256", "1"]
    assert pushed.sent == sum(blob.size for blob in closure(store, image))
    for blob in closure(store, image):
        where: Any = registry.manifests if is_manifest(blob) else registry.blobs
        assert ("team/web", blob.digest) in where


def test_push_again_takes_one_request(store: Store, registry: Registry, remote: Client) -> None:
    make(store)
    push(store, "web:1", TARGET, remote)
    registry.asked.clear()
    again = push(store, "web:1", TARGET, remote)
    assert (again.sent, again.uploaded) == (0, 0)
    assert registry.lines == ["HEAD /v2/team/web/manifests/1"]


def test_push_changed_image_sends_changed_blobs_only(store: Store, registry: Registry, remote: Client) -> None:
    one = make(store)
    push(store, "web:1", TARGET, remote)
    two = make(store, "web:2", changed="now")
    new = {blob for blob in closure(store, two) if blob not in closure(store, one)}
    registry.asked.clear()
    pushed = push(store, "web:2", TARGET, remote)
    assert pushed.sent == sum(blob.size for blob in new)
    assert registry.count("HEAD", "/blobs/") == pushed.uploaded == sum(not is_manifest(blob) for blob in new)


def test_push_over_unreadable_remote_image_uploads_all_blobs(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    registry.manifests["team/web", "1"] = (OCI_MANIFEST, b"{}")
    assert push(store, "web:1", TARGET, remote).uploaded == len(blobs_of(store, image))
    assert registry.manifests["team/web", "1"][1] == store.read(image.digest)


def test_push_blobs_of_other_repository_are_mounted(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    push(store, "web:1", TARGET, remote)
    pushed = push(store, "web:1", Reference.parse(f"{HOST}/else/where:1"), remote)
    assert (pushed.mounted, pushed.uploaded) == (len(blobs_of(store, image)), 0)
    assert registry.manifests["else/where", "1"][1] == store.read(image.digest)


def test_push_pulled_image_to_same_registry_is_mounted(store: Store, other: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    push(store, "web:1", TARGET, remote)
    pulled = pull(other, TARGET, remote)
    assert push(other, pulled.name, Reference.parse(f"{HOST}/else/where:1"), remote).mounted == len(blobs_of(store, image))


def test_push_missing_local_blob_is_reported_before_any_request(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    store.path(min(blobs_of(store, image))).unlink()
    with pytest.raises(StoreError, match="is not whole here"):
        push(store, "web:1", TARGET, remote)
    assert registry.asked == []


def test_push_too_deeply_nested_indexes_is_refused_with_that_reason(store: Store, registry: Registry, remote: Client) -> None:
    image = nested(store, DEEPEST_INDEX + 1)[0]
    store.tag("deep", image)
    with pytest.raises(StoreError, match=rf"deep cannot be pushed: {image.digest}: more than {DEEPEST_INDEX} indexes within each other"):
        push(store, "deep", TARGET, remote)
    assert registry.asked == []


def test_push_damaged_local_blob_is_reported_and_sends_no_manifest(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    digest = min(blobs_of(store, image))
    store.path(digest).write_bytes(bytes(store.size(digest)))
    with pytest.raises(StoreError, match=f"{digest} in .* is damaged"):
        push(store, "web:1", TARGET, remote)
    assert registry.manifests == {}


def test_push_refused_upload_raises_its_error_and_sends_no_manifest(store: Store, registry: Registry, remote: Client) -> None:
    make(store)
    registry.spoil("PUT", "/blobs/", lambda _: answer(403, b'{"errors":[{"code":"DENIED","message":"quota"}]}'))
    with pytest.raises(RemoteError, match="403 DENIED quota") as refused:
        push(store, "web:1", TARGET, remote)
    assert "cancelled" not in refused.value.message
    assert registry.manifests == {}


def test_push_and_pull_image_of_2000_blobs_transfer_all(store: Store, registry: Registry, remote: Client, other: Store) -> None:
    data = [f"blob {number}".encode() for number in range(2000)]
    for one in data:
        store.path(digest_of(one)).write_bytes(one)
    blobs = tuple(Blob(digest_of(one), OCI_LAYER_GZIP, len(one)) for one in data)
    layer = Descriptor(OCI_LAYER_GZIP, *store.put(b"layer"))
    images = ImageSet((EmbeddedImage("docker.io/library/app:1", blobs[0].digest, OCI_MANIFEST, 6),), blobs)
    image = cloudimage.write(store, [PlatformImage(AMD64, (layer,), (layer.digest,), (), Info(), images)])
    store.tag("many:1", image)
    assert push(store, "many:1", TARGET, remote).uploaded == 2003
    assert pull(other, TARGET, remote).fetched == 2003
    assert {blob.digest for blob in closure(other, image)} == {blob.digest for blob in closure(store, image)}


def attested(store: Store, image: Descriptor) -> str:
    """Attach an attestation and a referrer to an image; the tag of the attestation."""
    shelf = LocalReferrers(store, Reference.parse("web"))
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": [{"digest": {"sha256": image.digest[7:]}}], "predicateType": "p"}
    payload = base64.b64encode(canonical_json(statement)).decode()
    envelope = {"payloadType": IN_TOTO, "payload": payload, "signatures": []}
    put_layers(shelf, tag_of(image.digest, ".att"), [shelf.keep(canonical_json(envelope), ENVELOPE)])
    referrer(shelf, image, IN_TOTO, canonical_json(statement), {})
    return tag_of(image.digest, ".att")


def test_push_sends_attachments_after_manifest_and_before_tag(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    tag = attested(store, image)
    assert tag in push(store, "web:1", TARGET, remote).attachments
    puts = [line.rpartition("/manifests/")[2] for line in registry.lines if line.startswith("PUT ") and "/manifests/" in line]
    assert puts[-1] == "1"
    # The image is there by its digest before anything refers to it.
    assert puts.index(image.digest) < puts.index(tag) < len(puts) - 1
    assert registry.manifests["team/web", "1"][1] == store.read(image.digest)


def test_push_refused_attestation_keeps_previous_tag(store: Store, registry: Registry, remote: Client) -> None:
    old = make(store)
    push(store, "web:1", TARGET, remote)
    image = make(store, "web:2", changed="now")
    tag = attested(store, image)
    registry.spoil("PUT", f"/manifests/{tag}", lambda _: answer(403, b'{"errors":[{"code":"DENIED","message":"quota"}]}'))
    with pytest.raises(RemoteError, match="403 DENIED quota"):
        push(store, "web:2", TARGET, remote)
    assert registry.manifests["team/web", "1"][1] == store.read(old.digest)


def test_push_without_replace_over_other_digest_is_refused_before_upload(store: Store, registry: Registry, remote: Client) -> None:
    old = make(store)
    push(store, "web:1", TARGET, remote, replace=False)
    assert push(store, "web:1", TARGET, remote, replace=False).sent == 0
    new = make(store, "web:2", changed="now")
    registry.asked.clear()
    with pytest.raises(TakenError, match=f"exists with other bytes: {old.digest}, and not {new.digest}"):
        push(store, "web:2", TARGET, remote, replace=False)
    assert registry.lines == ["HEAD /v2/team/web/manifests/1"]
    push(store, "web:2", TARGET, remote)
    assert registry.manifests["team/web", "1"][1] == store.read(new.digest)


def test_push_without_replace_tag_taken_meanwhile_is_refused(store: Store, registry: Registry, remote: Client) -> None:
    make(store)
    other = make(store, "web:2", changed="now")
    taken = (OCI_INDEX, store.read(other.digest))

    def take(asked: Asked) -> Any:
        registry.manifests["team/web", "1"] = taken
        return registry.well(asked)

    registry.spoil("PUT", "/manifests/sha256:", take)
    with pytest.raises(TakenError):
        push(store, "web:1", TARGET, remote, replace=False)
    assert registry.manifests["team/web", "1"] == taken


def test_present_gives_digest_of_tag_and_refuses_other_without_replace(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    assert present(TARGET, image.digest, remote, replace=False) is None
    push(store, "web:1", TARGET, remote)
    assert present(TARGET, image.digest, remote, replace=False) == image.digest
    assert present(TARGET, "sha256:0", remote) == image.digest
    with pytest.raises(TakenError):
        present(TARGET, "sha256:0", remote, replace=False)
