"""What prune removes, and what it leaves."""

from __future__ import annotations

import dataclasses
import fcntl
import os
from pathlib import Path

import pytest

from harness import cloudimage
from harness.cli import app as cli_app
from harness.cloudimage import prune
from harness.cloudimage import unpacked as cloudimage_unpacked
from harness.host import docker, scratch
from harness.oci.layer import write_layer
from harness.oci.model import digest_of
from harness.oci.store import Store
from tests.unit.cloudimage.examples import attach, changes, file, put


def kinds(found: prune.Pruned) -> dict[str, int]:
    return {kind.name: kind.count for kind in found.kinds if kind.count}


def test_prune_dry_run_reports_later_removals_and_removes_nothing(store: Store, tmp_path: Path) -> None:
    kept = put(store, "kept", [file("a", "1")])
    gone = put(store, "gone", [file("b", "2")])
    store.keep("unfinished", "a" * 64, {"image": digest_of(b"x")})
    (store.root / "partial" / ("b" * 64)).write_bytes(b"12345")
    (store.root / "tmp/left").write_bytes(b"123")
    cloudimage_unpacked.folder().mkdir(parents=True)
    for name in (
        cloudimage_unpacked.identity(kept.platforms[0].layers),
        cloudimage_unpacked.identity(gone.platforms[0].layers),
        ".unpacking-x",
    ):
        (cloudimage_unpacked.folder() / name).mkdir()
        (cloudimage_unpacked.folder() / name / "file").write_bytes(b"1234")
    left = tmp_path / "cache/tmp/0"
    left.mkdir(parents=True)
    (left / "x").write_bytes(b"12")
    store.untag("gone")
    everything = sorted(path for root in (store.root, tmp_path / "cache") for path in root.rglob("*"))
    before = prune.prune(store, dry_run=True)
    assert (
        sorted(path for root in (store.root, tmp_path / "cache") for path in root.rglob("*") if path.name != "rootfs.lease") == everything
    )
    after = prune.prune(store)
    assert before == dataclasses.replace(after, dry_run=True)
    alone = {blob.digest for blob in gone.blobs} - {blob.digest for blob in kept.blobs}
    assert kinds(after) == {"blobs": len(alone), "unfinished": 2, "records": 1, "trees": 2, "temporary folders": 1}
    assert {kind.name: kind.bytes for kind in after.kinds}["unfinished"] == 8
    assert {kind.name: kind.bytes for kind in after.kinds}["trees"] == 8
    assert [path.name for path in cloudimage_unpacked.folder().iterdir()] == [cloudimage_unpacked.identity(kept.platforms[0].layers)]
    cloudimage.verify(store, cloudimage.read(store, "kept"))
    assert kinds(prune.prune(store)) == {}
    assert prune.prune(store).bytes == 0


def test_prune_keeps_build_steps_without_cache_option(store: Store) -> None:
    layer = write_layer([file("a", "1")], store)
    store.keep("step", "b" * 64, {"layer": layer.descriptor.to_json(), "diffId": layer.diff_id})
    assert kinds(prune.prune(store)) == {}
    assert store.has(layer.descriptor.digest)
    assert kinds(prune.prune(store, cache=True, dry_run=True)) == {"blobs": 1, "records": 1}
    assert kinds(prune.prune(store, cache=True)) == {"blobs": 1, "records": 1}
    assert store.record("step", "b" * 64) is None


def test_prune_removes_file_listing_of_removed_layer(store: Store) -> None:
    put(store, "old", [file("a", "1")])
    put(store, "new", [file("a", "2")])
    changes(store, "old", "new")
    store.untag("new")
    prune.prune(store)
    layer = cloudimage.read(store, "old").platforms[0].layers[0]
    assert [path.stem for path in (store.root / "cache" / prune.LISTING).iterdir()] == [layer.digest[7:]]


