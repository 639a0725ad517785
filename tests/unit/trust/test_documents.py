"""Provenance and attestations: what they say, that they say it the same way each time, and where they are attached."""

from __future__ import annotations

import base64
import json

import pytest

from harness import cloudimage
from harness.cloudimage import CloudImage, History, ImageSet, Info, ProvingRun, listing
from harness.errors import StoreError
from harness.oci.garbage import collect
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import referrers
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import attestation, provenance, sbom
from harness.trust.keys import PrivateKey
from tests.unit.cloudimage.examples import AMD64, platform_image, write
from tests.unit.trust.damage import flip

WEB = Reference.parse("web")


# Provenance


def built(store: Store) -> CloudImage:
    history = (
        History("ARG BASE_SECRET=1"),
        History("FROM scratch"),
        History("COPY base .", "a" * 64),
        History("ARG TOKEN=hunter2 REGION"),
        History("FROM kubernetes"),
        History("ARG PASSWORD='x y'"),
        History("COPY . manifests", "b" * 64),
    )
    empty = tuple(History(one.created_by, one.step, empty=not one.step) for one in history)
    return write(store, platform_image(store, history=empty))


def test_provenance_lists_subject_kubefile_steps_and_dependencies(store: Store) -> None:
    image = built(store)
    found = provenance.make(image, WEB)
    assert (found["_type"], found["predicateType"]) == ("https://in-toto.io/Statement/v1", "https://slsa.dev/provenance/v1")
    assert found["subject"] == [{"name": "docker.io/library/web", "digest": {"sha256": image.digest.removeprefix("sha256:")}}]
    definition = found["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "kubefile": {"linux/amd64": ["ARG TOKEN REGION", "FROM kubernetes", "ARG PASSWORD", "COPY . manifests"]},
        "buildArgs": ["PASSWORD", "REGION", "TOKEN"],
        "platforms": ["linux/amd64"],
    }
    assert [step["id"] for step in definition["internalParameters"]["steps"]["linux/amd64"]] == ["a" * 64, "b" * 64]
    dependencies = {one["name"]: one for one in definition["resolvedDependencies"]}
    assert dependencies["base CloudImage"]["digest"] == {"sha256": digest_of(b"base").removeprefix("sha256:")}
    assert dependencies["build context and Kubefile for linux/amd64"]["digest"] == {"sha256": "b" * 64}
    nginx = next(one for one in image.platforms[0].images.images if "nginx" in one.name)
    assert dependencies["docker.io/library/nginx:1.25"]["digest"] == {"sha256": nginx.digest.removeprefix("sha256:")}
    assert found["predicate"]["runDetails"]["builder"]["id"].startswith("https://")


