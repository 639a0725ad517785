"""Parcels: the digests of their files, and the forms in which they are sent."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from harness.lifecycle.provision.distribution import parcel
from harness.oci.store import Store


def test_contents_of_a_file_with_another_digest_raises(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"^blobs/a$"):
        parcel.contents({"blobs/a": tmp_path / "a"}, {"blobs/a": hashlib.sha256(b"original").hexdigest()})


def test_known_contents_are_digested_once_for_all_clusters(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "a").write_bytes(b"original")
    files = {"etc/a": tmp_path / "a"}
    digested = parcel.known_contents(store, "tree-1", files)
    (tmp_path / "a").write_bytes(b"ORIGINAL")
    assert parcel.known_contents(store, "tree-1", files) == digested
    # Of another size it is another one.
    (tmp_path / "a").write_bytes(b"longer than it was")
    assert parcel.known_contents(store, "tree-1", files)["etc/a"].digest != digested["etc/a"].digest
    assert parcel.known_contents(store, "tree-2", files) == parcel.contents(files)


@pytest.mark.parametrize(("path", "fits"), [("bin/a b", True), ("etc/ä", True), ("a\nb", False), ("a\\b", False), ("a\udcff", False)])
def test_plain_admits_names_that_a_list_can_hold(path: str, fits: bool) -> None:
    assert parcel.plain(path) is fits


def test_load_of_some_files_writes_these_and_knows_their_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"content of {name}")
    whole = parcel.Parcel("tree-1", parcel.contents({name: tmp_path / name for name in ("a", "b")}), place="/tree", finish="true")
    stream = io.BytesIO()
    load = whole.load(["b"])
    load.write(stream)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        assert [(entry.name, entry.size, entry.mode) for entry in tar] == [("b", load.size, 0o644)]


def test_manifest_has_digests_in_order_and_a_private_key(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    files = parcel.contents({"z": tmp_path / "a", "b c": tmp_path / "a"})
    manifest = parcel.Parcel("tree-1", files, place="/tree", finish="true", parts=("sha256:a",), beside={"modes": b"644"}).manifest("k")
    digest = hashlib.blake2b(b"a").hexdigest()
    assert manifest["/sums"].data.decode() == f"{digest}  ./b c\n{digest}  ./z\n"
    assert manifest["/have"].data == b"/tree\nsha256:a\n"
    assert (manifest["/key"].data, manifest["/key"].mode) == (b"k\n", 0o600)
    assert manifest["/modes"].data == b"644"
