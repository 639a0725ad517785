"""Changes of files by bills of materials."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.cloudimage import diff, diff_side
from harness.cloudimage.diff import Difference, PlatformDifference
from harness.oci.model import canonical_json
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.trust import sbom
from harness.website import file_changes
from harness.website.evidence import AttachedDocument, Evidence
from tests.unit.cloudimage.examples import AMD64, ARM64, file, put


def bill(document: Any, *, key: str = "release.key") -> Evidence:
    """What is attached to a version: its bill of materials, verified with a key."""
    data = document if isinstance(document, bytes) else canonical_json(document)
    return Evidence(documents=(AttachedDocument(sbom.PREDICATE, "", data, "cdx.json", signed=bool(key), key=key),))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two versions: what differs as their layers are not at hand, and the bill of each."""

    difference: Difference
    old: dict[str, Any]
    new: dict[str, Any]

    def rows(self, before: Evidence, after: Evidence) -> tuple[list[tuple[str, str, str]], str]:
        difference, way = file_changes.add(self.difference, before, after)
        changes = [(part.platform, change) for part in difference.platforms for change in part.changes if change.kind in ("file", "layer")]
        return [(platform, change.what, change.name if change.kind == "file" else "layer") for platform, change in changes], way


@pytest.fixture
def pair(store: Store) -> Pair:
    old = put(store, "web:1", [file("a", "1"), file("gone", "x"), file("same", "x")], platforms=(AMD64, ARM64))
    new = put(store, "web:2", [file("a", "2"), file("new", "y"), file("same", "x")], platforms=(AMD64, ARM64))
    bills = [sbom.make(store, image, Reference.parse(str(image.name))) for image in (old, new)]
    sides = [diff_side.find(store, name, lambda: pytest.fail("asks a registry")) for name in ("web:1", "web:2")]
    for layer in {layer.digest for image in (old, new) for part in image.platforms for layer in part.layers}:
        store.path(layer).unlink()
    return Pair(diff.compare(store, *sides), *bills)


def test_add_bills_of_both_versions_list_files_of_each_platform(pair: Pair) -> None:
    rows, way = pair.rows(bill(pair.old), bill(pair.new))
    changes = [("changed", "a"), ("removed", "gone"), ("added", "new")]
    assert sorted(rows) == sorted((platform, *change) for platform in ("linux/amd64", "linux/arm64") for change in changes)
    assert way == file_changes.BILLS


def test_add_bill_that_no_key_has_signed_is_a_claim(pair: Pair) -> None:
    assert pair.rows(bill(pair.old), bill(pair.new, key=""))[1] == file_changes.CLAIMED
    # A verified one is taken in the place of one that is not.
    other = bill({"components": [{"name": "rootfs", "bom-ref": "rootfs linux/amd64", "components": []}]}, key="")
    both = Evidence(documents=(*other.documents, *bill(pair.new).documents))
    assert pair.rows(bill(pair.old), both) == pair.rows(bill(pair.old), bill(pair.new))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        [],
        {},
        {"components": {}},
        {"components": ["rootfs linux/amd64", {"name": "rootfs"}, {"bom-ref": "rootfs linux/amd64"}]},
        {"components": [{"name": "rootfs", "bom-ref": "rootfs linux/s390x", "components": []}]},
    ],
)
def test_add_bill_without_rootfs_leaves_changes_of_layers(pair: Pair, document: Any) -> None:
    rows, way = pair.rows(bill(pair.old), bill(document))
    assert {name for _, _, name in rows} == {"layer"}
    assert way == file_changes.LAYERS
    assert pair.rows(bill(pair.old), Evidence())[1] == file_changes.LAYERS


def test_add_malformed_files_of_bill_are_left_out(pair: Pair) -> None:
    hashes = [{"alg": "SHA-256", "content": "b" * 64}]
    files: list[Any] = [
        "x",
        {"type": "file"},
        {"type": "file", "name": 1, "hashes": hashes},
        {"type": "file", "name": "b", "hashes": []},
        {"type": "file", "name": "c", "hashes": [{"content": 1}]},
        {"type": "file", "name": "d", "hashes": "sha"},
        {"type": "library", "name": "e", "hashes": hashes},
        {"type": "file", "name": "f", "hashes": hashes},
    ]
    document = {"components": [{"name": "rootfs", "bom-ref": f"rootfs linux/{name}", "components": files} for name in ("amd64", "arm64")]}
    rows, _ = pair.rows(bill({**document, "components": [{**one, "components": []} for one in document["components"]]}), bill(document))
    assert rows == [("linux/amd64", "added", "f"), ("linux/arm64", "added", "f")]


def test_add_compared_and_lone_platforms_stay(pair: Pair) -> None:
    parts = (PlatformDifference("linux/amd64"), PlatformDifference("linux/arm64", only="new", files=False))
    compared = dataclasses.replace(pair.difference, platforms=parts)
    assert file_changes.add(compared, Evidence(), Evidence()) == (compared, file_changes.READ)
