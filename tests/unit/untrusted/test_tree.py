"""Folders whose content comes from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import untrusted
from harness.errors import StoreError


@pytest.fixture
def tree(tmp_path: Path) -> untrusted.UntrustedTree:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a/file").write_text("content")
    (tmp_path / "outside").write_text("secret")
    (root / "a/link").symlink_to("../a/file")
    (root / "a/up").symlink_to("..")
    (root / "absolute").symlink_to(tmp_path / "outside")
    (root / "out").symlink_to("../outside")
    (root / "folder-out").symlink_to("..")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    return untrusted.UntrustedTree(root, what="image web")


@pytest.mark.parametrize("path", ["a/file", "a/link", "a/up/a/file", "./a//file"])
def test_tree_path_inside_is_read(tree: untrusted.UntrustedTree, path: str) -> None:
    assert tree.read_text(path) == "content"
    assert tree.is_file(path)


@pytest.mark.parametrize(
    "path", ["absolute", "out", "folder-out/outside", "loop", "fifo", "../outside", "/etc/passwd", "a/../../outside", "a\0b"]
)
def test_tree_path_outside_is_refused(tree: untrusted.UntrustedTree, path: str) -> None:
    with pytest.raises(StoreError, match="image web"):
        tree.read_bytes(path)


def test_tree_files_never_follow_links(tree: untrusted.UntrustedTree) -> None:
    assert list(tree.files()) == ["a/file"]


def test_tree_missing_path_is_absent_not_refused(tree: untrusted.UntrustedTree) -> None:
    assert not tree.is_file("a/none")
    assert not tree.is_dir("none/at/all")
    assert tree.list("none") == []
    with pytest.raises(FileNotFoundError):
        tree.read_bytes("none")


def test_tree_large_file_is_refused(tree: untrusted.UntrustedTree) -> None:
    with pytest.raises(StoreError, match="larger than 3 bytes"):
        tree.read_bytes("a/file", limit=3)


@pytest.mark.parametrize("path", ["folder-out/x", "absolute/x", "absolute", "../x", "/x", "a/file/x", ""])
def test_tree_create_outside_or_over_something_is_refused(tree: untrusted.UntrustedTree, tmp_path: Path, path: str) -> None:
    with pytest.raises((StoreError, FileExistsError)):
        tree.create(path)
    assert (tmp_path / "outside").read_text() == "secret"
    assert not (tmp_path / "x").exists()


def test_tree_create_makes_folders_and_private_files(tree: untrusted.UntrustedTree) -> None:
    with tree.create("new/deep/file") as file:
        file.write(b"1")
    assert (tree.root / "new/deep/file").stat().st_mode & 0o777 == 0o600
