"""Container images of images/, as sources of a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.build.built_images import BuiltAsLastResort, BuiltImages
from harness.cloudimage import BuiltHere, EmbeddedImage
from harness.oci.model import OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.store import Store

CONFIG = Descriptor("application/vnd.oci.image.config.v1+json", digest_of(b"{}"), 2)
MANIFEST = canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG.to_json(), "layers": []})
DIGEST = digest_of(MANIFEST)
WEB = Reference.parse("registry.example.com/shop/web:1")


class Builder:
    """Builds ``WEB``, and nothing else."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def ensure(self, reference: Reference, _arguments: object) -> Descriptor | None:
        self.store.put(MANIFEST)
        return Descriptor(OCI_MANIFEST, DIGEST, len(MANIFEST)) if reference == WEB else None

    def builds(self, reference: Reference, _choice: object) -> bool:
        return reference == WEB

    def find(self, reference: Reference) -> tuple[str] | None:
        return ("web",) if reference == WEB else None

    def key(self, name: Reference) -> str:
        return f"key of {name}"

    def origin(self, reference: Reference, _arguments: object) -> BuiltHere:
        return BuiltHere((), f"images/{reference.path}")


@pytest.fixture
def own(tmp_path: Path) -> BuiltImages:
    builder: Any = Builder(Store(tmp_path))
    choice: Any = SimpleNamespace(builds=lambda name: str(name) == str(WEB), may_build=lambda _: True)
    return BuiltImages(builder, {}, choice)


def test_built_images_manifest_of_defined_image_is_built_and_admitted(own: BuiltImages) -> None:
    by_digest = Reference(WEB.domain, WEB.path, None, DIGEST)
    assert own.manifest(by_digest, ()) is None
    assert not own.admit(by_digest)
    manifest = own.manifest(WEB, ())
    assert manifest is not None
    assert (manifest.data, own.used) == (MANIFEST, {str(WEB): DIGEST})
    assert own.manifest(by_digest, ()) is not None
    assert own.admit(by_digest)


def test_built_images_manifest_of_undefined_image_is_none(own: BuiltImages) -> None:
    assert own.manifest(Reference.parse("registry.example.com/shop/db:1"), ()) is None
    assert own.used == {}


def test_built_as_last_resort_records_image_as_absent_in_registry(own: BuiltImages) -> None:
    last = BuiltAsLastResort(own)
    assert last.manifest(Reference(WEB.domain, WEB.path, None, DIGEST), ()) is None
    assert last.manifest(WEB, ()) is not None
    assert own.absent == {str(WEB)}


def test_marked_built_image_carries_its_origin(own: BuiltImages) -> None:
    image = EmbeddedImage(str(WEB), DIGEST, OCI_MANIFEST, len(MANIFEST))
    assert own.marked(image) is image
    own.make(WEB)
    assert own.marked(image).built == BuiltHere((), "images/shop/web")


@pytest.mark.parametrize(
    ("record", "holds"),
    [
        ({"built": {str(WEB): f"key of {WEB}"}}, True),
        ({"built": {str(WEB): "another key"}}, False),
        ({"built": {"db:1": "key of docker.io/library/db:1"}}, False),
        ({"built": {"db:1": "key of docker.io/library/db:1"}, "absent": ["db:1"]}, True),
    ],
)
def test_holds_only_for_record_with_same_keys_and_absent_images(own: BuiltImages, record: dict[str, Any], holds: bool) -> None:
    assert own.holds(record) is holds
