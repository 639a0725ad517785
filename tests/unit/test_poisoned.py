"""A store that holds what nobody should have taken in: each command does its work for all other images, and errors are of the store."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import INFO, KIND, CloudImage, diff_side, listing, prune, search, tags
from harness.errors import StoreError
from harness.lifecycle.provision import registry
from harness.oci.graph import below_of, closure, entries_of
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.registry.config import Site
from harness.oci.store import Store
from harness.sealer import listing as sealer_listing
from harness.transfer import mirror
from harness.trust import blob_check
from tests.unit.cloudimage.examples import platform_image, write

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "store")


@pytest.fixture
def good(store: Store) -> CloudImage:
    return write(store, platform_image(store), name="good")


DEEP: Any = []
for _ in range(5000):
    DEEP = [DEEP]


def set_to(*path: str | int, value: Any) -> Change:
    def change(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


INDEX: dict[str, Change] = {
    "manifests is a number": set_to("manifests", value=5),
    "manifests is text": set_to("manifests", value="text"),
    "manifests is an object": set_to("manifests", value={"a": 1}),
    "manifests are numbers": set_to("manifests", value=[1, 2]),
    "manifests are text": set_to("manifests", value=["a", "b"]),
    "manifests are empty": set_to("manifests", value=[]),
    "an entry without digest": set_to("manifests", 0, value={"mediaType": OCI_MANIFEST, "size": 1}),
    "a digest that is a path": set_to("manifests", 0, "digest", value="sha256:../../../etc/passwd"),
    "a digest that is a list": set_to("manifests", 0, "digest", value=["a"]),
    "a size that is text": set_to("manifests", 0, "size", value="1"),
    "a size below zero": set_to("manifests", 0, "size", value=-1),
    "a platform that is text": set_to("manifests", 0, "platform", value="linux/amd64"),
    "a platform of lists": set_to("manifests", 0, "platform", value={"os": ["linux"], "architecture": {}}),
    "annotations of an entry that are text": set_to("manifests", 0, "annotations", value="text"),
    "annotations that are text": set_to("annotations", value="text"),
    "annotations that are a list": set_to("annotations", value=["a"]),
    "too deep": set_to("extra", value=DEEP),
}
ROOTFS: dict[str, Change] = {
    "layers is a number": set_to("layers", value=5),
    "layers are text": set_to("layers", value=["a"]),
    "no config": lambda document: document.pop("config"),
    "config is a list": set_to("config", value=[]),
    "one layer less": lambda document: document["layers"].pop(),
    "info is a list": set_to("annotations", INFO, value="[1]"),
    "info is a number": set_to("annotations", INFO, value="5"),
    "info is no JSON": set_to("annotations", INFO, value="{"),
    "info is too deep": set_to("annotations", INFO, value="[" * 9999 + "]" * 9999),
    "info holds infinity": set_to("annotations", INFO, value='{"type": "kube", "schemaVersion": 1e999}'),
    "launch is text": set_to("annotations", INFO, value='{"type": "kube", "launch": "rm"}'),
    "launch are numbers": set_to("annotations", INFO, value='{"type": "kube", "launch": [1]}'),
    "env are lists": set_to("annotations", INFO, value='{"type": "kube", "env": {"A": []}}'),
    "kubernetes is a list": set_to("annotations", INFO, value='{"type": "kube", "kubernetes": [1]}'),
}
IMAGES: dict[str, Change] = {
    "images is a number": set_to("images", value=5),
    "a name that is none": set_to("images", 0, "name", value="../../etc"),
    "a name with an escape": set_to("images", 0, "name", value="a\x1b[2J"),
    "a digest of something else": set_to("images", 0, "digest", value="sha256:" + "0" * 64),
    "a size that is a float": set_to("images", 0, "size", value=1.5),
    "a blob without its digest": lambda document: document["blobs"][0].pop("digest"),
    "a blob that is a path": set_to("blobs", 0, "digest", value="sha256:/../../x"),
    "blobs are text": set_to("blobs", value="text"),
    "an image whose manifest is not among the blobs": lambda document: document["blobs"].clear(),
}


def put(store: Store, media_type: str, value: Any, **fields: Any) -> dict[str, Any]:
    return Descriptor(media_type, *store.put(_json(value)), **fields).to_json()


def _json(value: Any) -> bytes:
    """As canonical_json, of any depth."""
    if DEEP in (value.values() if isinstance(value, dict) else ()):
        plain = {key: each for key, each in value.items() if each is not DEEP}
        return canonical_json(plain)[:-1] + b',"zzz":' + b"[" * 5000 + b"]" * 5000 + b"}"
    return canonical_json(value)


def poison(store: Store, image: CloudImage, where: str, change: Change) -> str:
    """An image like a good one, with one of its documents changed and all digests above it right; its digest."""
    index = copy.deepcopy(store.json(image.digest))
    if where == "index":
        change(index)
    else:
        entry = next(each for each in index["manifests"] if (KIND in each.get("annotations", {})) == (where == "images"))
        manifest = copy.deepcopy(store.json(entry["digest"]))
        if where == "rootfs":
            change(manifest)
        else:
            config = copy.deepcopy(store.json(manifest["config"]["digest"]))
            change(config)
            manifest["config"] = {**put(store, OCI_CONFIG, config), "mediaType": manifest["config"]["mediaType"]}
        entry.update(put(store, OCI_MANIFEST, manifest))
    descriptor = Descriptor.from_json(put(store, OCI_INDEX, index))
    store.tag("bad", descriptor)
    return descriptor.digest


CASES = [
    *(pytest.param("index", change, id=f"index: {name}") for name, change in INDEX.items()),
    *(pytest.param("rootfs", change, id=f"rootfs: {name}") for name, change in ROOTFS.items()),
    *(pytest.param("images", change, id=f"images: {name}") for name, change in IMAGES.items()),
]


@pytest.mark.parametrize(("where", "change"), CASES)
def test_store_with_poisoned_image_serves_other_images(store: Store, good: CloudImage, where: str, change: Change) -> None:
    digest = poison(store, good, where, change)
    rows = {row.name: row for row in (*listing.others(store), *listing.images(store), *sealer_listing.rows(store))}
    assert rows["good:latest"].problem is None
    assert rows["good:latest"].size == good.size
    assert set(rows) == {"good:latest", "bad:latest"}
    with pytest.raises(StoreError):
        cloudimage.read(store, "bad")
    with pytest.raises(StoreError):
        diff_side.find(store, "bad", lambda: pytest.fail("no registry is asked"))
    assert [hit.name for hit in search.stored(store, "good")] == ["good:latest"]
    prune.prune(store)
    assert store.has(digest)
    assert cloudimage.read(store, "good").digest == good.digest
    names, _ = tags.remove(store, ["bad"])
    assert names == ("bad:latest",)
    assert not store.has(digest)
    cloudimage.verify(store, cloudimage.read(store, "good"))


@pytest.mark.parametrize(("where", "change"), CASES)
def test_closure_and_blob_check_of_poisoned_image_raise_only_store_error(
    store: Store, good: CloudImage, where: str, change: Change
) -> None:
    poison(store, good, where, change)
    image = store.resolve("bad")
    for follow in (lambda: closure(store, image), lambda: blob_check.check_stored(store, "bad", image)):
        try:
            follow()
        except StoreError:
            continue


def test_images_lists_poisoned_image_with_problem(store: Store, good: CloudImage) -> None:
    poison(store, good, "rootfs", ROOTFS["layers is a number"])
    (bad,) = (row for row in listing.images(store) if row.name == "bad:latest")
    assert "cannot be understood" in (bad.problem or "")


@pytest.mark.parametrize("annotations", ["x", [], {KIND: 5}, {KIND: None}], ids=repr)
@pytest.mark.parametrize("read", [entries_of, below_of])
def test_entries_of_and_below_of_annotations_not_text_by_name_are_refused(annotations: Any, read: Callable[..., object]) -> None:
    with pytest.raises(StoreError, match="cannot be understood: is not text by name"):
        read({"annotations": annotations}, "sha256:0")
    assert read({"annotations": None}, "sha256:0") == []
    assert read({"annotations": {KIND: "x"}}, "sha256:0") == []


def test_nested_indexes_of_image_are_bounded(store: Store, good: CloudImage) -> None:
    """A thousand indexes, each of which lists the next one."""
    embedded = good.platforms[0].images.images[0]
    blobs = list(good.platforms[0].images.blobs)
    digest, size = embedded.digest, embedded.size
    for _ in range(1500):
        entry = Descriptor(OCI_INDEX, digest, size)
        digest, size = store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json()]}))
        blobs.append(cloudimage.Blob(digest, OCI_INDEX, size))
    nested = dataclasses.replace(embedded, digest=digest, size=size, media_type=OCI_INDEX)
    part = dataclasses.replace(good.platforms[0], images=cloudimage.ImageSet((nested,), tuple(blobs)))
    image = write(store, part, name="nested")
    assert listing.content_sizes(store, part.images)[embedded.name] > 0
    assert registry.layout(store, part.images).links
    with pytest.raises(StoreError, match="within each other"):
        mirror.expand(store, image, Site("registry.example.com"), None)  # type: ignore[arg-type]
    chain = Descriptor(OCI_INDEX, digest, size)
    store.tag("chain", chain)
    with pytest.raises(StoreError, match="within each other"):
        blob_check.check_stored(store, "chain", chain)
    tags.remove(store, ["nested", "chain"])
