"""Manifests and blobs are fetched once, from the first source that has them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.errors import SlipwayError, StoreError
from harness.oci.model import DOCKER_MANIFEST
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import FinalSourceError, LayoutSource, Stream
from harness.oci.store import Store
from tests.unit.oci.memory import Memory, indexed, layer_of, made, named, top


class Failing:
    """A Source that is there but fails."""

    def __init__(self, error: SlipwayError) -> None:
        self.error = error

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        raise self.error

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        raise self.error

    def admit(self, pinned: Reference) -> bool:
        return False


def test_manifest_is_requested_once_and_tag_stays_pinned(store: Store) -> None:
    source = Memory(a=made("a"))
    fetcher = Fetcher([source], store)
    first = fetcher.manifest(named("test.io/a:1"))
    source.tags["test.io/a:1"] = top(made("other"))
    assert fetcher.manifest(named("test.io/a:1")) == first
    assert fetcher.manifest(named(f"test.io/a@{first.digest}")) == first
    assert source.asked == ["test.io/a:1"]
    assert store.read(first.digest) == first.data


def test_manifest_of_type_not_accepted_is_requested_again(store: Store) -> None:
    source = Memory(a=indexed(amd64=made("a")))
    fetcher = Fetcher([source], store)
    fetcher.manifest(named("test.io/a:1"))
    fetcher.manifest(named("test.io/a:1"), (DOCKER_MANIFEST,))
    assert source.asked == ["test.io/a:1", "test.io/a:1"]


def test_manifest_sources_are_asked_in_order(store: Store, tmp_path: Path) -> None:
    base, image = Store(tmp_path / "base"), made("a")
    for data in image.values():
        base.put(data)
    remote = Memory(a=made("other"), b=made("b"))
    fetcher = Fetcher([LayoutSource(base, {"test.io/a:1": top(image)}, "base"), remote], store)
    assert fetcher.manifest(named("test.io/a:1")).source == "base"
    assert fetcher.manifest(named("test.io/b:1")).source == "memory"
    assert remote.asked == ["test.io/b:1"]


def test_manifest_failing_source_falls_back_to_next_and_reports_reasons(store: Store) -> None:
    failing = Failing(RemoteError("test.io: 503 in repair", status=503))
    assert Fetcher([failing, Memory(a=made("a"))], store).manifest(named("test.io/a:1"))
    with pytest.raises(RemoteError, match="503 in repair") as raised:
        Fetcher([failing, Memory()], store).manifest(named("test.io/a:1"))
    assert raised.value.status == 503
    with pytest.raises(FinalSourceError, match="is damaged"):
        Fetcher([Failing(FinalSourceError("images/a.tar is damaged")), Memory(a=made("a"))], store).manifest(named("test.io/a:1"))
    with pytest.raises(RemoteError, match=r"503 in repair; test\.io/a:1: 404 unknown") as raised:
        Fetcher([failing, Failing(RemoteError("test.io/a:1: 404 unknown", status=404))], store).manifest(named("test.io/a:1"))
    assert raised.value.status == 404
    with pytest.raises(RemoteError, match=r"test\.io/a:1: no source has it") as raised:
        Fetcher([Memory()], store).manifest(named("test.io/a:1"))
    assert raised.value.status == 404


def test_blob_failed_transfer_can_be_retried(store: Store) -> None:
    image = made("a")
    source = Memory(a=image)
    source.tamper = lambda data: b"?" * len(data)
    fetcher = Fetcher([source], store)
    with pytest.raises(RemoteError):
        fetcher.blob(named("test.io/a:1"), layer_of(image)).result()
    source.tamper = lambda data: data
    fetcher.blob(named("test.io/a:1"), layer_of(image)).result()
    assert store.read(layer_of(image)) == image[layer_of(image)]


def test_close_cancels_transfers_and_removes_temporary_files(store: Store) -> None:
    image = made("a", size=3 << 20)
    source = Memory(a=image)
    source.go = threading.Semaphore(0)
    fetcher = Fetcher([source], store)
    content = fetcher.blob(named("test.io/a:1"), layer_of(image))
    assert content.size
    fetcher.close()
    with pytest.raises(StoreError):
        content.result()
    with pytest.raises(RemoteError, match="cancelled"):
        fetcher.blob(named("test.io/a:1"), layer_of(image))
    assert not list((store.root / "tmp").iterdir())


def test_manifest_that_no_source_admits_is_not_given(store: Store) -> None:
    image = made("a")
    source = Memory(a=image)
    store.put(image[top(image)])
    refused = Fetcher([Failing(RemoteError("refused by policy", status=403)), Memory()], store)
    with pytest.raises(StoreError):
        refused.manifest(named(f"test.io/a@{top(image)}"))
    assert Fetcher([source], store).manifest(named(f"test.io/a@{top(image)}")).data == image[top(image)]


def test_manifest_child_of_an_admitted_index_is_admitted_with_it(store: Store) -> None:
    child = made("a")
    index = indexed(amd64=child)
    source = Memory(a=index)
    fetcher = Fetcher([source], store)
    fetcher.manifest(named("test.io/a:1"))
    source.admit = lambda pinned: False  # type: ignore[method-assign]
    assert fetcher.manifest(named(f"test.io/a@{top(child)}")).digest == top(child)
    with pytest.raises(StoreError, match="no source vouches for it"):
        fetcher.manifest(named(f"test.io/elsewhere@{top(child)}"))


def test_manifest_damaged_in_the_store_is_fetched_again(store: Store) -> None:
    image = made("a")
    store.put(image[top(image)])
    store.path(top(image)).write_bytes(b"{}")
    source = Memory(a=image)
    assert Fetcher([source], store).manifest(named(f"test.io/a@{top(image)}")).data == image[top(image)]
    assert store.read(top(image)) == image[top(image)]
