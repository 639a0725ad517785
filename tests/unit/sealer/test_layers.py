"""The storage of a registry in the layers of an image."""

from __future__ import annotations

import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.layer import unpack
from harness.oci.store import Store
from harness.sealer import convert, listing
from harness.sealer import image as sealer_image
from harness.sealer import layers as sealer_layers
from tests.integration import registry as made
from tests.integration import sealer
from tests.unit.sealer.examples import NAMES, NGINX, PAUSE, TREE, converted, names, problems, simple, tree_of, written


def test_convert_storage_spread_over_layers_is_restored(store: Store) -> None:
    files = list(sealer.storage(TREE).items())
    spread = [dict(files[number::3]) for number in range(3)]
    found = converted(store, sealer.image([sealer.ROOTFS, *spread], images=NAMES))
    assert (len(names(found)), problems(found)) == (3, [])


def test_convert_whiteouts_remove_files_of_lower_layers(store: Store, tmp_path: Path) -> None:
    above = {
        f"{sealer.STORAGE}/repositories/library/.wh.nginx": b"",
        "manifests/.wh.app.yaml": b"",
        "etc/.wh..wh..opq": b"",
        "etc/new.yml": b"new",
    }
    image = sealer.image([{**sealer.ROOTFS, "manifests/app.yaml": b""}, sealer.storage(TREE), above], images=NAMES)
    found = converted(store, image)
    assert problems(found) == [("missing", "docker.io/library/nginx:1.25")]
    out = tree_of(store, found, tmp_path / "out")
    assert "manifests/app.yaml" not in out
    assert {path for path in out if path.startswith("etc/")} == {"etc/new.yml"}


@pytest.mark.parametrize("removal", [".wh.registry", "registry/.wh..wh..opq", "registry/docker/.wh.registry"])
def test_convert_registry_removed_and_recreated_has_new_images_only(store: Store, removal: str) -> None:
    new = {removal: b"", **sealer.storage({"pause:3.5": PAUSE})}
    found = converted(store, sealer.image([sealer.ROOTFS, sealer.storage(TREE), new], images=NAMES))
    assert names(found) == ["registry.k8s.io/pause:3.5"]
    assert {name for kind, name in problems(found) if kind == "missing"} == {
        "docker.io/library/nginx:1.25", "registry.example.com:5000/acme/app:v2",
    }  # fmt: skip


def test_convert_file_over_registry_loses_images_and_registry_over_file_keeps_them(store: Store) -> None:
    file: sealer.Files = {"registry/docker": b"a file"}
    gone = converted(store, sealer.image([sealer.ROOTFS, sealer.storage(TREE), file], images=NAMES[:1]))
    assert problems(gone) == [("missing", "docker.io/library/nginx:1.25"), ("stray", "registry/docker")]
    there = converted(store, sealer.image([sealer.ROOTFS, file, sealer.storage(TREE)], images=NAMES))
    assert (len(names(there)), problems(there)) == (3, [])


def test_convert_tag_moved_by_upper_layer_names_new_image(store: Store) -> None:
    newer = made.image("nginx, newer")
    layers = [sealer.ROOTFS, sealer.storage({"library/nginx:1": NGINX}), sealer.storage({"library/nginx:1": newer})]
    found = converted(store, sealer.image(layers, images=sealer.listed("nginx:1")))
    assert found.platforms[0].images.images[0].digest == newer.digest
    # The old one is there still, without a tag.
    assert problems(found) == [("unnamed", f"library/nginx@{NGINX.digest}")]


