"""The blobs that an archive must contain: known as its manifests are read, and checked before a tag is set."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from harness.errors import StoreError
from harness.oci.archive.index import ArchiveBase, Image, Index
from harness.oci.archive.plan import LoadPlan
from harness.oci.archive.volumes import DamagedError
from harness.oci.graph import walk
from harness.oci.model import LARGEST_MANIFEST, OCI_MANIFEST, Descriptor, digest_of
from harness.oci.store import UNFINISHED, Store
from tests.unit.oci.layouts import put_index, put_manifest


class Usage(NamedTuple):
    """Of a disk, in bytes."""

    free: int


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """The store that an archive was made of."""
    return Store(tmp_path / "source")


def image(source: Store) -> tuple[Descriptor, Descriptor]:
    """An index with one manifest."""
    manifest = put_manifest(source, b"layer")
    return put_index(source, manifest), manifest


def arrive(plan: LoadPlan, source: Store, store: Store, blob: Descriptor) -> None:
    store.put(source.read(blob.digest))
    plan.arrived(blob.digest)


def test_plan_learns_of_blobs_as_manifests_arrive(source: Store, store: Store) -> None:
    root, manifest = image(source)
    plan = LoadPlan(store)
    assert not plan.known
    assert plan.wants(root.digest, root.size)  # before the index is known anything may be needed
    plan.begin(Index((Image("web:1", root),)))
    assert store.record(UNFINISHED, root.digest[7:]) == {"image": root.digest}
    assert plan.leads_on(root.digest)
    arrive(plan, source, store, root)
    assert plan.leads_on(manifest.digest)
    assert not plan.known
    arrive(plan, source, store, manifest)
    assert plan.known
    assert plan.size == plan.carried == sum(blob.size for blob in walk(source, root))
    assert plan.wants(digest_of(b"layer"), 5)
    assert not plan.wants(digest_of(b"stray"), 5)


def test_plan_blob_of_another_size_than_its_manifest_says_raises(source: Store, store: Store) -> None:
    root, _ = image(source)
    plan = LoadPlan(store)
    plan.begin(Index((Image("web:1", root),)))
    with pytest.raises(DamagedError, match=f"its blob {root.digest} has 7 bytes, and its manifest says {root.size}"):
        plan.wants(root.digest, 7)


def test_plan_second_index_raises(source: Store, store: Store) -> None:
    root, _ = image(source)
    plan = LoadPlan(store)
    plan.begin(Index((Image("web:1", root),)))
    with pytest.raises(DamagedError, match=r"two index\.json"):
        plan.begin(Index((Image("web:1", root),)))


def test_plan_manifest_over_the_limit_or_of_two_sizes_raises(store: Store) -> None:
    large = Descriptor(OCI_MANIFEST, digest_of(b"large"), LARGEST_MANIFEST + 1)
    with pytest.raises(DamagedError, match=f"its manifest {large.digest} has"):
        LoadPlan(store).begin(Index((Image("web:1", large),)))
    one, two = (Descriptor(OCI_MANIFEST, digest_of(b"x"), size) for size in (1, 2))
    with pytest.raises(DamagedError, match="two sizes"):
        LoadPlan(store).begin(Index((Image("web:1", one), Image("web:2", two))))


def test_plan_delta_without_its_base_raises_and_names_it(source: Store, store: Store) -> None:
    root, manifest = image(source)
    base = ArchiveBase((("base:1", manifest.digest),), frozenset([digest_of(b"layer"), digest_of(b"{}")]))
    with pytest.raises(StoreError, match=r"what it is based on is missing: base:1 .*2 of 2 blobs are not here") as missing:
        LoadPlan(store).begin(Index((Image("web:1", root),), (base,)))
    assert "load or pull base:1 first" in str(missing.value.hint)
    for data in (b"layer", b"{}"):
        store.put(data)
    plan = LoadPlan(store)
    plan.begin(Index((Image("web:1", root),), (base,)))
    for blob in (root, manifest):
        arrive(plan, source, store, blob)
    assert plan.carried == root.size + manifest.size


def test_plan_without_room_on_the_disk_raises(source: Store, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(6))
    plan = LoadPlan(store)
    with pytest.raises(StoreError, match="no space left"):
        plan.wants(digest_of(b"x"), 11)
    root, manifest = image(source)
    plan.begin(Index((Image("web:1", root),)))
    arrive(plan, source, store, root)
    with pytest.raises(StoreError, match="no space left"):
        arrive(plan, source, store, manifest)


def test_finish_lists_what_is_missing(source: Store, store: Store) -> None:
    root, manifest = image(source)
    plan = LoadPlan(store)
    plan.begin(Index((Image("web:1", root),)))
    for blob in (root, manifest):
        arrive(plan, source, store, blob)
    with pytest.raises(DamagedError, match=r"of web:1 it lacks blob .* and 1 more") as missing:
        plan.finish()
    assert set(str(missing.value.details).splitlines()) == {digest_of(b"layer"), digest_of(b"{}")}
    store.put(b"{}")
    store.path(digest_of(b"layer")).write_bytes(b"lay")
    with pytest.raises(DamagedError, match="has 3 bytes instead of 5"):
        plan.finish()
    store.put(b"layer")
    assert [found.name for found in plan.finish()] == ["web:1"]
