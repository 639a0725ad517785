"""Signatures and attestations copied between repositories of the local store."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.attached import ENVELOPE
from harness.oci.model import OCI_INDEX, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.referrers import ATTESTATIONS, REFERRERS, SIGNATURES, LocalReferrers, merge, put_layers, referrer, tag_of
from harness.oci.statement import IN_TOTO, SubjectError
from harness.oci.store import Store
from harness.transfer.attachments import copy_referrers, warn

IMAGE, OTHER = digest_of(b"an image"), digest_of(b"another image")


def repository(store: Store, name: str) -> LocalReferrers:
    return LocalReferrers(store, Reference.parse(name))


def test_copy_referrers_sends_what_is_attached_once(tmp_path: Path) -> None:
    source, target = repository(Store(tmp_path / "here"), "web"), repository(Store(tmp_path / "there"), "reg.test/web")
    signature, attestation = (source.keep(data, "application/octet-stream") for data in (b"a signature", b"an attestation"))
    put_layers(source, tag_of(IMAGE, SIGNATURES), [signature])
    put_layers(source, tag_of(IMAGE, ATTESTATIONS), [attestation])
    assert copy_referrers(source, target, IMAGE) == (tag_of(IMAGE, SIGNATURES), tag_of(IMAGE, ATTESTATIONS))
    assert target.read(signature) == b"a signature"
    assert copy_referrers(source, target, IMAGE) == ()


def test_copy_referrers_keeps_what_the_target_has(tmp_path: Path) -> None:
    source, target = repository(Store(tmp_path / "here"), "web"), repository(Store(tmp_path / "there"), "reg.test/web")
    first, second = source.keep(b"first", "application/octet-stream"), target.keep(b"second", "application/octet-stream")
    tag = tag_of(IMAGE, SIGNATURES)
    put_layers(source, tag, [first])
    put_layers(target, tag, [second])
    copy_referrers(source, target, IMAGE)
    assert {layer.digest for layer in merge(target.find(tag))} == {first.digest, second.digest}


def test_copy_referrers_signature_added_by_another_process_meanwhile_is_kept(tmp_path: Path) -> None:
    source, target = repository(Store(tmp_path / "here"), "web"), repository(Store(tmp_path / "there"), "reg.test/web")
    tag = tag_of(IMAGE, SIGNATURES)
    put_layers(source, tag, [source.keep(b"first", "application/octet-stream")])

    class SlowSource(LocalReferrers):
        def read(self, blob: Descriptor) -> bytes:
            put_layers(target, tag, [target.keep(b"second", "application/octet-stream")])
            return super().read(blob)

    assert copy_referrers(SlowSource(source.store, source.reference), target, IMAGE) == (tag,)
    assert {target.read(layer) for layer in merge(target.find(tag))} == {b"first", b"second"}


def envelope(shelf: LocalReferrers, digest: str, number: int = 0) -> Descriptor:
    """An attestation about ``digest``, signed by no key: who signed it is not asked when it is copied."""
    subject = [{"name": "web", "digest": {"sha256": digest.removeprefix("sha256:")}}]
    value = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": "p", "predicate": number}
    payload = base64.b64encode(canonical_json(value)).decode()
    return shelf.keep(canonical_json({"payloadType": IN_TOTO, "payload": payload, "signatures": []}), ENVELOPE)


def two_places(tmp_path: Path) -> tuple[LocalReferrers, LocalReferrers]:
    return repository(Store(tmp_path / "here"), "web"), repository(Store(tmp_path / "there"), "reg.test/web")


def test_copy_referrers_attestation_about_another_image_raises_and_sends_none(tmp_path: Path) -> None:
    source, target = two_places(tmp_path)
    tag = tag_of(IMAGE, ATTESTATIONS)
    put_layers(source, tag, [envelope(source, IMAGE), envelope(source, OTHER)])
    with pytest.raises(SubjectError, match=f"is about {OTHER}, not about {IMAGE}"):
        copy_referrers(source, target, IMAGE)
    assert target.find(tag) == ()


def test_copy_referrers_attestation_about_another_image_is_skipped_with_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = two_places(tmp_path)
    tag = tag_of(IMAGE, ATTESTATIONS)
    good, bad = envelope(source, IMAGE), envelope(source, OTHER)
    put_layers(source, tag, [bad, good])
    assert copy_referrers(source, target, IMAGE, refused=warn) == (tag,)
    assert merge(target.find(tag)) == (good,)
    with pytest.raises(StoreError):
        target.read(bad)
    assert f"refused: an attestation of type p is about {OTHER}" in capsys.readouterr().err
    # The next pull refuses it again, and changes nothing.
    assert copy_referrers(source, target, IMAGE, refused=warn) == ()


def test_copy_referrers_merges_attestations_of_source_and_target(tmp_path: Path) -> None:
    source, target = two_places(tmp_path)
    tag = tag_of(IMAGE, ATTESTATIONS)
    first, second = envelope(target, IMAGE, 1), envelope(source, IMAGE, 2)
    put_layers(target, tag, [first])
    put_layers(source, tag, [second])
    copy_referrers(source, target, IMAGE)
    assert merge(target.find(tag)) == (first, second)


def test_copy_referrers_referrer_about_another_image_is_skipped_with_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A registry lists it under this image; stored, it would be attached to the other one."""
    source, target = two_places(tmp_path)
    entry = referrer(source, Descriptor(OCI_INDEX, OTHER, 7), "application/x", b"{}", {})
    index = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json()]})
    source.name(tag_of(IMAGE, REFERRERS), index, OCI_INDEX)
    assert copy_referrers(source, target, IMAGE, refused=warn) == ()
    assert target.store.names() == {}
    assert f"a referrer is about {OTHER}" in capsys.readouterr().err
    with pytest.raises(SubjectError):
        copy_referrers(source, target, IMAGE)