def test_convert_hard_links_are_kept_in_any_order(store: Store, tmp_path: Path) -> None:
    made_by_tar = sealer.layer({"lib/z": b"content", "lib/b": b"other"}, hardlinks={"lib/a": "lib/z", "lib/m": "./lib/a"})
    found = converted(store, sealer.image([made_by_tar]))
    unpack(store, found.platforms[0].layers, tmp_path / "out")
    inodes = {(tmp_path / "out/lib" / name).stat().st_ino for name in ("a", "m", "z")}
    assert len(inodes) == 1
    assert (tmp_path / "out/lib/m").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("name", "kind", "target", "says"),
    [
        ("../escape", tarfile.REGTYPE, "", "leaves the rootfs"),
        ("/etc/passwd", tarfile.REGTYPE, "", "leaves the rootfs"),
        ("registry/../../x", tarfile.REGTYPE, "", "leaves the rootfs"),
        ("dev/sda", tarfile.BLKTYPE, "", "is a device"),
        ("a/.wh..", tarfile.REGTYPE, "", "removes something outside"),
        (".wh..wh..opq", tarfile.REGTYPE, "", "removes the whole rootfs"),
        ("bin/x", tarfile.LNKTYPE, "bin/nothere", "is not a file of this layer"),
        (f"{sealer.STORAGE}/blobs/sha256/aa/x", tarfile.LNKTYPE, "bin/kubeadm", "is not before it"),
    ],
)
def test_convert_layer_with_unsafe_entry_is_refused(store: Store, name: str, kind: bytes, target: str, says: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    with pytest.raises(StoreError, match=says):
        converted(store, sealer.image([sealer.layer(sealer.ROOTFS, extra=[entry])]))


def test_convert_missing_or_damaged_layer_is_refused(store: Store) -> None:
    image = simple()
    layer = json.loads(image.data)["layers"][0]["digest"]
    sealer.put(store, "app", image, without=[layer])
    with pytest.raises(StoreError, match=f"{layer} is not in"):
        convert.convert(store, "app")
    store.path(layer).write_bytes(b"garbage")
    with pytest.raises(StoreError, match="damaged"):
        convert.convert(store, "app")


def test_convert_stray_files_in_registry_are_reported_and_dropped(store: Store, tmp_path: Path) -> None:
    extra: sealer.Files = {"registry/notes.txt": b"x", "registry/away": "/etc", "registry/scheduler-state.json": b"{}"}
    found = converted(store, sealer.image([sealer.ROOTFS, {**sealer.storage(TREE), **extra}], images=NAMES))
    assert problems(found) == [("stray", "registry/away"), ("stray", "registry/notes.txt")]
    assert not any(path.startswith("registry") for path in tree_of(store, found, tmp_path / "out"))


def test_convert_large_blob_is_never_held_in_memory(store: Store) -> None:
    large = made.image("large", layers=1, size=32 << 20)
    sealer.put(store, "app", simple({"library/large:1": large}, sealer.listed("large:1")))
    tracemalloc.start()
    try:
        found = convert.convert(store, "app")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert names(found) == ["docker.io/library/large:1"]
    assert peak < 12 << 20


def test_convert_second_time_reads_no_layer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = converted(store, simple())

    def refuse(*_: object) -> None:
        pytest.fail("a layer is read again")

    monkeypatch.setattr(sealer_layers, "open_layer", refuse)
    assert convert.convert(store, "sealerio/app:v1") == first
    listing.look(store, sealer_image.read(store, "sealerio/app:v1"))


def test_look_keeps_manifests_only_and_later_convert_stores_layers(store: Store) -> None:
    sealer.put(store, "app", simple())
    (inside,) = listing.look(store, sealer_image.read(store, "app"))
    layer = next(digest for digest, data in NGINX.blobs.items() if not data.startswith(b"{"))
    assert not store.has(layer)
    assert inside.sizes["docker.io/library/nginx:1.25"] == sum(map(len, NGINX.blobs.values())) + len(NGINX.data)
    written(store, convert.convert(store, "app"))
    assert store.has(layer)


def test_convert_blobs_deleted_since_are_read_from_layer_again(store: Store) -> None:
    first = converted(store, simple())
    for digest in NGINX.digests:
        store.path(digest).unlink()
    again = convert.convert(store, "sealerio/app:v1")
    assert again == first
    written(store, again)
