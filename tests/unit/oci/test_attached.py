"""Attachments of an archive: merged with those of the store, and refused when they are not what their name says."""

from __future__ import annotations

import pytest

from harness.errors import StoreError
from harness.oci.attached import config_of, is_attachment, merged
from harness.oci.model import Descriptor, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import attach, put_attachment, put_index, put_manifest, put_referrers

SUBJECT = digest_of(b"an image")
TAG = f"web:{SUBJECT.replace(':', '-')}"


def layers(store: Store, image: Descriptor) -> list[str]:
    return [layer["digest"] for layer in store.json(image.digest)["layers"]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (TAG, True),
        (f"{TAG}.sig", True),
        (f"ghcr.io/x/{TAG}.att", True),
        (f"{TAG}.sbom", False),
        ("web:1", False),
        (f"{TAG[:-1]}.sig", False),
        (f"{TAG}.sig.sig", False),
    ],
)
def test_is_attachment_recognises_tags_of_attachments_only(name: str, expected: bool) -> None:
    assert is_attachment(name) is expected


def test_config_of_has_an_entry_for_each_layer() -> None:
    config = config_of(["sha256:a", "sha256:b"])
    assert config["rootfs"]["diff_ids"] == ["sha256:a", "sha256:b"]
    assert len(config["history"]) == 2


def test_merged_new_attachment_is_itself(store: Store) -> None:
    arriving = put_attachment(store, ".sig", b"signature")
    assert merged(store, f"{TAG}.sig", arriving) == arriving
    store.tag(f"{TAG}.sig", arriving)
    assert merged(store, f"{TAG}.sig", arriving) == arriving


def test_merged_keeps_what_is_stored_and_adds_what_arrives(store: Store) -> None:
    store.tag(f"{TAG}.sig", put_attachment(store, ".sig", b"stored", b"both"))
    result = merged(store, f"{TAG}.sig", put_attachment(store, ".sig", b"both", b"arriving"))
    assert layers(store, result) == [digest_of(data) for data in (b"stored", b"both", b"arriving")]
    assert store.json(store.json(result.digest)["config"]["digest"]) == config_of(layers(store, result))
    # Nothing is named yet.
    assert store.names()[f"{TAG}.sig"] != result


def test_merged_damaged_stored_attachment_is_replaced_by_arriving_one(store: Store) -> None:
    stored = put_attachment(store, ".sig", b"stored")
    store.tag(f"{TAG}.sig", stored)
    store.path(stored.digest).write_bytes(b"{}")
    arriving = put_attachment(store, ".sig", b"arriving")
    assert merged(store, f"{TAG}.sig", arriving) == arriving


def test_merged_referrers_of_the_image_are_joined(store: Store) -> None:
    image = put_manifest(store, b"layer")
    name = attach(store, "web", image, "", b"sbom")
    result = merged(store, name, put_referrers(store, image, b"provenance"))
    assert len(store.json(result.digest)["manifests"]) == 2


def test_merged_content_not_matching_attachment_name_raises_store_error(store: Store) -> None:
    about = put_manifest(store, b"another image")
    for name, root, reason in (
        (f"{TAG}.sig", put_attachment(store, ".att", b"x"), "it holds 'application/vnd.dsse"),
        (f"{TAG}.sig", put_attachment(store, ".sig"), "it holds none"),
        (f"{TAG}.att", put_index(store, about), "it holds none"),
        (TAG, put_manifest(store, b"x"), "it is not a list of referrers"),
        (TAG, put_referrers(store, about, b"x"), "does not refer to that image"),
    ):
        with pytest.raises(StoreError, match=f"is not what its name says: .*{reason}"):
            merged(store, name, root)
    with pytest.raises(StoreError, match="web:1 is not the name of an attachment"):
        merged(store, "web:1", about)
