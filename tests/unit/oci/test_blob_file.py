"""Files of blobs that grow: their digest at the end, and an earlier attempt that is resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.oci.blob_file import BlobWriter, MismatchError, PartialBlob
from harness.oci.model import digest_of
from harness.oci.store import Store

DATA = bytes(range(256)) * 20


@contextlib.contextmanager
def disk() -> Iterator[None]:
    yield


def test_writer_knows_digest_and_size_of_what_it_wrote(tmp_path: Path) -> None:
    blob = BlobWriter(tmp_path / "blob", disk)
    for piece in (b"one", memoryview(b"two"), b""):
        blob.write(piece)
    blob.close()
    assert (blob.digest, blob.size) == (digest_of(b"onetwo"), 6)
    assert (tmp_path / "blob").read_bytes() == b"onetwo"


def test_partial_new_file_is_not_resumed(tmp_path: Path) -> None:
    blob = PartialBlob(tmp_path / "blob", disk)
    assert (blob.size, blob.resumed, blob.digest) == (0, False, digest_of(b""))
    blob.write(DATA)
    blob.close()
    assert blob.digest == digest_of(DATA)


def test_partial_counts_and_hashes_what_an_earlier_try_left(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(DATA[:1000])
    blob = PartialBlob(tmp_path / "blob", disk)
    assert (blob.size, blob.resumed) == (1000, True)
    blob.write(DATA[1000:])
    assert (blob.size, blob.digest) == (len(DATA), digest_of(DATA))
    blob.restart()
    assert (blob.size, blob.resumed, blob.digest) == (0, False, digest_of(b""))
    blob.write(b"other")
    blob.close()
    assert (tmp_path / "blob").read_bytes() == b"other"


def test_partial_is_lost_when_its_file_was_moved_or_replaced(tmp_path: Path) -> None:
    blob = PartialBlob(tmp_path / "blob", disk)
    assert not blob.lost
    (tmp_path / "blob").rename(tmp_path / "moved")
    assert blob.lost
    (tmp_path / "blob").write_bytes(b"another's")
    assert blob.lost
    blob.close()


def fetch(store: Store, size: int, rest: bytes, *, fails: bool = False) -> int | None:
    """Fetch the blob of DATA, which gets ``rest``; the bytes that were there before, None when the store has the blob."""
    with store.partial(digest_of(DATA), size) as blob:
        if blob is None:
            return None
        before = blob.size
        blob.write(rest)
        if fails:
            raise ConnectionError("the line is down")
        return before


def test_store_partial_wrong_digest_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(MismatchError, match="5 bytes that should be") as wrong:
        fetch(store, 5, b"wrong")
    assert not wrong.value.resumed
    assert not list(store.partial_blobs.iterdir())
    assert not store.has(digest_of(DATA))


def test_store_partial_failure_leaves_the_begin_for_the_next_try(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(ConnectionError, match="the line is down"):
        fetch(store, len(DATA), DATA[:700], fails=True)
    assert fetch(store, len(DATA), DATA[700:]) == 700
    assert store.read(digest_of(DATA)) == DATA
    assert fetch(store, len(DATA), b"") is None
