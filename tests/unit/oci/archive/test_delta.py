"""Archives of what changed since an image that the receiver has."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from harness.errors import StoreError, UsageError
from harness.oci.archive.index import SINCE
from harness.oci.archive.save import save
from harness.oci.archive.volumes import VolumeReader
from harness.oci.model import OCI_MANIFEST, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import attach, contents, load, members, put_index, put_manifest

COMMON = os.urandom(200_000)
OLD = os.urandom(50_000)
NEW = os.urandom(3_000)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """``web:1`` and ``web:2``, which share a layer and the config."""
    store = Store(tmp_path / "store")
    store.tag("web:1", put_index(store, put_manifest(store, COMMON, OLD)))
    store.tag("web:2", put_index(store, put_manifest(store, COMMON, NEW)))
    return store


# Deltas


def test_save_delta_contains_new_blobs_only_and_lists_base(store: Store, tmp_path: Path) -> None:
    saved = save(store, ["web:2"], tmp_path / "delta.tar", since=["web:1"])
    files = members(tmp_path / "delta.tar")
    assert sum(name.startswith("blobs/") for name in files) == saved.blobs == 3
    assert saved.content < 10_000
    assert saved.whole > 200_000
    assert saved.since == ("web:1",)
    (base,) = json.loads(json.loads(files["index.json"])["annotations"][SINCE])
    assert base["images"] == [{"name": "web:1", "digest": store.resolve("web:1").digest}]
    assert base["blobs"] == sorted([digest_of(COMMON), digest_of(b"{}")])


def test_load_delta_after_base_restores_same_digests(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "1.tar")
    save(store, ["web:2"], tmp_path / "delta.tar", since=["web:1"])
    load(other, tmp_path / "1.tar")
    assert load(other, tmp_path / "delta.tar").names == {"web:2": store.resolve("web:2")}
    assert other.names() == store.names()
    assert contents(other) == contents(store)


@pytest.mark.parametrize("gone", [None, COMMON], ids=["nothing of it is here", "one blob is lacking"])
def test_load_delta_without_base_changes_nothing_and_names_base(store: Store, other: Store, tmp_path: Path, gone: bytes | None) -> None:
    save(store, ["web:1"], tmp_path / "1.tar")
    save(store, ["web:2"], tmp_path / "delta.tar", since=["web:1"])
    if gone:
        load(other, tmp_path / "1.tar")
        other.path(digest_of(gone)).unlink()
    before = contents(other)
    base = store.resolve("web:1").digest
    with pytest.raises(StoreError, match=rf"web:1 \({base}\): {1 if gone else 2} of 2 blobs are not here") as caught:
        load(other, tmp_path / "delta.tar")
    assert "load or pull web:1 first" in str(caught.value.hint)
    assert contents(other) == before
    assert "web:2" not in other.names()


def test_load_delta_with_unnamed_base_blobs_succeeds(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:2"], tmp_path / "delta.tar", since=[store.resolve("web:1").digest])
    for data in (COMMON, b"{}"):
        other.put(data)
    assert list(load(other, tmp_path / "delta.tar").names) == ["web:2"]


def test_save_delta_since_archive_or_earlier_delta_loads_in_sequence(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "1.tar", compress="zstd")
    save(store, ["web:2"], tmp_path / "2.tar", since=[tmp_path / "1.tar"])
    store.tag("web:3", put_index(store, put_manifest(store, COMMON, NEW, b"third")))
    store.untag("web:1")
    saved = save(store, ["web:3"], tmp_path / "3.tar", since=[tmp_path / "2.tar"])
    assert digest_of(b"third").replace("sha256:", "blobs/sha256/") in members(tmp_path / "3.tar")
    assert (saved.blobs, saved.since) == (3, ("web:2",))
    for number in (1, 2, 3):
        load(other, tmp_path / f"{number}.tar")
    assert other.resolve("web:3") == store.resolve("web:3")


@pytest.mark.parametrize("volume_size", [None, 30_000])
def test_save_delta_since_archive_skips_content_of_base(store: Store, tmp_path: Path, volume_size: int | None) -> None:
    save(store, ["web:1"], tmp_path / "1.tar", volume_size=volume_size)
    whole = save(store, ["web:2"], tmp_path / "whole.tar", since=["web:1"])
    read = 0

    original = VolumeReader.readinto

    def readinto(self: VolumeReader, buffer: memoryview) -> int:
        nonlocal read
        count = original(self, memoryview(buffer)[:1000])
        read += count
        return count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VolumeReader, "readinto", readinto)
        saved = save(store, ["web:2"], tmp_path / "delta.tar", since=[tmp_path / "1.tar"])
    assert (saved.blobs, saved.content) == (whole.blobs, whole.content)
    assert read < 20_000


def test_save_delta_since_truncated_archive_is_refused(store: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "1.tar")
    data = (tmp_path / "1.tar").read_bytes()
    for length in (len(data) - 1, len(data) - 1500, len(data) // 2, 1000):
        (tmp_path / "1.tar").write_bytes(data[:length])
        with pytest.raises(StoreError, match="before its end mark"):
            save(store, ["web:2"], tmp_path / "delta.tar", since=[tmp_path / "1.tar"])


def test_load_delta_without_its_bases_names_each_base(store: Store, other: Store, tmp_path: Path) -> None:
    store.tag("db:1", put_manifest(store, b"db"))
    store.tag("all:1", put_index(store, put_manifest(store, COMMON, b"db", b"mine")))
    save(store, ["all:1"], tmp_path / "delta.tar", since=["web:1", "db:1"])
    with pytest.raises(StoreError) as caught:
        load(other, tmp_path / "delta.tar")
    assert "web:1 (sha256:" in str(caught.value.details)
    assert "db:1 (sha256:" in str(caught.value.details)


def test_save_delta_since_unknown_image_or_invalid_archive_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x" * 2000)
    for old, why in (("nosuch", "no such image"), (tmp_path / "text", "not a readable OCI archive"), (tmp_path / "no", "no such file")):
        with pytest.raises((StoreError, UsageError), match=why):
            save(store, ["web:2"], tmp_path / "delta.tar", since=[old])
    assert not (tmp_path / "delta.tar").exists()


def test_save_delta_since_same_image_has_no_blobs_and_loads_name(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "1.tar")
    load(other, tmp_path / "1.tar")
    store.tag("web:again", store.resolve("web:1"))
    assert save(store, ["web:again"], tmp_path / "delta.tar", since=["web:1"]).blobs == 0
    assert load(other, tmp_path / "delta.tar").names == {"web:again": store.resolve("web:1")}


def test_load_merges_arriving_signatures_and_referrers_with_stored_ones(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    load(other, tmp_path / "web.tar")
    image = store.resolve("web:1")
    tag = f"web:{image.digest.replace(':', '-')}"
    attach(store, "web", image, ".sig", b"theirs", b"both")
    attach(store, "web", image, "", b"sbom", b"both")
    attach(other, "web", image, ".sig", b"both", b"ours")
    attach(other, "web", image, "", b"both", b"provenance")
    save(store, ["web:1"], tmp_path / "web.tar")
    for _ in range(2):
        load(other, tmp_path / "web.tar")
        merged = other.json(other.resolve(f"{tag}.sig").digest)
        assert [layer["digest"] for layer in merged["layers"]] == [digest_of(data) for data in (b"both", b"ours", b"theirs")]
        assert other.json(merged["config"]["digest"])["rootfs"]["diff_ids"] == [layer["digest"] for layer in merged["layers"]]
        assert len(other.json(other.resolve(tag).digest)["manifests"]) == 3
        save(other, ["web:1"], io.BytesIO())
    assert other.resolve("web:1") == image
    assert merged["mediaType"] == OCI_MANIFEST
