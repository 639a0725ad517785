"""Signatures, statements and documents beside an image, honest ones and others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage import CloudImage
from harness.oci.attached import ENVELOPE
from harness.oci.model import OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import referrers
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.statement import IN_TOTO
from harness.oci.store import Store
from harness.trust import attestation, provenance, sbom, signature
from harness.trust.keys import PrivateKey
from harness.trust.signature import Demand
from harness.website import evidence
from harness.website.evidence import Evidence
from tests.unit.cloudimage.examples import file, put
from tests.unit.website.examples import Page, page, rendered

RESULT = "https://in-toto.io/attestation/test-result/v0.1"
WEB = Reference.parse("web")


@pytest.fixture
def image(store: Store) -> CloudImage:
    return put(store, "web", [file("a")])


@pytest.fixture
def attachments(store: Store, image: CloudImage) -> LocalReferrers:
    return LocalReferrers(store, WEB)


def read(attachments: LocalReferrers, image: CloudImage, *keys: PrivateKey) -> Evidence:
    demands = [Demand([key.public for key in keys])] if keys else []
    return evidence.collect(attachments, image.digest, demands, "web")


def attach(attachments: LocalReferrers, image: CloudImage, kind: str, predicate: Mapping[str, Any], key: PrivateKey) -> None:
    attestation.attach(attachments, image.digest, attestation.statement("docker.io/library/web", image.digest, kind, predicate), key)


def refer(attachments: LocalReferrers, store: Store, media_type: str, data: bytes, predicate: str = "", name: str = "web") -> None:
    annotations = {referrers.PREDICATE: predicate} if predicate else {}
    referrers.referrer(attachments, store.resolve(name), media_type, data, annotations)


def test_evidence_signature_state_depends_on_keys(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    assert read(attachments, image, key).state == evidence.NONE
    signature.sign(attachments, image.digest, key, {"version": "1"})
    unverified = read(attachments, image)
    assert (unverified.state, unverified.signatures[0].key, unverified.signatures[0].identity) == (
        evidence.UNVERIFIED,
        "",
        "docker.io/library/web",
    )
    verified = read(attachments, image, key, other)
    assert (verified.state, verified.signatures[0].key, verified.signatures[0].annotations) == (
        evidence.VERIFIED,
        "release.key",
        (("version", "1"),),
    )
    assert verified.signatures[0].fingerprint == key.public.fingerprint
    refused = read(attachments, image, other)
    assert refused.state == evidence.REFUSED
    assert "not by any of the keys" in refused.reason
    assert [one.key for one in refused.signatures] == [""]


def test_evidence_signature_of_other_image_is_ignored_with_fault(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey
) -> None:
    elsewhere = digest_of(b"elsewhere")
    signature.sign(attachments, elsewhere, key, {})
    name = f"web:{elsewhere.replace(':', '-')}.sig"
    store.tag(f"web:{image.digest.replace(':', '-')}.sig", store.names()[name])
    found = read(attachments, image, key)
    assert (found.state, found.signatures) == (evidence.NONE, ())
    assert found.faults == ("a signature of another digest is stored as one of this image",)


def test_evidence_result_of_other_suite_is_shown_under_its_name(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey, tmp_path: Path
) -> None:
    predicate = {"result": "PASSED", "passedTests": ["a"], "failedTests": [], "slipwayTestRun": {"suite": "kubernetes-<b>e2e", "runs": []}}
    attach(attachments, image, RESULT, predicate, key)
    (document,) = read(attachments, image, key).documents
    assert (document.suite, document.meaning) == ("kubernetes-<b>e2e", "Test result: kubernetes-<b>e2e")
    markup = page(rendered(store, tmp_path, demands=lambda _: [Demand([key.public])]), "web-latest")
    assert "<b>e2e" not in markup
    text = Page(markup).text
    assert "kubernetes-<b>e2e passed" in text
    assert "Test result: kubernetes-<b>e2e passed" in text


def test_evidence_test_result_is_shown_with_signing_key(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey, tmp_path: Path
) -> None:
    predicate = {"result": "PASSED", "passedTests": ["a", "b"], "failedTests": [], "seconds": 4.5, "configuration": [{"name": "x"}]}
    attach(attachments, image, RESULT, predicate, key)
    (document,) = read(attachments, image, key).documents
    assert (document.kind, document.result, document.signed, document.key, document.ending) == (
        RESULT,
        "PASSED",
        True,
        "release.key",
        "json",
    )
    assert document.facts == (("configuration", "1"), ("failedTests", "0"), ("passedTests", "2"), ("seconds", "4.5"))
    assert json.loads(document.data or b"")["predicate"] == predicate
    text = Page(page(rendered(store, tmp_path, demands=lambda _: [Demand([key.public])]), "web-latest")).text
    assert "test-result passed" in text
    assert "Test result passed" in text
    assert "passedTests2" in text
    unverified = page(rendered(store, tmp_path), "web-latest")
    assert "test-result passed, not verified" in unverified
    assert 'class="good' not in unverified


def test_page_failed_test_result_is_marked_bad(
    store: Store, attachments: LocalReferrers, image: CloudImage, key: PrivateKey, tmp_path: Path
) -> None:
    attach(attachments, image, RESULT, {"result": "FAILED"}, key)
    assert '<li class="bad">test-result failed' in page(rendered(store, tmp_path), "web-latest")


def test_evidence_documents_are_written_once_as_files(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey, tmp_path: Path
) -> None:
    document = sbom.make(store, image, WEB)
    record = provenance.make(image, WEB)
    refer(attachments, store, sbom.MEDIA_TYPE, canonical_json(document), sbom.PREDICATE)
    attach(attachments, image, sbom.PREDICATE, document, key)
    refer(attachments, store, IN_TOTO, canonical_json(record), provenance.PREDICATE)
    attestation.attach(attachments, image.digest, record, key)
    refer(attachments, store, "text/plain", b"node-1 | boot\n")
    found = read(attachments, image, key)
    assert [(one.kind, one.ending, one.key) for one in found.documents] == [
        (sbom.PREDICATE, "cdx.json", "release.key"),
        (provenance.PREDICATE, "json", "release.key"),
        ("text/plain", "txt", ""),
    ]
    made = rendered(store, tmp_path)
    written = {path.suffixes[0]: path.read_bytes() for path in (made / "documents").iterdir()}
    assert json.loads(written[".cdx"]) == document
    assert json.loads(written[".json"]) == record
    assert written[".txt"] == b"node-1 | boot\n"
    assert page(made, "web-latest").count(">SBOM (JSON)</a>") == 1


def test_evidence_html_and_binary_documents_are_served_as_plain_text(
    attachments: LocalReferrers, store: Store, image: CloudImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refer(attachments, store, "text/html", b"<script>alert(1)</script>")
    refer(attachments, store, "image/svg+xml", b"\xff\x00")
    refer(attachments, store, "application/json", b"<script>")
    found = read(attachments, image)
    assert [(one.kind, one.ending, one.data is None) for one in found.documents] == [
        ("image/svg+xml", "txt", True),
        ("text/html", "txt", False),
    ]
    assert "is not usable JSON" in found.faults[0]
    made = rendered(store, tmp_path)
    assert {path.suffix for path in (made / "documents").iterdir()} == {".txt"}
    monkeypatch.setattr(evidence, "LARGEST", 10)
    assert [one.data for one in read(attachments, image).documents] == [None, None]


def test_evidence_statements_about_other_image_are_left_out(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey
) -> None:
    other_image = put(store, "other", [file("b")])
    statement = attestation.statement("docker.io/library/web", other_image.digest, RESULT, {"result": "PASSED"})
    attestation.attach(attachments, image.digest, statement, key)
    refer(attachments, store, IN_TOTO, canonical_json(statement), RESULT)
    found = read(attachments, image, key)
    assert found.documents == ()
    assert [fault.rpartition(" about ")[2] for fault in found.faults] == ["another digest", "another digest"]


@pytest.mark.parametrize(
    "envelope",
    [
        b"{}",
        b"[]",
        b"no json",
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "!!", "signatures": []}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "W10=", "signatures": []}',
        b'{"payloadType": "text/html", "payload": "e30=", "signatures": []}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "eyJzdWJqZWN0IjogNX0=", "signatures": 5}',
        b'{"payloadType": "application/vnd.in-toto+json", "payload": "eyJzdWJqZWN0IjogWzVdfQ==", "signatures": []}',
    ],
)
def test_evidence_invalid_envelopes_are_left_out(attachments: LocalReferrers, image: CloudImage, key: PrivateKey, envelope: bytes) -> None:
    layer = dataclasses.replace(attachments.keep(envelope, ENVELOPE), annotations={attestation.PREDICATE_TYPE: "x"})
    referrers.put_layers(attachments, referrers.tag_of(image.digest, referrers.ATTESTATIONS), [layer])
    found = read(attachments, image, key)
    assert found.documents == ()
    assert len(found.faults) == 1


def test_evidence_layers_without_signature_are_left_out(attachments: LocalReferrers, image: CloudImage) -> None:
    for suffix in (referrers.SIGNATURES, referrers.ATTESTATIONS):
        referrers.put_layers(attachments, referrers.tag_of(image.digest, suffix), [attachments.keep(b"x", "text/plain")])
    found = read(attachments, image)
    assert (found.state, len(found.faults)) == (evidence.NONE, 2)


def test_evidence_unreadable_lists_are_reported(attachments: LocalReferrers, store: Store, image: CloudImage) -> None:
    for suffix in (referrers.SIGNATURES, referrers.ATTESTATIONS, referrers.REFERRERS):
        digest, size = store.put(b"[" + suffix.encode() + b"]")
        store.tag(f"web:{referrers.tag_of(image.digest, suffix)}", Descriptor(OCI_MANIFEST, digest, size))
    found = read(attachments, image)
    assert (found.state, found.documents, len(found.faults)) == (evidence.NONE, (), 3)


def test_evidence_registry_error_is_raised(image: CloudImage) -> None:
    class Dying:
        repository = "x"

        def find(self, tag: str) -> tuple[bytes, ...]:
            raise RemoteError("it is gone")

    attachments: Any = Dying()
    with pytest.raises(RemoteError):
        evidence.collect(attachments, image.digest, [], "web")
