"""One side of a comparison: in the store or in a registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Info, diff, diff_side
from harness.errors import StoreError
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64, ARM64, file, no_client, put
from tests.unit.cloudimage.registries import StoreAsRegistry


def test_find_remote_image_fetches_only_manifests_and_configs(store: Store, tmp_path: Path) -> None:
    far = Store(tmp_path / "far")
    info = Info(env={"A": "2"})
    image = put(far, "web", [file("a", "1")], [file("b", "2")], info=info, embedded={"x.io/i:1": b"i" * 1000}, platforms=(AMD64, ARM64))
    put(store, "web", [file("a", "1")], embedded={"x.io/i:1": b"i" * 1000})
    registry: Any = StoreAsRegistry(far, {"reg.test/web:1": image.digest})
    old, new = diff_side.find(store, "web", no_client), diff_side.find(store, "reg.test/web:1", lambda: registry)
    content = {layer.digest for part in image.platforms for layer in part.layers}
    content |= {blob.digest for part in image.platforms for blob in part.images.blobs}
    assert not content & set(registry.asked)
    here = {blob.digest for blob in cloudimage.read(store, "web").blobs}
    assert sorted(registry.asked) == sorted({blob.digest for blob in image.blobs} - content - here)
    assert (new.where, new.image.digest) == ("reg.test", image.digest)
    found = diff.compare(store, old, new)
    first = found.platforms[0]
    assert not first.files
    assert {change.kind for change in first.changes} == {"env", "layer"}
    assert found.transfer.bytes == image.size - sum(size for digest, size in new.blobs(()).items() if digest in old.blobs(()))


def test_find_remote_image_with_stored_blobs_fetches_only_index(store: Store) -> None:
    old = put(store, "old", [file("a", "1")])
    new = put(store, "new", [file("a", "2")])
    registry: Any = StoreAsRegistry(store, {"reg.test/web:1": new.digest})
    sides = diff_side.find(store, "old", no_client), diff_side.find(store, "docker://reg.test/web:1", lambda: registry)
    assert registry.asked == [new.digest]
    found = diff.compare(store, *sides)
    assert [change.name for change in found.platforms[0].changes] == ["a"]
    assert old.digest != new.digest


def test_find_prefers_store_and_docker_prefix_selects_registry(store: Store) -> None:
    put(store, "reg.test/web:1", [file("a", "1")])
    there = put(store, "else", [file("a", "2")])
    registry: Any = StoreAsRegistry(store, {"reg.test/web:1": there.digest, "hub:latest": there.digest})
    assert diff_side.find(store, "reg.test/web:1", no_client).where == "store"
    assert diff_side.find(store, "docker://reg.test/web:1", lambda: registry).where == "reg.test"
    assert diff_side.find(store, "docker://hub", lambda: registry).where == "docker.io"


def test_find_unknown_short_name_asks_no_registry(store: Store) -> None:
    for name in ("wbe", "acme/web"):
        with pytest.raises(StoreError, match="no such image"):
            diff_side.find(store, name, no_client)


def test_find_damaged_stored_image_raises_without_asking_registry(store: Store) -> None:
    image = put(store, "reg.test/web:1", [file("a")])
    store.path(image.platforms[0].layers[0].digest).unlink()
    with pytest.raises(StoreError, match="missing or cut short"):
        diff_side.find(store, "reg.test/web:1", no_client)


def test_find_remote_plain_image_is_refused_after_one_request(store: Store) -> None:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [Descriptor(OCI_MANIFEST, digest_of(b"x"), 1).to_json()]}
    registry: Any = StoreAsRegistry(store, {"reg.test/nginx:1": store.put(canonical_json(index))[0]})
    with pytest.raises(StoreError, match="not a CloudImage"):
        diff_side.find(store, "reg.test/nginx:1", lambda: registry)
    assert len(registry.asked) == 1


def test_find_remote_image_with_altered_config_is_refused(store: Store, tmp_path: Path) -> None:
    far = Store(tmp_path / "far")
    image = put(far, "web", [file("a")])
    manifest = json.loads(far.read(json.loads(far.read(image.digest))["manifests"][0]["digest"]))
    config = far.path(manifest["config"]["digest"])
    config.write_bytes(config.read_bytes()[::-1])
    registry: Any = StoreAsRegistry(far, {"reg.test/web:1": image.digest})
    with pytest.raises(StoreError, match="is damaged"):
        diff_side.find(store, "reg.test/web:1", lambda: registry)
