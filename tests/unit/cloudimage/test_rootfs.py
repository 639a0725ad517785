"""The files of a rootfs, merged from the entries of its layers."""

from __future__ import annotations

import hashlib
import io
import posixpath
import random
import tarfile
from pathlib import Path

import pytest

from harness.cloudimage import prune, rootfs
from harness.errors import StoreError
from harness.oci.layer import scan, unpack
from harness.oci.model import OCI_LAYER, Descriptor
from harness.oci.store import Store
from tests.unit.cloudimage.examples import changes, file, put


def test_rootfs_file_listing_of_layer_is_cached(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "old", [file("a", "1")])
    put(store, "new", [file("a", "2")])
    first = changes(store, "old", "new")
    monkeypatch.setattr(rootfs, "open_layer", lambda *_: pytest.fail("read again"))
    assert changes(store, "old", "new") == first != []


def test_rootfs_damaged_layer_raises_store_error_and_is_not_cached(store: Store) -> None:
    put(store, "old", [file("a", "1")])
    layer = put(store, "new", [file("a", "2")]).platforms[0].layers[0]
    store.path(layer.digest).write_bytes(b"\0" * layer.size)
    with pytest.raises(StoreError, match="damaged"):
        changes(store, "old", "new")
    assert store.record(prune.LISTING, layer.digest[7:]) is None


@pytest.mark.parametrize("seed", range(40))
def test_merged_random_layers_equal_unpacked_tree(seed: int, store: Store, tmp_path: Path) -> None:
    """Layers of files, folders, links, hard links and removals, drawn by chance, against the tree on disk."""
    chance = random.Random(seed)
    made = [random_layer(chance, store) for _ in range(4)]
    unpacked = True
    try:
        unpack(store, made, tmp_path / "tree")
    except StoreError:
        unpacked = False  # the layers would leave the tree, or go through a file
    if not unpacked:
        return
    on_disk = {}
    for entry in scan(tmp_path / "tree"):
        path = tmp_path / "tree" / entry.path
        data = path.read_bytes() if entry.kind in ("file", "hardlink") else b""
        kind = "file" if entry.kind == "hardlink" else entry.kind
        on_disk[entry.path] = (
            kind,
            entry.mode,
            hashlib.sha256(data).hexdigest() if kind == "file" else "",
            entry.target if kind == "symlink" else "",
        )
    on_paper = {path: (one.kind, one.mode, one.digest, one.target) for path, one in rootfs.merged(store, made).items()}
    assert on_paper == on_disk


def random_layer(chance: random.Random, store: Store) -> Descriptor:
    names = ["a", "b", "c"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        files: list[str] = []
        for _ in range(chance.randint(1, 6)):
            folder = "/".join(chance.choice(names) for _ in range(chance.randint(0, 2)))
            name = chance.choice(names)
            path = posixpath.join(folder, name)
            info = tarfile.TarInfo(path)
            info.mode = chance.choice([0o644, 0o755])
            data = b""
            match chance.choice(["file", "file", "dir", "dir", "symlink", "hardlink", "whiteout", "opaque"]):
                case "file":
                    data = str(chance.random()).encode()
                    files.append(path)
                case "dir":
                    info.type, info.mode = tarfile.DIRTYPE, 0o755
                case "symlink":
                    info.type, info.linkname = tarfile.SYMTYPE, chance.choice(names)
                case "hardlink":
                    if not files:
                        continue
                    info.type, info.linkname = tarfile.LNKTYPE, chance.choice(files)
                case "whiteout":
                    info.name = posixpath.join(folder, f".wh.{name}")
                case _:
                    info.name = posixpath.join(folder, ".wh..wh..opq")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return Descriptor(OCI_LAYER, *store.put(buffer.getvalue()))


def test_random_layers_unpack_for_ten_or_more_of_forty_seeds(store: Store, tmp_path: Path) -> None:
    good = 0
    for seed in range(40):
        chance = random.Random(seed)
        made = [random_layer(chance, store) for _ in range(4)]
        try:
            unpack(store, made, tmp_path / str(seed))
            good += 1
        except StoreError:
            continue
    assert good >= 10
