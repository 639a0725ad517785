"""The files of a rootfs, merged from the entries of its layers."""

from __future__ import annotations

import hashlib
import io
import posixpath
import random
import shutil
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


@pytest.mark.parametrize("seed", range(20))
def test_merged_random_layers_equal_unpacked_tree(seed: int, store: Store, tmp_path: Path) -> None:
    """Layers of files, folders, links, hard links and removals, drawn by chance, against the tree on disk."""
    made = unpackable_layers(random.Random(seed), store, tmp_path / "tree")
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


def unpackable_layers(chance: random.Random, store: Store, tree: Path) -> list[Descriptor]:
    """Random layers that are unpacked into ``tree``: about two of three leave the tree, or go through a file."""
    for _ in range(100):
        layers = [random_layer(chance, store) for _ in range(4)]
        try:
            unpack(store, layers, tree)
        except StoreError:
            shutil.rmtree(tree)
        else:
            return layers
    pytest.fail("no random layers can be unpacked")


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
