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
from harness.oci.registry.referrers import SIGNATURES, LocalReferrers, layers_of, merge, put_layers, tag_of
from harness.oci.store import Store
from harness.trust import signature
from harness.trust.keys import PrivateKey, PublicKey
from harness.trust.signature import SIGNATURE, Demand, Minimum, RefusedError, SignatureClaim
from tests.unit.cloudimage.examples import platform_image, write
from tests.unit.trust.damage import flip


def layers(attachments: LocalReferrers, digest: str) -> tuple[Descriptor, ...]:
    return merge(attachments.find(tag_of(digest, SIGNATURES)))


def check(attachments: LocalReferrers, image: CloudImage, *keys: PrivateKey, **annotations: str) -> list[str]:
    """Who signed it."""
    found = signature.check(attachments, image.digest, Demand([key.public for key in keys], annotations))
    return [one.key.name for one in found]


def refused(attachments: LocalReferrers, image: CloudImage, *keys: PrivateKey, **annotations: str) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        check(attachments, image, *keys, **annotations)
    assert caught.value.exit_code == 4
    return caught.value


def signed_at(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> list[int | None]:
    return [one.claim.signed_at for one in signature.check(attachments, image.digest, Demand([key.public]))]


def put(attachments: LocalReferrers, image: CloudImage, key: PrivateKey, payload: bytes) -> None:
    """A signature over some payload, in place of all others."""
    blob = attachments.keep(payload, PAYLOAD)
    signed = dataclasses.replace(blob, annotations={SIGNATURE: base64.b64encode(key.sign(payload)).decode()})
    put_layers(attachments, tag_of(image.digest, SIGNATURES), [signed])


def test_sign_artifact_has_cosign_format(attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(attachments, image.digest, key, {"stage": "released"}, at=1767225600)
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
        "optional": {"stage": "released", "timestamp": 1767225600},
    }
    assert key.public.holds(base64.b64decode(layer["annotations"][SIGNATURE]), payload)
    config = store.json(manifest["config"]["digest"])
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]


