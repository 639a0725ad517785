"""Blobs of an archive on their way into the store: written once, compared where they exist, refused when they are wrong."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest

from harness.errors import StoreError
from harness.oci.archive.blob_writer import Intake
from harness.oci.archive.volumes import DamagedError
from harness.oci.model import digest_of
from harness.oci.store import Store

DATA = os.urandom(5 << 20)


def reading(data: bytes) -> Callable[[int], bytes]:
    return io.BytesIO(data).read


def test_take_writes_new_blobs_and_compares_present_ones(store: Store) -> None:
    store.put(b"present")
    before = store.path(digest_of(b"present")).stat().st_ino
    with Intake(store) as intake:
        for data in (DATA, b"present", b"", b"small"):
            intake.take(digest_of(data), len(data), reading(data))
        intake.wait(digest_of(DATA))
        assert store.has(digest_of(DATA))
    assert (intake.written, intake.present) == (3, 1)
    assert store.read(digest_of(DATA)) == DATA
    assert store.path(digest_of(b"present")).stat().st_ino == before


@pytest.mark.parametrize("damage", [0, 1, 4 << 20, -1])
def test_take_replaces_a_blob_that_is_damaged_in_the_store(store: Store, damage: int) -> None:
    digest, _ = store.put(DATA)
    damaged = bytearray(DATA)
    damaged[damage] ^= 1
    store.path(digest).write_bytes(damaged)
    with Intake(store) as intake:
        intake.take(digest, len(DATA), reading(DATA))
    assert (intake.written, intake.present) == (1, 0)
    assert store.read(digest) == DATA


def test_take_wrong_bytes_raises_and_keeps_the_good_blob(store: Store) -> None:
    digest, size = store.put(b"good")
    with pytest.raises(DamagedError, match=f"4 bytes that should be {digest} are {digest_of(b'evil')}"), Intake(store) as intake:
        intake.take(digest, size, reading(b"evil"))
    assert store.read(digest) == b"good"


def take(store: Store, *blobs: tuple[str, int, Callable[[int], bytes]]) -> None:
    with Intake(store) as intake:
        for blob in blobs:
            intake.take(*blob)


def test_take_raises_the_failure_of_an_earlier_blob(store: Store) -> None:
    with pytest.raises(StoreError, match="that should be"):
        take(store, *((digest_of(str(number).encode()), 1, bytes) for number in range(1000)))
    assert not list(store.temporary.iterdir())


def test_take_source_that_fails_keeps_nothing_of_that_blob(store: Store) -> None:
    def broken(size: int) -> bytes:
        raise EOFError("the stream ends")

    with pytest.raises(EOFError, match="the stream ends"):
        take(store, (digest_of(b"first"), 5, reading(b"first")), (digest_of(DATA), len(DATA), broken))
    assert not store.has(digest_of(DATA))
    assert not list(store.temporary.iterdir())
