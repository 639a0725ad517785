"""What is attached to an image: which documents, about what, by whom; and what is refused of it."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cloudimage import CloudImage
from harness.errors import UsageError
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.registry import referrers
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.statement import IN_TOTO
from harness.oci.store import Store
from harness.trust import attached_documents, attestation, provenance, results, sbom
from harness.trust.attached_documents import check, documents
from harness.trust.keys import PrivateKey
from harness.trust.results import SuiteRun
from harness.trust.signature import RefusedError
from tests.unit.trust.damage import flip

OTHER = digest_of(b"another image")


def result(digest: str, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"passed": ["test_one"], **changes}
    run = SuiteRun(digest, "linux/amd64", "1.2.3", **facts)
    return attestation.statement("docker.io/library/web", digest, results.PREDICATE, run.predicate())


def attach(attachments: LocalReferrers, digest: str, value: dict[str, Any], key: PrivateKey) -> None:
    attestation.attach(attachments, digest, value, key)


def test_type_of_and_name_of_map_short_names_and_refuse_others() -> None:
    assert attached_documents.NAMES == {"test-result": results.PREDICATE, "sbom": sbom.PREDICATE, "provenance": provenance.PREDICATE}
    assert attached_documents.type_of("sbom") == sbom.PREDICATE
    assert attached_documents.type_of("https://example.com/mine/v1") == "https://example.com/mine/v1"
    assert attached_documents.name_of(results.PREDICATE) == "test-result"
    for wrong in ("tests", "https://a b", "https://\x1b[2J", ""):
        with pytest.raises(UsageError, match="not a type of predicates"):
            attached_documents.type_of(wrong)


def test_documents_lists_attestations_and_referrers_with_signature_state(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    attach(attachments, image.digest, result(image.digest), key)
    attach(attachments, image.digest, attestation.statement("web", image.digest, sbom.PREDICATE, {}), other)
    referrers.referrer(attachments, store.resolve("web"), sbom.MEDIA_TYPE, b"{}", {referrers.PREDICATE: sbom.PREDICATE})
    data = canonical_json(result(image.digest))
    referrers.referrer(attachments, store.resolve("web"), IN_TOTO, data, {referrers.PREDICATE: results.PREDICATE})
    found = [
        (one.kind, attached_documents.name_of(one.predicate_type), one.signature)
        for one in documents(attachments, image.digest, [key.public])
    ]
    assert found == [
        ("attestation", "test-result", "ours.key"),
        ("attestation", "sbom", "not verified"),
        ("referrer", "sbom", "no"),
        ("referrer", "test-result", "no"),
    ]
    tested, *_, plain = documents(attachments, image.digest)
    assert tested.result == plain.result == "PASSED: 1 passed, 0 failed, 0 skipped on linux/amd64"
    assert tested.signature == "not verified"
    assert tested.to_json()["result"] == tested.result


def test_documents_attestation_about_another_image_is_refused_without_content(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey
) -> None:
    attach(attachments, image.digest, result(OTHER), key)
    (found,) = documents(attachments, image.digest, [key.public])
    assert (found.statement, found.key, found.result) == (None, None, None)
    assert f"is about {OTHER}, not about {image.digest}" in str(found.to_json()["refused"])
    with pytest.raises(RefusedError, match=f"is about {OTHER}"):
        check("web", [found])


def test_documents_referrer_about_another_image_is_refused(attachments: LocalReferrers, store: Store, image: CloudImage) -> None:
    """Listed under this image by whoever writes the list."""
    elsewhere = Descriptor(OCI_INDEX, OTHER, 7)
    entry = referrers.referrer(attachments, elsewhere, sbom.MEDIA_TYPE, b"{}", {referrers.PREDICATE: sbom.PREDICATE})
    index = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json()]})
    attachments.name(referrers.tag_of(image.digest, ""), index, OCI_INDEX)
    (found,) = documents(attachments, image.digest)
    assert found.refused is not None
    assert f"a referrer is about {OTHER}" in found.refused.message


def test_documents_referrer_with_statement_about_another_image_is_refused(
    attachments: LocalReferrers, store: Store, image: CloudImage
) -> None:
    data = canonical_json(result(OTHER))
    referrers.referrer(attachments, store.resolve("web"), IN_TOTO, data, {referrers.PREDICATE: results.PREDICATE})
    (found,) = documents(attachments, image.digest)
    assert (found.statement, found.refused is not None) == (None, True)


def test_documents_damaged_attestation_is_refused_and_others_are_listed(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    attach(attachments, image.digest, result(image.digest), key)
    attach(attachments, image.digest, result(image.digest), other)
    first, _ = documents(attachments, image.digest)
    flip(store, first.digest)
    broken, good = documents(attachments, image.digest, [other.public])
    assert broken.refused is not None
    assert good.key == other.public


def test_documents_wrong_type_annotation_is_overruled_by_statement(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    attach(attachments, image.digest, attestation.statement("web", image.digest, "https://example.com/other", {}), key)
    (layer,) = referrers.merge(attachments.find(referrers.tag_of(image.digest, ".att")))
    lying = Descriptor(layer.media_type, layer.digest, layer.size, {"predicateType": results.PREDICATE})
    referrers.put_layers(attachments, referrers.tag_of(image.digest, ".att"), [lying])
    (found,) = documents(attachments, image.digest, [key.public])
    assert found.predicate_type == "https://example.com/other"
    with pytest.raises(RefusedError, match="no attestation of type test-result is signed"):
        check("web", [found], [results.PREDICATE])


def test_documents_layer_of_other_media_type_is_ignored(attachments: LocalReferrers, image: CloudImage) -> None:
    referrers.put_layers(attachments, referrers.tag_of(image.digest, ".att"), [attachments.keep(b"x", OCI_MANIFEST)])
    assert documents(attachments, image.digest) == ()


def test_check_wants_each_type_signed_by_a_key(attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey) -> None:
    attach(attachments, image.digest, result(image.digest), key)
    found = documents(attachments, image.digest, [key.public])
    assert check("web", found) == check("web", found, [results.PREDICATE]) == found
    with pytest.raises(RefusedError, match="no attestation of type sbom is signed by any of the keys"):
        check("web", found, [results.PREDICATE, sbom.PREDICATE])
    with pytest.raises(RefusedError, match="no attestation is signed by any of the keys"):
        check("web", documents(attachments, image.digest, [other.public]))
    with pytest.raises(RefusedError, match="no attestation is signed"):
        check("web", [])


def test_check_refuses_tests_that_failed(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    attach(attachments, image.digest, result(image.digest, failed=["test_two"]), key)
    with pytest.raises(RefusedError, match="the tests did not pass: FAILED: 1 passed, 1 failed"):
        check("web", documents(attachments, image.digest, [key.public]), [results.PREDICATE])


def test_attach_results_keeps_newest_of_each_suite(attachments: LocalReferrers, image: CloudImage, key: PrivateKey) -> None:
    for changes in ({}, {"suite": "conformance"}, {"passed": ["test_one", "test_two"]}):
        attach(attachments, image.digest, result(image.digest, **changes), key)
    found = documents(attachments, image.digest, [key.public])
    assert sorted((one.proves("image", signed=True), one.proves("conformance", signed=True)) for one in found) == [
        (False, True),
        (True, False),
    ]
    assert "PASSED: 2 passed, 0 failed, 0 skipped on linux/amd64" in [one.result for one in found]
