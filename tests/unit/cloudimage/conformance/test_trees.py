"""Layers as a stream, and the tree that they unpack to."""

from __future__ import annotations

import pytest

from harness.cloudimage.conformance.trees import scan_layer, unpacked
from harness.host import scratch
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_LAYER_GZIP, Descriptor
from harness.oci.store import Store


def test_scan_layer_of_written_layer_is_sorted_without_times_and_owners(store: Store) -> None:
    layer = write_layer([LayerEntry("b", "dir"), LayerEntry("b/c", "file", 0o644, b"12"), LayerEntry("a/x", "whiteout")], store)
    scan = scan_layer(store, layer.descriptor)
    assert (scan.diff_id, scan.problem, scan.entries, scan.size) == (layer.diff_id, None, 3, 2)
    assert (scan.unsorted, scan.dated, scan.owned) == (None, None, None)


def test_scan_layer_other_than_tar_has_problem(store: Store) -> None:
    scan = scan_layer(store, Descriptor(OCI_LAYER_GZIP, *store.put(b"\x1f\x8b\x08 nothing")))
    assert "is not a readable tar" in (scan.problem or "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a.yaml", True), ("b.yaml", True), ("c.yaml", True), ("c.yaml.j2", False), ("etc", True), (".", True), ("link", False), ("d", False)],
)
def test_unpacked_tree_holds_paths_after_rendering(store: Store, path: str, expected: bool) -> None:
    entries = [LayerEntry(name, "file", 0o644, b"") for name in ("a.yaml", "b.yaml.tmpl", "c.yaml.j2", "etc/x")]
    layer = write_layer([*entries, LayerEntry("link", "symlink", target="/etc/passwd")], store)
    with scratch.cleaned():
        assert unpacked(store, [layer.descriptor], 0).holds(path) == expected


def test_unpacked_tree_folders_are_made_writable_and_removed(store: Store) -> None:
    layer = write_layer([LayerEntry("closed", "dir", 0), LayerEntry("closed/inner", "dir", 0o555)], store)
    with scratch.cleaned():
        tree = unpacked(store, [layer.descriptor], 0)
        assert tree.folder is not None
        assert [(tree.folder / path).stat().st_mode & 0o777 for path in ("closed", "closed/inner")] == [0o700, 0o700]
        assert tree.holds("closed/inner")
    assert not tree.folder.exists()
