"""Images that go into an archive: some platforms of them or all, and what is attached to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.archive import selection
from harness.oci.archive.save import save
from harness.oci.graph import is_manifest
from harness.oci.model import Platform, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import attach, for_platform, load, members, packed, put_index, put_manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.tag("web:1", put_index(store, put_manifest(store, b"common", b"old")))
    store.tag("web:2", put_index(store, put_manifest(store, b"common", b"new")))
    return store


@pytest.fixture
def multi(store: Store) -> Store:
    parts = [for_platform(put_manifest(store, name.encode()), f"linux/{name}") for name in ("amd64", "arm64")]
    store.tag("multi", put_index(store, *parts))
    return store


def test_save_one_platform_keeps_index_digest_and_omits_others(multi: Store, other: Store, tmp_path: Path) -> None:
    save(multi, ["multi"], tmp_path / "arm.tar", platforms=[Platform.parse("arm64")])
    assert load(other, tmp_path / "arm.tar").names == {"multi:latest": multi.resolve("multi")}
    assert other.has(digest_of(b"arm64"))
    assert not other.has(digest_of(b"amd64"))


def test_save_partial_image_without_platform_is_refused_with_hint(multi: Store, other: Store, tmp_path: Path) -> None:
    save(multi, ["multi"], tmp_path / "arm.tar", platforms=[Platform.parse("arm64")])
    load(other, tmp_path / "arm.tar")
    with pytest.raises(StoreError, match="multi:latest is not whole") as caught:
        save(other, ["multi"], tmp_path / "again.tar")
    assert "--platform linux/arm64" in str(caught.value.hint)
    save(other, ["multi"], tmp_path / "again.tar", platforms=[Platform.parse("arm64")])
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "arm.tar").read_bytes()


def test_load_missing_blob_of_saved_platform_is_refused(multi: Store, other: Store, tmp_path: Path) -> None:
    save(multi, ["multi"], tmp_path / "arm.tar", platforms=[Platform.parse("arm64")])
    files = members(tmp_path / "arm.tar")
    del files["blobs/sha256/" + digest_of(b"arm64")[7:]]
    with pytest.raises(StoreError, match=f"of multi:latest it lacks blob {digest_of(b'arm64')}"):
        load(other, packed(files))


def test_save_platform_absent_from_image_is_refused(multi: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"not made for linux/s390x.*\n.*linux/amd64, linux/arm64"):
        save(multi, ["multi"], tmp_path / "s.tar", platforms=[Platform.parse("s390x")])


def test_save_includes_attachments_and_attachments_of_attachments(store: Store, other: Store, tmp_path: Path) -> None:
    image = store.resolve("web:1")
    signature = attach(store, "web", image, ".sig", b"signature")
    sbom = attach(store, "ghcr.io/x/web", image, "", b"sbom")
    of_sbom = attach(store, "web", store.resolve(sbom), ".sig", b"signature of the sbom")
    unrelated = attach(store, "web", store.resolve("web:2"), ".sig", b"other")
    save(store, ["web:1"], tmp_path / "web.tar")
    names = load(other, tmp_path / "web.tar").names
    assert set(names) == {"web:1", signature, sbom, of_sbom}
    assert unrelated not in other.names()
    assert other.names() == names
    assert other.has(digest_of(b"signature of the sbom"))


def test_images_of_an_unnamed_image_raises(store: Store) -> None:
    digest = put_manifest(store, b"unnamed").digest
    with pytest.raises(StoreError, match="has no name to be saved under"):
        selection.images_of(store, [digest], ())
    with pytest.raises(StoreError, match="nothing to save"):
        selection.images_of(store, [], ())


def test_images_of_a_digest_have_the_name_of_the_store(store: Store) -> None:
    (image,) = selection.images_of(store, [store.resolve("web:2").digest], ())
    assert (image.name, image.root) == ("web:2", store.resolve("web:2"))


def test_blobs_of_images_are_manifests_first_then_others_each_once(store: Store) -> None:
    blobs = selection.blobs_of(store, selection.images_of(store, ["web:2", "web:1"], ()))
    kinds = [is_manifest(blob) for blob in blobs]
    assert kinds == sorted(kinds, reverse=True)
    assert sum(kinds) == 4
    others = [blob.digest for blob in blobs if not is_manifest(blob)]
    assert others == sorted({digest_of(data) for data in (b"common", b"old", b"new", b"{}")})