@pytest.mark.parametrize("options", [{}, {"cache": True}, {"dry_run": True}])
def test_prune_keeps_blobs_and_records_of_store_in_use(store: Store, options: dict[str, bool]) -> None:
    stray, _ = store.put(b"stray")
    store.keep("step", "b" * 64, {"layer": digest_of(b"x")})
    with store.shared_lease():
        found = prune.prune(Store(store.root), **options)  # type: ignore[arg-type]
    assert found.busy
    assert kinds(found) == {}
    assert store.has(stray)
    assert store.record("step", "b" * 64) is not None


def test_prune_with_damaged_index_is_refused_and_removes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(store, "web", [file("a")])
    stray, _ = store.put(b"stray")
    index = store.path(image.digest)
    good = index.read_bytes()
    index.write_bytes(good[:-1])
    before = sorted(store.root.rglob("*"))
    monkeypatch.setattr(docker, "running", lambda: None)
    assert cli_app.execute(["prune"]) == 4
    assert "nothing is removed: web:latest is damaged" in capsys.readouterr().err
    assert sorted(store.root.rglob("*")) == before
    index.write_bytes(good)
    assert cli_app.execute(["prune"]) == 0
    assert not store.has(stray)


def test_prune_keeps_tree_in_use_by_process(store: Store) -> None:
    image = put(store, "web", [file("a", "1")])
    place = cloudimage_unpacked.unpacked_rootfs(store, image.platforms[0].layers)
    store.untag("web")
    found = prune.prune(store)
    assert (found.trees_in_use, kinds(found).get("trees"), place.is_dir()) == (1, None, True)
    os.close(cloudimage_unpacked._locks.pop(place))
    assert kinds(prune.prune(store)) == {"trees": 1}
    assert not list(cloudimage_unpacked.folder().iterdir())


def test_prune_during_unpacking_keeps_trees(store: Store) -> None:
    (cloudimage_unpacked.folder() / "unneeded").mkdir(parents=True)
    with cloudimage_unpacked._lease(fcntl.LOCK_SH):
        assert prune.prune(store).trees_busy
    assert kinds(prune.prune(store)) == {"trees": 1}


def test_unpacked_rootfs_removed_tree_is_unpacked_and_locked_again(store: Store) -> None:
    image = put(store, "web", [file("a", "1")])
    layers = image.platforms[0].layers
    place = cloudimage_unpacked.unpacked_rootfs(store, layers)
    held = os.fstat(cloudimage_unpacked._locks[place]).st_ino
    # The folder stays open, so that no other gets its inode; only its lock is gone.
    fcntl.flock(cloudimage_unpacked._locks[place], fcntl.LOCK_UN)
    assert cloudimage_unpacked.remove(()).count == 1
    assert not place.exists()
    assert (cloudimage_unpacked.unpacked_rootfs(store, layers) / "a").read_text() == "1"
    assert os.fstat(cloudimage_unpacked._locks[place]).st_ino == place.stat().st_ino != held
    assert cloudimage_unpacked.remove(()).in_use == 1
    assert place.is_dir()


def test_prune_removes_tree_with_read_only_folders(store: Store) -> None:
    inside = cloudimage_unpacked.folder() / "unneeded/folder"
    inside.mkdir(parents=True)
    (inside / "file").write_text("x")
    inside.chmod(0o500)
    assert kinds(prune.prune(store)) == {"trees": 1}
    assert not (cloudimage_unpacked.folder() / "unneeded").exists()
    assert not list(cloudimage_unpacked.folder().iterdir())


def test_prune_keeps_temporary_folder_of_running_process(store: Store) -> None:
    mine = scratch.folder()
    prune.prune(store)
    assert mine.is_dir()


def test_prune_removes_attachments_of_removed_images(store: Store) -> None:
    image = put(store, "web", [file("a", "1")])
    stray = attach(store, image)
    on_stray = attach(store, dataclasses.replace(image, digest=store.resolve(stray).digest))
    new = put(store, "web", [file("a", "2")])
    kept = attach(store, new)
    found = prune.prune(store, dry_run=True)
    assert set(found.names) == {stray, on_stray}
    assert {stray, on_stray} <= set(store.names())
    assert set(prune.prune(store).names) == {stray, on_stray}
    assert set(store.names()) == {"web:latest", kept}
    assert not store.has(image.digest)
