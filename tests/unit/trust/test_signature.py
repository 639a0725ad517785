from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import CloudImage
from harness.errors import StoreError
from harness.oci.attached import PAYLOAD
from harness.oci.model import OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.trust import signature
from harness.trust.attachments import SIGNATURES, LocalShelf, layers_of, merge, put_layers, tag_of
from harness.trust.keys import PrivateKey, PublicKey
from harness.trust.signature import SIGNATURE, Claim, Demand, RefusedError
from tests.unit.test_cloudimage import platform_image, write
from tests.unit.trust.damage import flip


def layers(shelf: LocalShelf, digest: str) -> tuple[Descriptor, ...]:
    return merge(shelf.find(tag_of(digest, SIGNATURES)))


def check(shelf: LocalShelf, image: CloudImage, *keys: PrivateKey, **annotations: str) -> list[str]:
    """Who signed it."""
    found = signature.check(shelf, image.digest, Demand([key.public for key in keys], annotations))
    return [one.key.name for one in found]


def refused(shelf: LocalShelf, image: CloudImage, *keys: PrivateKey, **annotations: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check(shelf, image, *keys, **annotations)
    assert caught.value.exit_code == 4
    return caught.value


def test_the_artifact_is_cosigns_to_the_letter(shelf: LocalShelf, store: Store, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key, {"stage": "released"})
    descriptor = store.names()[f"web:{image.digest.replace(':', '-')}.sig"]
    assert descriptor.media_type == OCI_MANIFEST
    manifest = store.json(descriptor.digest)
    assert set(manifest) == {"schemaVersion", "mediaType", "config", "layers"}
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    assert set(layer["annotations"]) == {"dev.cosignproject.cosign/signature"}
    payload = store.read(layer["digest"])
    assert json.loads(payload) == {
        "critical": {
            "identity": {"docker-reference": "docker.io/library/web"},
            "image": {"docker-manifest-digest": image.digest},
            "type": "cosign container image signature",
        },
        "optional": {"stage": "released"},
    }
    assert key.public.holds(base64.b64decode(layer["annotations"][SIGNATURE]), payload)
    config = store.json(manifest["config"]["digest"])
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]


def test_a_signature_is_told_by_its_key_and_by_no_other(shelf: LocalShelf, image: CloudImage, key: PrivateKey, other: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key)
    assert check(shelf, image, key) == ["ours.key"]
    assert check(shelf, image, other, key) == ["ours.key"]
    error = refused(shelf, image, other)
    assert "not by any of the keys other.key" in error.message
    assert image.digest in error.message


