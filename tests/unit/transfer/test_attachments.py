"""Signatures and attestations copied between repositories of the local store."""

from __future__ import annotations

from pathlib import Path

from harness.oci.model import digest_of
from harness.oci.reference import Reference
from harness.oci.registry.referrers import ATTESTATIONS, SIGNATURES, LocalReferrers, merge, put_layers, tag_of
from harness.oci.store import Store
from harness.transfer.attachments import copy_referrers

IMAGE = digest_of(b"an image")


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
