"""The cache of unpacked trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cloudimage import unpacked
from harness.host import paths
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.store import Store


@pytest.mark.parametrize("before", [None, 0o755])
def test_unpacked_trees_are_for_their_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int | None) -> None:
    monkeypatch.setattr(paths, "cache", lambda: tmp_path / "cache")
    if before is not None:
        unpacked.folder().mkdir(parents=True)
        unpacked.folder().chmod(before)
    store = Store(tmp_path / "store")
    layer = write_layer([LayerEntry("bin", "dir"), LayerEntry("bin/mount", "file", 0o4755, b"#!")], store)
    tree = unpacked.unpacked_rootfs(store, [layer.descriptor])
    assert unpacked.folder().stat().st_mode & 0o7777 == 0o700
    assert (tree / "bin/mount").stat().st_mode & 0o7777 == 0o4755, "the node is to get what the image says"
