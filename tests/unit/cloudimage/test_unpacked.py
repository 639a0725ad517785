"""The cache of unpacked trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.cloudimage import prune, unpacked
from harness.host import paths
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.store import Store
from tests.unit.cloudimage.examples import file, put


@pytest.mark.parametrize("before", [None, 0o755])
def test_unpacked_rootfs_folder_has_mode_0700_and_files_keep_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None
) -> None:
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    if before is not None:
        unpacked.folder().mkdir(parents=True)
        unpacked.folder().chmod(before)
    store = Store(tmp_path / "store")
    layer = write_layer([LayerEntry("bin", "dir"), LayerEntry("bin/mount", "file", 0o4755, b"#!")], store)
    tree = unpacked.unpacked_rootfs(store, [layer.descriptor])
    assert unpacked.folder().stat().st_mode & 0o7777 == 0o700
    assert (tree / "bin/mount").stat().st_mode & 0o7777 == 0o4755, "the node is to get what the image says"


def test_stores_sharing_cache_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    assert unpacked.stores() == ()
    for home in ("one", "two", "one"):
        store = Store(tmp_path / home)
        layer = write_layer([LayerEntry("bin", "dir")], store)
        unpacked.unpacked_rootfs(store, [layer.descriptor])
    assert unpacked.stores() == (tmp_path / "one", tmp_path / "two")


def test_prune_keeps_trees_of_images_in_other_existing_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    trees = []
    for store in (one, two):
        image = put(store, "web", [file(f"of-{store.root.name}")])
        trees.append(unpacked.unpacked_rootfs(store, image.platforms[0].layers))
        os.close(unpacked._locks.pop(trees[-1]))
    prune.prune(one)
    assert [tree.is_dir() for tree in trees] == [True, True]
    two.untag("web")
    prune.prune(one)
    assert [tree.is_dir() for tree in trees] == [True, False]


def test_prune_removes_trees_of_store_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    tree = unpacked.unpacked_rootfs(two, put(two, "web", [file("a")]).platforms[0].layers)
    os.close(unpacked._locks.pop(tree))
    (two.root / "oci-layout").unlink()
    prune.prune(one)
    assert not tree.exists()
    assert not (two.root / "oci-layout").exists()
