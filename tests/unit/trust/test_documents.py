"""SBOM, provenance and attestations: what they say, that they say it the same way each time, and where they are attached."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from harness import cloudimage
from harness.cloudimage import Blob, CloudImage, EmbeddedImage, History, ImageSet, Info, listing
from harness.errors import StoreError
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import referrers
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import attestation, provenance, sbom
from harness.trust.keys import PrivateKey
from tests.unit.cloudimage.examples import AMD64, ARM64, platform_image, write
from tests.unit.trust.damage import flip
from tests.unit.trust.sbom.test_files import MODULES, OS, STATUS, go_program

WEB = Reference.parse("web")


def embedded(store: Store, name: str, entries: list[LayerEntry], platform: Platform = AMD64, media_type: str = OCI_LAYER_GZIP) -> ImageSet:
    """A container image of one layer, under an index that lists another platform too, and an attestation of its own."""
    layer = write_layer(entries, store).descriptor
    blobs = [Blob(layer.digest, media_type, layer.size)]

    def put(media: str, value: Mapping[str, Any]) -> Blob:
        digest, size = store.put(canonical_json(value))
        blobs.append(Blob(digest, media, size))
        return blobs[-1]

    config = put(OCI_CONFIG, platform.to_json())
    manifest = put(
        OCI_MANIFEST, {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [blobs[0].to_json()]}
    )
    elsewhere = Descriptor(OCI_MANIFEST, digest_of(b"other"), 5, platform=Platform("linux", "s390x"))
    entries_of_index = [elsewhere.to_json(), {**manifest.to_json(), "platform": platform.to_json()}]
    index = put(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries_of_index})
    return ImageSet((EmbeddedImage(name, index.digest, OCI_INDEX, index.size, ("pulled",)),), tuple(blobs))


@pytest.fixture
def full(store: Store) -> CloudImage:
    debian = [
        LayerEntry("var/lib/dpkg/status", "file", 0o644, STATUS),
        LayerEntry("etc/os-release", "file", 0o644, OS),
        LayerEntry("bin/sh", "file", 0o755, b"sh"),
    ]
    own = [LayerEntry("usr/bin/app", "file", 0o755, b"\x7fELF" + go_program(MODULES))]
    images = embedded(store, "docker.io/library/debian:12", debian).union(embedded(store, "slipway.dev/app:1", own))
    return write(store, platform_image(store, images=images), name="web")


def components(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for one in document.get("components", ()):
        yield one
        yield from components(one)


def part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return next(one for one in document["components"] if one["name"] == name)


# SBOM


def test_the_bill_lists_files_packages_modules_and_images(store: Store, full: CloudImage) -> None:
    bill = sbom.make(store, full, WEB)
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["metadata"]["component"]["version"] == full.digest
    rootfs = {one["name"]: one for one in part(bill, "rootfs")["components"]}
    assert set(rootfs) == {"bin/kubelet", "manifests/a.yaml"}
    digest = digest_of(b"kind: Pod").removeprefix("sha256:")
    assert rootfs["manifests/a.yaml"]["hashes"] == [{"alg": "SHA-256", "content": digest}]

    debian = part(bill, "docker.io/library/debian")
    assert debian["purl"].startswith("pkg:oci/debian@sha256:")
    assert [(one["type"], one["name"]) for one in debian["components"]] == [
        ("operating-system", "debian"),
        ("library", "libc6"),
        ("library", "vim"),
    ]
    # No package manager vouches for what is in it, so each file is listed.
    (program,) = part(bill, "slipway.dev/app")["components"]
    assert (program["type"], program["name"]) == ("file", "usr/bin/app")
    assert [one["purl"] for one in program["components"]] == [
        "pkg:golang/stdlib@1.22.3",
        "pkg:golang/example.com/app",
        "pkg:golang/golang.org/x/net@v0.1.0",
        "pkg:golang/new/x@v1.1.0",
    ]


def test_the_bill_is_as_the_schema_of_cyclonedx_wants_it(store: Store, full: CloudImage) -> None:
    partial = write(store, platform_image(store, AMD64), platform_image(store, ARM64))
    store.path(store.json(partial.digest)["manifests"][2]["digest"]).unlink()
    for image in (full, cloudimage.read(store, partial.digest)):
        text = json.dumps(sbom.make(store, image, WEB))
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        odd = text.replace('"type": "container"', '"type": "contained"', 1)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(odd) is not None


def test_the_same_image_has_the_same_bill(store: Store, full: CloudImage) -> None:
    first = canonical_json(sbom.make(store, full, WEB))
    assert canonical_json(sbom.make(Store(store.root), cloudimage.read(store, "web"), WEB)) == first
    assert b"timestamp" not in first
    another = sbom.make(store, write(store, platform_image(store, info=Info(type="app")), name="b"), WEB)
    assert another["serialNumber"] != json.loads(first)["serialNumber"]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", another["serialNumber"])


def test_every_part_has_a_reference_of_its_own(store: Store) -> None:
    sets = [embedded(store, "slipway.dev/app:1", [LayerEntry("a", "file", 0o644, str(one).encode())], one) for one in (AMD64, ARM64)]
    both = [platform_image(store, one, images=images) for one, images in zip((AMD64, ARM64), sets, strict=True)]
    bill = sbom.make(store, write(store, *both), WEB)
    references = [one["bom-ref"] for one in components(bill)]
    assert len(references) == len(set(references))
    assert {one["ref"] for one in bill["dependencies"]} == {
        bill["metadata"]["component"]["bom-ref"],
        *(one["bom-ref"] for one in bill["components"]),
    }
    assert all(one["aggregate"] == "complete" for one in bill["compositions"])


def test_what_cannot_be_looked_into_is_said(store: Store) -> None:
    strange = embedded(store, "a.io/strange:1", [LayerEntry("a", "file")], media_type="application/x-encrypted")
    rpm = embedded(store, "a.io/rpm:1", [LayerEntry("var/lib/rpm/rpmdb.sqlite", "file", 0o644, b"db")])
    foreign = embedded(store, "a.io/foreign:1", [LayerEntry("b", "file")], ARM64)
    manifest = store.json(strange.images[0].digest)["manifests"][1]["digest"]
    layer = store.json(manifest)
    layer["layers"][0]["mediaType"] = "application/x-encrypted"
    digest, size = store.put(canonical_json(layer))
    images = dataclass_with_manifest(strange, digest, size).union(rpm).union(foreign)
    bill = sbom.make(store, write(store, platform_image(store, images=images)), WEB)
    assert bill["compositions"][0]["aggregate"] == "complete"
    incomplete = {one["assemblies"][0].partition("@")[0] for one in bill["compositions"] if one["aggregate"] == "incomplete"}
    assert incomplete == {"pkg:oci/strange", "pkg:oci/rpm", "pkg:oci/foreign"}
    notes = {one["name"]: value["value"] for one in bill["components"] for value in one["properties"] if value["name"] == "slipway:unknown"}
    assert "x-encrypted" in notes["a.io/strange"]
    assert notes["a.io/foreign"] == "nothing of it is for linux/amd64"
    assert [one["name"] for one in part(bill, "a.io/rpm")["components"]] == ["var/lib/rpm/rpmdb.sqlite"]


def dataclass_with_manifest(images: ImageSet, digest: str, size: int) -> ImageSet:
    """The image set, its image being a manifest instead of an index."""
    (one,) = images.images
    return ImageSet((EmbeddedImage(one.name, digest, OCI_MANIFEST, size),), (*images.blobs, Blob(digest, OCI_MANIFEST, size)))


def test_a_bill_of_a_part_says_that_it_is_one(store: Store) -> None:
    image = write(store, platform_image(store, AMD64), platform_image(store, ARM64))
    store.path(store.json(image.digest)["manifests"][2]["digest"]).unlink()
    bill = sbom.make(store, cloudimage.read(store, "web"), WEB)
    assert bill["compositions"][0] == {"aggregate": "incomplete", "assemblies": [bill["metadata"]["component"]["bom-ref"]]}
    assert [one["name"] for one in bill["components"]].count("rootfs") == 1


def test_a_damaged_layer_of_the_rootfs_is_no_bill(store: Store, full: CloudImage) -> None:
    flip(store, full.platforms[0].layers[0].digest, 30)
    with pytest.raises(StoreError):
        sbom.make(store, full, WEB)


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


def test_provenance_says_what_the_image_records(store: Store) -> None:
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


def test_no_value_of_a_build_argument_is_told(store: Store) -> None:
    text = canonical_json(provenance.make(built(store), WEB))
    assert b"hunter2" not in text
    assert b"x y" not in text
    assert b"BASE_SECRET" not in text


def test_the_same_image_has_the_same_provenance(store: Store) -> None:
    image = built(store)
    assert canonical_json(provenance.make(image, WEB)) == canonical_json(provenance.make(cloudimage.read(store, "web"), WEB))


def test_an_image_without_a_history_has_a_provenance(store: Store) -> None:
    image = write(store, platform_image(store, AMD64, history=(), info=Info(type="app"), images=ImageSet()))
    definition = provenance.make(image, WEB)["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["kubefile"] == {"linux/amd64": []}
    assert definition["resolvedDependencies"] == []


# Attestations


def envelopes(shelf: LocalReferrers, digest: str) -> list[Descriptor]:
    return list(referrers.merge(shelf.find(referrers.tag_of(digest, referrers.ATTESTATIONS))))


def test_an_attestation_is_cosigns_to_the_letter(shelf: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    value = provenance.make(image, WEB)
    attestation.attach(shelf, image.digest, value, key)
    (layer,) = store.json(store.names()[f"web:{image.digest.replace(':', '-')}.att"].digest)["layers"]
    assert layer["mediaType"] == "application/vnd.dsse.envelope.v1+json"
    assert layer["annotations"] == {"dev.cosignproject.cosign/signature": "", "predicateType": "https://slsa.dev/provenance/v1"}
    envelope = store.json(layer["digest"])
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert json.loads(base64.b64decode(envelope["payload"])) == value
    payload = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json " + str(len(payload)).encode() + b" " + payload
    assert key.public.holds(base64.b64decode(envelope["signatures"][0]["sig"]), signed)


def test_one_statement_of_a_kind_by_a_key(shelf: LocalReferrers, image: CloudImage, key: PrivateKey, other: PrivateKey) -> None:
    one, two, bill = ({"predicateType": kind, "n": n} for kind, n in (("p", 1), ("p", 2), ("b", 1)))
    first = attestation.attach(shelf, image.digest, one, key)
    assert attestation.attach(shelf, image.digest, one, key) == first
    attestation.attach(shelf, image.digest, bill, key)
    attestation.attach(shelf, image.digest, one, other)
    attestation.attach(shelf, image.digest, two, key)
    found = [(layer, shelf.read(layer)) for layer in envelopes(shelf, image.digest)]
    by_us = [
        inside["n"] for layer, data in found if (inside := attestation.open_envelope(data, key.public)) and inside["predicateType"] == "p"
    ]
    assert (len(found), by_us) == (3, [2])


def test_an_envelope_opens_for_its_key_only(key: PrivateKey, other: PrivateKey) -> None:
    data = attestation.envelope({"a": 1}, key)
    assert attestation.open_envelope(data, key.public) == {"a": 1}
    assert attestation.open_envelope(data, other.public) is None
    value = json.loads(data)
    value["payload"] = base64.b64encode(b'{"a":2}').decode()
    assert attestation.open_envelope(canonical_json(value), key.public) is None
    for broken in (b"{}", b"[]", b"x", canonical_json({**value, "payloadType": "text/plain"})):
        with pytest.raises(StoreError, match="not a signed statement"):
            attestation.open_envelope(broken, key.public)


def test_a_damaged_envelope_is_not_in_the_way_of_a_new_one(shelf: LocalReferrers, store: Store, image: CloudImage, key: PrivateKey) -> None:
    attestation.attach(shelf, image.digest, {"predicateType": "p", "n": 1}, key)
    (layer,) = envelopes(shelf, image.digest)
    flip(store, layer.digest)
    attestation.attach(shelf, image.digest, {"predicateType": "p", "n": 2}, key)
    found = [attestation.open_envelope(shelf.read(one), key.public) for one in envelopes(shelf, image.digest) if one != layer]
    assert found == [{"predicateType": "p", "n": 2}]


# Referrers


def test_a_referrer_is_the_specifications_to_the_letter(shelf: LocalReferrers, store: Store, image: CloudImage) -> None:
    subject = store.resolve("web")
    referrers.referrer(shelf, subject, sbom.MEDIA_TYPE, b'{"bom": 1}', {referrers.PREDICATE: sbom.PREDICATE})
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


def test_a_new_document_of_a_kind_replaces_the_old_one(shelf: LocalReferrers, store: Store, image: CloudImage) -> None:
    subject = store.resolve("web")
    for kind, data in (("a", b"1"), ("b", b"2"), ("a", b"3"), ("a", b"3")):
        referrers.referrer(shelf, subject, "application/x", data, {referrers.PREDICATE: kind})
    found = shelf.referrers(image.digest)
    assert [store.read(referrers.layers_of(shelf.manifest(one))[0].digest) for one in found] == [b"2", b"3"]


def test_what_is_attached_is_no_image_of_its_own_and_stays_with_the_image(shelf: LocalReferrers, store: Store, image: CloudImage) -> None:
    referrers.referrer(shelf, store.resolve("web"), sbom.MEDIA_TYPE, b"{}", {})
    assert [row.name for row in listing.images(store)] == ["web:latest"]
    blobs = len(list((store.root / "blobs/sha256").iterdir()))
    assert not store.gc().blobs
    assert len(list((store.root / "blobs/sha256").iterdir())) == blobs
