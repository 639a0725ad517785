"""Garbage of a store: what is collected, and what names, records and leases keep."""

from __future__ import annotations

from harness.oci.garbage import collect, discard, find
from harness.oci.model import OCI_MANIFEST, Descriptor, digest_of
from harness.oci.store import UNFINISHED, Store
from tests.unit.oci.test_store import blobs, put_index, put_manifest


def test_collect_keeps_what_a_name_leads_to_through_index_and_manifest(store: Store) -> None:
    inner = put_manifest(store, b"one", b"two")
    index = put_index(store, inner)
    store.tag("web", index)
    before = blobs(store)
    stray = store.put(b"named by nothing")[1]
    assert collect(store) == (1, stray, False)
    assert blobs(store) == before
    assert len(before) == 5


def test_collect_frees_only_what_two_images_do_not_share(store: Store) -> None:
    store.tag("a", put_manifest(store, b"shared", b"only a"))
    store.tag("b", put_manifest(store, b"shared", b"only b"))
    store.untag("a")
    assert collect(store).blobs == 3
    assert store.has(digest_of(b"shared"))
    assert not store.has(digest_of(b"only a"))
    store.untag("b")
    assert collect(store).blobs == 4
    assert not blobs(store)


def test_collect_keeps_what_a_record_names_until_it_is_forgotten(store: Store) -> None:
    layer, _ = store.put(b"layer of a step")
    image = put_manifest(store, b"found by a discovery")
    store.keep("step", "1", {"nested": [{"layer": layer}]})
    store.keep("discovery", "1", {"image": image.digest})
    assert collect(store).blobs == 0
    assert store.forget("step") == 1
    assert collect(store).blobs == 1
    assert not store.has(layer)
    assert store.forget() == 1
    assert collect(store).blobs == 3


def test_collect_index_with_absent_platform_keeps_present_one(store: Store) -> None:
    kept = put_manifest(store, b"amd64")
    elsewhere = Descriptor(OCI_MANIFEST, digest_of(b"arm64"), 5)
    store.tag("web", put_index(store, kept, elsewhere))
    assert collect(store).blobs == 0
    assert store.has(kept.digest)


def test_collect_touches_nothing_during_a_build(store: Store) -> None:
    with store.shared_lease():
        digest, _ = store.put(b"not yet named")
        assert collect(Store(store.root)) == (0, 0, True)
        assert store.has(digest)
    assert collect(store) == (1, 13, False)


def test_collect_touches_nothing_while_a_blob_is_written(store: Store) -> None:
    with store.writer() as blob:
        blob.write(b"data")
        assert collect(store).busy
    assert store.has(blob.digest)


def test_find_names_each_kind_and_discard_removes_it(store: Store) -> None:
    kept = put_manifest(store, b"kept")
    store.tag("web", kept)
    stray, _ = store.put(b"named by nothing")
    layer, _ = store.put(b"layer of a pull")
    store.keep(UNFINISHED, "1", {"image": layer})
    store.keep("step", "1", {"layer": layer})
    (store.root / "partial" / ("0" * 64)).write_bytes(b"begun")
    (store.root / "tmp/4711-left").write_bytes(b"half a blob")
    with store.exclusive_lease():
        usual, thorough = find(store), find(store, unfinished=True, cache=True)
        assert [path.name for path in usual.blobs] == [stray[7:]]
        assert (usual.partial, usual.records) == ((), ())
        assert [path.name for path in usual.temporary] == ["4711-left"]
        assert {path.name for path in thorough.blobs} == {stray[7:], layer[7:]}
        assert {path.parent.name for path in thorough.records} == {UNFINISHED, "step"}
        assert [path.name for path in thorough.partial] == ["0" * 64]
        discard(thorough)
    assert blobs(store) == {path[7:] for path in store.reachable([kept.digest])}
    assert not list(store.records())


def test_find_without_a_name_counts_its_blobs(store: Store) -> None:
    store.tag("a", put_manifest(store, b"only a"))
    store.tag("b", put_manifest(store, b"only b"))
    with store.exclusive_lease():
        assert digest_of(b"only a")[7:] in {path.name for path in find(store, without=["a:latest"]).blobs}
        assert not find(store).blobs


def test_collect_unfinished_frees_what_a_pull_left(store: Store) -> None:
    layer, size = store.put(b"layer of a pull")
    store.keep(UNFINISHED, "1", {"image": layer})
    (store.root / "partial" / ("0" * 64)).write_bytes(b"begun")
    assert collect(store) == (0, 0, False)
    assert collect(store, unfinished=True) == (2, size + 5, False)