def test_an_image_without_a_signature_is_refused(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    error = refused(shelf, image, key)
    assert f"{image.digest} is not signed" in error.message
    assert "docker.io/library/web" in error.message
    assert "slipway sign" in (error.hint or "")


def test_the_same_again_changes_nothing(shelf: LocalShelf, store: Store, image: CloudImage, key: PrivateKey) -> None:
    first = signature.sign(shelf, image.digest, key, {"a": "1"})
    assert signature.sign(shelf, image.digest, key, {"a": "1"}) == first


def test_a_key_that_signs_again_replaces_its_signature(shelf: LocalShelf, image: CloudImage, key: PrivateKey, other: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key, {"stage": "test"})
    signature.sign(shelf, image.digest, other)
    signature.sign(shelf, image.digest, key, {"stage": "released"})
    assert len(layers(shelf, image.digest)) == 2
    assert sorted(check(shelf, image, key, other)) == ["other.key", "ours.key"]
    check(shelf, image, key, stage="released")
    assert "stage=test" in refused(shelf, image, key, stage="test").message


def test_two_keys_may_sign_the_same_payload(shelf: LocalShelf, image: CloudImage, key: PrivateKey, other: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key)
    signature.sign(shelf, image.digest, other)
    signature.sign(shelf, image.digest, key)
    found = layers(shelf, image.digest)
    assert len(found) == 2
    assert len({layer.digest for layer in found}) == 1
    assert check(shelf, image, key) == ["ours.key"]
    assert check(shelf, image, other) == ["other.key"]


def test_signatures_of_others_are_kept_as_they_are(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    blob = shelf.keep(b'{"critical":{}}', PAYLOAD)
    theirs = dataclasses.replace(blob, annotations={SIGNATURE: "AAAA", "dev.sigstore.cosign/certificate": "PEM"})
    put_layers(shelf, tag_of(image.digest, SIGNATURES), [theirs])
    signature.sign(shelf, image.digest, key)
    assert layers(shelf, image.digest)[0] == theirs
    assert check(shelf, image, key) == ["ours.key"]


def test_the_annotations_must_be_in_what_was_signed(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key, {"stage": "released", "team": "db"})
    check(shelf, image, key, stage="released")
    error = refused(shelf, image, key, stage="released", team="web")
    assert "without the annotation team=web (there: stage=released, team=db)" in error.message


def test_a_signature_of_another_image_moved_here_is_refused(shelf: LocalShelf, store: Store, image: CloudImage, key: PrivateKey) -> None:
    another = write(store, platform_image(store, info=cloudimage.Info(type="app")), name="db")
    moved = signature.sign(LocalShelf(store, Reference.parse("db")), another.digest, key)
    store.tag(f"web:{tag_of(image.digest, SIGNATURES)}", moved)
    error = refused(shelf, image, key)
    assert f"ours.key signed another digest: {another.digest}, as docker.io/library/db" in error.message


def test_an_image_has_its_signature_under_every_name(store: Store, shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key)
    elsewhere = LocalShelf(store, Reference.parse("ghcr.io/acme/web:1"))
    assert check(elsewhere, image, key) == ["ours.key"]


def test_a_second_signature_under_another_name_joins_the_first(
    store: Store, shelf: LocalShelf, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    signature.sign(shelf, image.digest, key)
    signature.sign(LocalShelf(store, Reference.parse("ghcr.io/acme/web:1")), image.digest, other)
    tag = tag_of(image.digest, SIGNATURES)
    names = store.names()
    assert names[f"web:{tag}"].digest == names[f"ghcr.io/acme/web:{tag}"].digest
    assert sorted(check(shelf, image, key, other)) == ["other.key", "ours.key"]


# Damage


def test_a_changed_byte_of_the_payload_is_found(shelf: LocalShelf, store: Store, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key)
    (layer,) = layers(shelf, image.digest)
    flip(store, layer.digest, 20)
    error = refused(shelf, image, key)
    assert f"blob {layer.digest}" in error.message
    assert "damaged" in error.message


def test_a_changed_byte_of_the_signature_image_is_found(shelf: LocalShelf, store: Store, image: CloudImage, key: PrivateKey) -> None:
    descriptor = signature.sign(shelf, image.digest, key)
    flip(store, descriptor.digest, 30)
    error = refused(shelf, image, key)
    assert "its signatures cannot be read" in error.message
    assert descriptor.digest in error.message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layer: {SIGNATURE: "!!" + layer[SIGNATURE]}, "is damaged: it is not base64"),
        (lambda layer: {SIGNATURE: base64.b64encode(b"0" * 70).decode()}, "not by any of the keys"),
        (lambda layer: {SIGNATURE: ""}, "not by any of the keys"),
        (lambda layer: {}, "it has no annotation dev.cosignproject"),
    ],
)
def test_a_changed_signature_in_a_new_manifest_is_refused(
    change: Any, message: str, shelf: LocalShelf, image: CloudImage, key: PrivateKey
) -> None:
    """Somebody who can write to the registry can make a manifest that is whole; not a signature."""
    signature.sign(shelf, image.digest, key)
    (layer,) = layers(shelf, image.digest)
    put_layers(shelf, tag_of(image.digest, SIGNATURES), [dataclasses.replace(layer, annotations=change(layer.annotations))])
    assert message in refused(shelf, image, key).message


