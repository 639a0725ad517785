"""Stores as sources of images: only what they name, and only whole."""

from __future__ import annotations

import pytest

from harness.errors import StoreError
from harness.oci.registry.manifest import ACCEPT
from harness.oci.registry.sources import LayoutSource, stored_manifest
from harness.oci.store import Store
from tests.unit.oci.memory import indexed, layer_of, made, named, top


def test_layout_source_serves_only_digests_reachable_from_its_names(store: Store) -> None:
    image, child = made("a"), made("arm", architecture="arm64")
    index = indexed(amd64=image, arm64=child)
    stray = made("stray")
    for data in [*index.values(), *stray.values()]:
        store.put(data)
    source = LayoutSource(store, {"a.test/x:1": top(index)})
    assert source.manifest(named(f"a.test/x@{top(child)}"), ACCEPT)
    assert source.manifest(named("a.test/x:2"), ACCEPT) is None
    assert source.manifest(named(f"a.test/y@{top(child)}"), ACCEPT) is None
    assert source.manifest(named(f"a.test/x@{top(stray)}"), ACCEPT) is None
    assert source.blob(named("a.test/x:1"), layer_of(stray), None) is None
    stream = source.blob(named("a.test/x:1"), layer_of(child), None)
    assert stream
    assert stream.read(1000) == child[layer_of(child)]
    stream.close()


def test_layout_admits_only_what_it_names(store: Store) -> None:
    image = made("a")
    for data in image.values():
        store.put(data)
    source = LayoutSource(store, {"a.test/x:1": top(image)})
    assert source.admit(named(f"a.test/x@{top(image)}"))
    assert not source.admit(named(f"a.test/y@{top(image)}"))
    assert not source.admit(named(f"a.test/x@{top(made('other'))}"))


def test_stored_manifest_is_none_for_other_blobs_and_raises_for_damaged_ones(store: Store) -> None:
    image = made("a")
    for data in image.values():
        store.put(data)
    found = stored_manifest(store, top(image), "base")
    assert found is not None
    assert (found.data, found.source) == (image[top(image)], "base")
    assert stored_manifest(store, layer_of(image), "base") is None
    store.path(top(image)).write_bytes(b"{}")
    with pytest.raises(StoreError, match="is damaged"):
        stored_manifest(store, top(image), "base")