def test_provenance_of_proven_application_names_cluster_image_and_exercise(store: Store) -> None:
    on, exercise = {"reference": "kubernetes:latest", "digest": digest_of(b"cluster")}, digest_of(b"exercise")
    info = Info(type="app", proven=ProvingRun(on, exercise))
    definition = provenance.make(write(store, platform_image(store, info=info)), WEB)["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["provingRuns"] == {"linux/amd64": {"on": on, "exercise": exercise}}
    (dependency,) = (one for one in definition["resolvedDependencies"] if one["name"] == "CloudImage of the throw-away cluster")
    assert dependency["digest"] == {"sha256": on["digest"].removeprefix("sha256:")}
    assert dependency["uri"].startswith("pkg:oci/kubernetes@sha256")


def test_provenance_omits_values_of_build_arguments(store: Store) -> None:
    text = canonical_json(provenance.make(built(store), WEB))
    assert b"hunter2" not in text
    assert b"x y" not in text
    assert b"BASE_SECRET" not in text


def test_provenance_same_image_gives_same_bytes(store: Store) -> None:
    image = built(store)
    assert canonical_json(provenance.make(image, WEB)) == canonical_json(provenance.make(cloudimage.read(store, "web"), WEB))


def test_provenance_image_without_history_has_no_kubefile_lines_or_dependencies(store: Store) -> None:
    image = write(store, platform_image(store, AMD64, history=(), info=Info(type="app"), images=ImageSet()))
    definition = provenance.make(image, WEB)["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["kubefile"] == {"linux/amd64": []}
    assert definition["resolvedDependencies"] == []


# Attestations


def envelopes(attachments: LocalReferrers, digest: str) -> list[Descriptor]:
    return list(referrers.merge(attachments.find(referrers.tag_of(digest, referrers.ATTESTATIONS))))


def test_attach_attestation_has_cosign_format(attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    value = provenance.make(image, WEB)
    attestation.attach(attachments, image.digest, value, key)
    (layer,) = store.json(store.names()[f"web:{image.digest.replace(':', '-')}.att"].digest)["layers"]
    assert layer["mediaType"] == "application/vnd.dsse.envelope.v1+json"
    assert layer["annotations"] == {"dev.cosignproject.cosign/signature": "", "predicateType": "https://slsa.dev/provenance/v1"}
    envelope = store.json(layer["digest"])
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(base64.b64decode(envelope["payload"])) == value
    payload = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    assert key.public.holds(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


def test_attach_statement_replaces_one_of_same_type_and_key_only(
    attachments: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey
) -> None:
    one, two, bill = ({"predicateType": kind, "n": n} for kind, n in (("p", 1), ("p", 2), ("b", 1)))
    first = attestation.attach(attachments, image.digest, one, key)
    assert attestation.attach(attachments, image.digest, one, key) == first
    attestation.attach(attachments, image.digest, bill, key)
    attestation.attach(attachments, image.digest, one, other)
    attestation.attach(attachments, image.digest, two, key)
    found = [(layer, attachments.read(layer)) for layer in envelopes(attachments, image.digest)]
    by_us = [
        inside["n"] for layer, data in found if (inside := attestation.open_envelope(data, key.public)) and inside["predicateType"] == "p"
    ]
    assert (len(found), by_us) == (3, [2])


def test_open_envelope_opens_with_signing_key_only(key: PrivateKey, other: PrivateKey) -> None:
    data = attestation.envelope({"a": 1}, key)
    assert attestation.open_envelope(data, key.public) == {"a": 1}
    assert attestation.open_envelope(data, other.public) is None
    value = json.loads(data)
    value["payload"] = base64.b64encode(b'{"a":2}').decode()
    assert attestation.open_envelope(canonical_json(value), key.public) is None
    for broken in (b"{}", b"[]", b"x", canonical_json({**value, "payloadType": "text/plain"})):
        with pytest.raises(StoreError, match="not a signed statement"):
            attestation.open_envelope(broken, key.public)


def test_attach_beside_damaged_envelope_adds_new_statement(
    attachments: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey
) -> None:
    attestation.attach(attachments, image.digest, {"predicateType": "p", "n": 1}, key)
    (layer,) = envelopes(attachments, image.digest)
    flip(store, layer.digest)
    attestation.attach(attachments, image.digest, {"predicateType": "p", "n": 2}, key)
    found = [attestation.open_envelope(attachments.read(one), key.public) for one in envelopes(attachments, image.digest) if one != layer]
    assert found == [{"predicateType": "p", "n": 2}]


# Referrers


def test_referrer_has_oci_referrers_format(attachments: LocalReferrers, store: Store, image: CloudImage) -> None:
    subject = store.resolve("web")
    referrers.referrer(attachments, subject, sbom.MEDIA_TYPE, b'{"bom": 1}', {referrers.PREDICATE: sbom.PREDICATE})
    name = f"web:{image.digest.replace(':', '-')}"
    index = store.json(store.names()[name].digest)
    assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
    (entry,) = index["manifests"]
    assert (entry["mediaType"], entry["artifactType"]) == (OCI_MANIFEST, "application/vnd.cyclonedx+json")
    assert entry["annotations"] == {"in-toto.io/predicate-type": "https://cyclonedx.org/bom"}
    manifest = store.json(entry["digest"])
    assert manifest["subject"] == {"mediaType": OCI_INDEX, "digest": image.digest, "size": subject.size}
    assert manifest["artifactType"] == "application/vnd.cyclonedx+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert manifest["config"]["digest"] == digest_of(b"{}")
    assert store.read(manifest["layers"][0]["digest"]) == b'{"bom": 1}'
    assert "artifactType" not in store.json(image.digest)


def test_referrer_new_document_replaces_one_of_same_kind_only(attachments: LocalReferrers, store: Store, image: CloudImage) -> None:
    subject = store.resolve("web")
    for kind, data in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"3")):
        referrers.referrer(attachments, subject, "application/x", data, {referrers.PREDICATE: kind})
    found = attachments.referrers(image.digest)
    assert [store.read(referrers.layers_of(attachments.manifest(one))[0].digest) for one in found] == [b"2", b"3"]


def test_referrer_is_not_listed_as_image_and_survives_collect(attachments: LocalReferrers, store: Store, image: CloudImage) -> None:
    referrers.referrer(attachments, store.resolve("web"), sbom.MEDIA_TYPE, b"{}", {})
    assert [row.name for row in listing.images(store)] == ["web:latest"]
    blobs = len(list((store.root / "blobs/sha256").iterdir()))
    assert not collect(store).blobs
    assert len(list((store.root / "blobs/sha256").iterdir())) == blobs