def test_a_changed_payload_in_a_new_manifest_is_refused(shelf: LocalShelf, store: Store, image: CloudImage, key: PrivateKey) -> None:
    another = "sha256:" + "7" * 64
    signature.sign(shelf, another, key)
    (layer,) = layers(shelf, another)
    changed = shelf.keep(store.read(layer.digest).replace(another.encode(), image.digest.encode()), PAYLOAD)
    put_layers(shelf, tag_of(image.digest, SIGNATURES), [dataclasses.replace(changed, annotations=layer.annotations)])
    assert "not by any of the keys" in refused(shelf, image, key).message


def test_a_payload_that_was_signed_for_something_else_is_refused(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    claim = Claim(image.digest, "web").payload()
    for payload in (b"{}", b"not JSON", b"[]", claim.replace(b"cosign container", b"another")):
        blob = shelf.keep(payload, PAYLOAD)
        signed = dataclasses.replace(blob, annotations={SIGNATURE: base64.b64encode(key.sign(payload)).decode()})
        put_layers(shelf, tag_of(image.digest, SIGNATURES), [signed])
        assert "signed something that is no image" in refused(shelf, image, key).message


def test_what_is_no_signature_does_not_count_as_one(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    claim = Claim(image.digest, "web").payload()
    blob = shelf.keep(claim, "text/plain")
    signed = dataclasses.replace(blob, annotations={SIGNATURE: base64.b64encode(key.sign(claim)).decode()})
    put_layers(shelf, tag_of(image.digest, SIGNATURES), [signed])
    assert "type text/plain, which is no signature" in refused(shelf, image, key).message


def test_an_endless_payload_is_not_read(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    put_layers(shelf, tag_of(image.digest, SIGNATURES), [Descriptor(PAYLOAD, "sha256:" + "0" * 64, 1 << 40, {SIGNATURE: "AAAA"})])
    assert "no payload of a signature is so large" in refused(shelf, image, key).message


def test_an_attachment_that_is_none_is_refused(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    for value in ({"schemaVersion": 2}, {"schemaVersion": 2, "layers": [{"digest": "x"}]}):
        shelf.name(tag_of(image.digest, SIGNATURES), canonical_json(value), OCI_MANIFEST)
        assert "cannot be understood" in refused(shelf, image, key).message


def test_the_nearest_reason_is_given_and_all_are_listed(shelf: LocalShelf, image: CloudImage, key: PrivateKey, other: PrivateKey) -> None:
    signature.sign(shelf, image.digest, other)
    signature.sign(shelf, image.digest, key)
    error = refused(shelf, image, key, stage="released")
    assert "without the annotation stage=released (there: none)" in error.message
    assert "a signature by an unknown key" in (error.details or "")


def test_a_payload_of_cosign_with_other_spelling_is_understood() -> None:
    text = b'{ "critical": {"type": "cosign container image signature", "identity": {"docker-reference": "x"}, '
    text += b'"image": {"docker-manifest-digest": "sha256:1"}}, "optional": null }'
    assert Claim.parse(text) == Claim("sha256:1", "x", {})


@pytest.mark.parametrize(
    "data", [b"[]", b"5", b"{", b"{}", b'{"layers": 5}', b'{"layers": [5]}', b'{"layers": ' + b"[" * 9999, b'{"layers": [{"size": 1e999}]}']
)
def test_layers_of_something_else_is_a_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="attachment sha256:"):
        layers_of(data)


@pytest.mark.parametrize(
    "data", [b"[]", b"{", b'{"critical": 5}', b'{"critical": {"type": []}}', b"[" * 9999, b'{"critical": {}, "optional": 1e999}', b"\xff"]
)
def test_a_payload_of_something_else_is_no_claim(data: bytes) -> None:
    with pytest.raises(ValueError, match="it is"):
        Claim.parse(data)


def test_a_public_key_of_the_same_pair_in_another_file_replaces_too(shelf: LocalShelf, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key, {"n": "1"})
    signature.sign(shelf, image.digest, PrivateKey("copy.key", key.key), {"n": "2"})
    (one,) = signature.check(shelf, image.digest, Demand([PublicKey("elsewhere.pub", key.public.pem)]))
    assert (one.key.name, dict(one.claim.annotations)) == ("elsewhere.pub", {"n": "2"})
