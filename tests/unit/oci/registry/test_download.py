"""A blob on its way into the store, and its readers."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.oci.registry.download import Stored
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher
from harness.oci.store import Store
from tests.unit.oci.memory import Memory, layer_of, made, named


def test_blob_with_several_followers_is_fetched_once(store: Store) -> None:
    image = made("a", size=5 << 20)
    source = Memory(a=image)
    source.go = threading.Semaphore(0)
    fetcher = Fetcher([source], store)
    digest = layer_of(image)

    def follow(_: int) -> int:
        content = fetcher.blob(named("test.io/a:1"), digest)
        offset = 0
        while offset < content.size:
            offset = content.available(offset)
        content.result()
        return offset

    with ThreadPoolExecutor(5) as pool:
        followers = [pool.submit(follow, number) for number in range(5)]
        source.go.release(100)
        assert [follower.result(10) for follower in followers] == [5 << 20] * 5
    assert source.asked == [digest]
    assert source.opened[0].closed
    store.verify(digest)
    assert fetcher.blob(named("test.io/a:1"), digest).available(0) == 5 << 20  # from the store now


def test_blob_first_bytes_are_available_before_wrong_digest_raises(store: Store) -> None:
    image = made("a", size=3 << 20)
    source = Memory(a=image)
    source.go = threading.Semaphore(0)
    source.tamper = lambda data: data[:-1] + b"?"
    content = Fetcher([source], store).blob(named("test.io/a:1"), layer_of(image))
    assert content.size == 3 << 20
    source.go.release()
    assert content.available(0) == 1 << 20
    source.go.release(10)
    with pytest.raises(RemoteError, match=f"should be blob {layer_of(image)}"):
        content.available(2 << 20)
    with pytest.raises(RemoteError):
        content.result()
    assert not store.has(layer_of(image))


@pytest.mark.parametrize("extra", [b"more", b"m" * (2 << 20)], ids=["a little", "a lot"])
def test_blob_longer_than_declared_is_refused(store: Store, extra: bytes) -> None:
    image = made("a", size=1 << 20)
    source = Memory(a=image)
    source.tamper = lambda data: data + extra
    with pytest.raises(RemoteError, match="longer than 1048576 bytes"):
        Fetcher([source], store).blob(named("test.io/a:1"), layer_of(image)).result()
    assert not store.has(layer_of(image))


def test_stored_blob_is_all_available(store: Store) -> None:
    digest, size = store.put(b"0123456789")
    stored = Stored(store.path(digest), size)
    assert stored.available(3) == 10
    stored.result()
    with stored.open() as descriptor:
        assert os.pread(descriptor, 4, 2) == b"2345"