def test_check_accepts_signature_by_its_own_key_only(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    signature.sign(attachments, image.digest, key)
    assert check(attachments, image, key) == ["ours.key"]
    assert check(attachments, image, other, key) == ["ours.key"]
    error = refused(attachments, image, other)
    assert "not by any of the keys other.key" in error.message
    assert image.digest in error.message


def test_check_unsigned_image_is_refused_with_hint(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    error = refused(attachments, image, key)
    assert f"{image.digest} is not signed" in error.message
    assert "docker.io/library/web" in error.message
    assert "slipway sign" in (error.hint or "")


def test_sign_same_claim_twice_keeps_first_signature(attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    first = signature.sign(attachments, image.digest, key, {"a": "1"}, at=1000)
    assert signature.sign(attachments, image.digest, key, {"a": "1"}, at=2000) == first
    assert signed_at(attachments, image, key) == [1000]


def test_sign_with_again_renews_time_of_signing(attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(attachments, image.digest, key, at=1000)
    signature.sign(attachments, image.digest, key, at=2000, again=True)
    assert signed_at(attachments, image, key) == [2000]


def test_sign_replaces_signature_without_time(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    put(attachments, image, key, SignatureClaim(image.digest, attachments.repository).payload())
    assert signed_at(attachments, image, key) == [None]
    signature.sign(attachments, image.digest, key, at=1000)
    assert signed_at(attachments, image, key) == [1000]


@pytest.mark.parametrize(
    ("value", "seconds", "annotations"),
    [
        (1767225600, 1767225600, {}),
        ("1767225600", 1767225600, {}),
        (None, None, {"timestamp": "None"}),
        (True, None, {"timestamp": "True"}),
        (1.5, None, {"timestamp": "1.5"}),
        (-1, None, {"timestamp": "-1"}),
        ("yesterday", None, {"timestamp": "yesterday"}),
        (253402300800, None, {"timestamp": "253402300800"}),
        ("9" * 5000, None, {"timestamp": "9" * 5000}),
    ],
)
def test_claim_parse_timestamp_in_seconds_is_time_and_other_value_is_annotation(
    value: object, seconds: int | None, annotations: dict[str, str]
) -> None:
    """As the specification has it, or as ``cosign sign -a timestamp=$(date +%s)`` writes it."""
    payload = json.loads(SignatureClaim("sha256:1", "x").payload()) | {"optional": {"timestamp": value}}
    assert SignatureClaim.parse(json.dumps(payload).encode()) == SignatureClaim("sha256:1", "x", annotations, seconds)


@pytest.mark.parametrize(
    ("text", "claim", "reason"),
    [
        ("2.3.0", {"version": "2.3.0"}, None),
        ("2.3", {"version": "v2.10.1"}, None),
        ("2.3.0", {"version": "2.2.9"}, "as version=2.2.9, and it must be 2.3.0 or newer"),
        ("2.3.0", {"version": "2.3.0-rc.1"}, "as version=2.3.0-rc.1, and it must be"),
        ("2.3.0-rc.1", {"version": "2.3.0-rc.2"}, None),
        ("2.3.0", {"version": "newest\x1b"}, r"is not a version"),
        ("2.3.0", {}, "without the annotation version, and it must be 2.3.0 or newer"),
        ("2026-01-01", {}, None),
        ("2026-01-01T00:00:01Z", {}, "at 2026-01-01 00:00:00 UTC, and it must be since 2026-01-01T00:00:01Z"),
        ("2026-01-01T02:00:00+02:00", {}, None),
    ],
)
def test_minimum_version_or_day_is_compared_with_claim(text: str, claim: dict[str, str], reason: str | None) -> None:
    said = Minimum.parse(text).lacks(SignatureClaim("sha256:1", "x", claim, 1767225600))
    assert (said is None) if reason is None else (reason in str(said) and "\x1b" not in str(said))


def test_minimum_day_without_time_of_signing_is_not_met() -> None:
    assert "without a time" in str(Minimum.parse("2026-01-01").lacks(SignatureClaim("sha256:1", "x")))


@pytest.mark.parametrize("text", ["", "newest", "2026-13-01", "2026-01-01x", ">=2.3"])
def test_minimum_parse_invalid_text_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Minimum.parse(text)


def test_sign_with_same_key_replaces_its_own_signature_only(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    signature.sign(attachments, image.digest, key, {"stage": "test"})
    signature.sign(attachments, image.digest, other)
    signature.sign(attachments, image.digest, key, {"stage": "released"})
    assert len(layers(attachments, image.digest)) == 2
    assert sorted(check(attachments, image, key, other)) == ["other.key", "ours.key"]
    check(attachments, image, key, stage="released")
    assert "stage=test" in refused(attachments, image, key, stage="test").message


def test_sign_same_payload_by_two_keys_keeps_both(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    for pair in (key, other, key):
        signature.sign(attachments, image.digest, pair, at=1_000)
    found = layers(attachments, image.digest)
    assert len(found) == 2
    assert len({layer.digest for layer in found}) == 1
    assert check(attachments, image, key) == ["ours.key"]
    assert check(attachments, image, other) == ["other.key"]


def test_sign_keeps_foreign_signatures_unchanged(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    blob = attachments.keep(b'{"critical":{}}', PAYLOAD)
    theirs = dataclasses.replace(blob, annotations={SIGNATURE: "AAAA", "dev.sigstore.cosign/certificate": "PEM"})
    put_layers(attachments, tag_of(image.digest, SIGNATURES), [theirs])
    signature.sign(attachments, image.digest, key)
    assert layers(attachments, image.digest)[0] == theirs
    assert check(attachments, image, key) == ["ours.key"]


def test_check_requires_annotations_in_signed_payload(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(attachments, image.digest, key, {"stage": "released", "team": "db"})
    check(attachments, image, key, stage="released")
    error = refused(attachments, image, key, stage="released", team="web")
    assert "without the annotation team=web (there: stage=released, team=db)" in error.message


def test_check_signature_moved_from_another_image_is_refused(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey
) -> None:
    another = write(store, platform_image(store, info=cloudimage.Info(type="app")), name="db")
    moved = signature.sign(LocalReferrers(store, Reference.parse("db")), another.digest, key)
    store.tag(f"web:{tag_of(image.digest, SIGNATURES)}", moved)
    error = refused(attachments, image, key)
    assert f"ours.key signed another digest: {another.digest}, as docker.io/library/db" in error.message


def test_check_finds_signature_from_other_repository_name(
    store: Store, attachments: LocalReferrers, image: CloudImage, key: PrivateKey
) -> None:
    signature.sign(attachments, image.digest, key)
    elsewhere = LocalReferrers(store, Reference.parse("ghcr.io/acme/web:1"))
    assert check(elsewhere, image, key) == ["ours.key"]


def test_sign_under_other_name_joins_existing_signature(
    store: Store, attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    signature.sign(attachments, image.digest, key)
    signature.sign(LocalReferrers(store, Reference.parse("ghcr.io/acme/web:1")), image.digest, other)
    tag = tag_of(image.digest, SIGNATURES)
    names = store.names()
    assert names[f"web:{tag}"].digest == names[f"ghcr.io/acme/web:{tag}"].digest
    assert sorted(check(attachments, image, key, other)) == ["other.key", "ours.key"]


# Damage


def test_check_damaged_payload_is_refused(attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(attachments, image.digest, key)
    (layer,) = layers(attachments, image.digest)
    flip(store, layer.digest, 20)
    error = refused(attachments, image, key)
    assert f"blob {layer.digest}" in error.message
    assert "damaged" in error.message


def test_check_damaged_signature_manifest_is_refused(attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    descriptor = signature.sign(attachments, image.digest, key)
    flip(store, descriptor.digest, 30)
    error = refused(attachments, image, key)
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
def test_check_changed_signature_in_new_manifest_is_refused(
    change: Any, message: str, attachments: LocalReferrers, image: CloudImage, key: PrivateKey
) -> None:
    """Somebody who can write to the registry can make a manifest that is whole; not a signature."""
    signature.sign(attachments, image.digest, key)
    (layer,) = layers(attachments, image.digest)
    put_layers(attachments, tag_of(image.digest, SIGNATURES), [dataclasses.replace(layer, annotations=change(layer.annotations))])
    assert message in refused(attachments, image, key).message


def test_check_changed_payload_in_new_manifest_is_refused(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey
) -> None:
    another = "sha256:" + "7" * 64
    signature.sign(attachments, another, key)
    (layer,) = layers(attachments, another)
    changed = attachments.keep(store.read(layer.digest).replace(another.encode(), image.digest.encode()), PAYLOAD)
    put_layers(attachments, tag_of(image.digest, SIGNATURES), [dataclasses.replace(changed, annotations=layer.annotations)])
    assert "not by any of the keys" in refused(attachments, image, key).message


def test_check_signed_payload_of_other_kind_is_refused(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    claim = SignatureClaim(image.digest, "web").payload()
    for payload in (b"{}", b"not JSON", b"[]", claim.replace(b"cosign container", b"another")):
        put(attachments, image, key, payload)
        assert "signed something that is not an image" in refused(attachments, image, key).message


def test_check_layer_of_other_media_type_is_refused(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    claim = SignatureClaim(image.digest, "web").payload()
    blob = attachments.keep(claim, "text/plain")
    signed = dataclasses.replace(blob, annotations={SIGNATURE: base64.b64encode(key.sign(claim)).decode()})
    put_layers(attachments, tag_of(image.digest, SIGNATURES), [signed])
    assert "type text/plain, which is not a signature" in refused(attachments, image, key).message


def test_check_oversized_payload_is_refused(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    put_layers(attachments, tag_of(image.digest, SIGNATURES), [Descriptor(PAYLOAD, "sha256:" + "0" * 64, 1 << 40, {SIGNATURE: "AAAA"})])
    assert "no payload of a signature is so large" in refused(attachments, image, key).message


def test_check_malformed_signature_manifest_is_refused(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    for value in ({"schemaVersion": 2}, {"schemaVersion": 2, "layers": [{"digest": "x"}]}):
        attachments.name(tag_of(image.digest, SIGNATURES), canonical_json(value), OCI_MANIFEST)
        assert "cannot be understood" in refused(attachments, image, key).message


def test_check_gives_nearest_reason_and_lists_others(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    signature.sign(attachments, image.digest, other)
    signature.sign(attachments, image.digest, key)
    error = refused(attachments, image, key, stage="released")
    assert "without the annotation stage=released (there: none)" in error.message
    assert "a signature by an unknown key" in (error.details or "")


def test_claim_parse_cosign_payload_in_other_spelling_is_read() -> None:
    text = b'{ "critical": {"type": "cosign container image signature", "identity": {"docker-reference": "x"}, '
    text += b'"image": {"docker-manifest-digest": "sha256:1"}}, "optional": null }'
    assert SignatureClaim.parse(text) == SignatureClaim("sha256:1", "x", {})


@pytest.mark.parametrize(
    "data", [b"[]", b"5", b"{", b"{}", b'{"layers": 5}', b'{"layers": [5]}', b'{"layers": ' + b"[" * 9999, b'{"layers": [{"size": 1e999}]}']
)
def test_layers_of_malformed_manifest_raises_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="attachment sha256:"):
        layers_of(data)


@pytest.mark.parametrize(
    "data", [b"[]", b"{", b'{"critical": 5}', b'{"critical": {"type": []}}', b"[" * 9999, b'{"critical": {}, "optional": 1e999}', b"\xff"]
)
def test_claim_parse_malformed_payload_raises_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="it is"):
        SignatureClaim.parse(data)


def test_sign_with_copied_key_file_replaces_signature_of_same_key(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    signature.sign(attachments, image.digest, key, {"n": "1"})
    signature.sign(attachments, image.digest, PrivateKey("copy.key", key.key), {"n": "2"})
    (one,) = signature.check(attachments, image.digest, Demand([PublicKey("elsewhere.pub", key.public.pem)]))
    assert (one.key.name, dict(one.claim.annotations)) == ("elsewhere.pub", {"n": "2"})
