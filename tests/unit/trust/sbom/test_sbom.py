"""SBOM of an image: what it lists, in the same bytes each time, and what it says could not be looked into."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from harness import cloudimage
from harness.cloudimage import Blob, CloudImage, EmbeddedImage, ImageSet, Info
from harness.errors import StoreError
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.trust import sbom
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


def test_make_sbom_lists_files_packages_modules_and_images(store: Store, full: CloudImage) -> None:
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


def test_make_sbom_conforms_to_cyclonedx_schema(store: Store, full: CloudImage) -> None:
    partial = write(store, platform_image(store, AMD64), platform_image(store, ARM64))
    store.path(store.json(partial.digest)["manifests"][2]["digest"]).unlink()
    for image in (full, cloudimage.read(store, partial.digest)):
        text = json.dumps(sbom.make(store, image, WEB))
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        odd = text.replace('"type": "container"', '"type": "contained"', 1)
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(odd) is not None


def test_make_sbom_same_image_gives_same_bytes(store: Store, full: CloudImage) -> None:
    first = canonical_json(sbom.make(store, full, WEB))
    assert canonical_json(sbom.make(Store(store.root), cloudimage.read(store, "web"), WEB)) == first
    assert b"timestamp" not in first
    another = sbom.make(store, write(store, platform_image(store, info=Info(type="app")), name="b"), WEB)
    assert another["serialNumber"] != json.loads(first)["serialNumber"]
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", another["serialNumber"])


def test_make_sbom_components_have_unique_references(store: Store) -> None:
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


def test_make_sbom_unreadable_images_are_marked_incomplete(store: Store) -> None:
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


def test_make_sbom_of_partial_image_is_marked_incomplete(store: Store) -> None:
    image = write(store, platform_image(store, AMD64), platform_image(store, ARM64))
    store.path(store.json(image.digest)["manifests"][2]["digest"]).unlink()
    bill = sbom.make(store, cloudimage.read(store, "web"), WEB)
    assert bill["compositions"][0] == {"aggregate": "incomplete", "assemblies": [bill["metadata"]["component"]["bom-ref"]]}
    assert [one["name"] for one in bill["components"]].count("rootfs") == 1


def test_make_sbom_damaged_rootfs_layer_raises_store_error(store: Store, full: CloudImage) -> None:
    flip(store, full.platforms[0].layers[0].digest, 30)
    with pytest.raises(StoreError):
        sbom.make(store, full, WEB)
