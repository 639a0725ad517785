"""What comes from outside is harmless behind harness.untrusted, or refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import untrusted
from harness.errors import StoreError

ESCAPES = ["absolute", "out", "folder-out/outside", "loop", "fifo", "../outside", "/etc/passwd", "a/../../outside", "a\0b"]


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


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "-a", "a..b", "a\n", "/", "a" * 300, 5, None, "é"])
def test_name_odd_text_is_refused(text: object) -> None:
    with pytest.raises(StoreError):
        untrusted.name(text, what="machine 10.0.0.1")


@pytest.mark.parametrize("text", ["", ".", "/", "//x", "a/../b", "..", "a\0", "x" * 300, None])
def test_relative_path_odd_text_is_refused(text: object) -> None:
    with pytest.raises(StoreError):
        untrusted.relative_path(text, what="machine 10.0.0.1")


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "[1e999]",
        "[NaN]",
        "[" * 100 + "]" * 100,
        "[" * 100_000,
        '{"layers": 1, "Layers": 2}',
        "99999999999999999999",
        "{",
        b"\xff",
    ],
)
def test_json_odd_document_is_refused(text: str | bytes) -> None:
    with pytest.raises(StoreError, match="registry: is not usable JSON"):
        untrusted.json_document(text, what="registry")


def test_json_ordinary_document_is_read() -> None:
    assert untrusted.json_object('{"a": [1, 2.5, -3, null, true], "Label": 1, "label": 2}', what="") == {
        "a": [1, 2.5, -3, None, True],
        "Label": 1,
        "label": 2,
    }


NINE = ", ".join(["{}"] * 9)
BILLION_LAUGHS = "\n".join(f"a{n}: &a{n} [{NINE.replace('{}', f'*a{n - 1}' if n else 'x')}]" for n in range(10))


@pytest.mark.parametrize(
    "text",
    [
        BILLION_LAUGHS,
        "a: &a [*a]",
        "[" * 500,
        "a: [",
        "? [a]\n: 1",
        "a: !!int 8²",
        "a: !!int",
        "a: !!bool x",
        "a: !!float x",
        "a: !!timestamp x",
        "- !!binary a",
        "!!python/object:os.system x",
        "\0",
    ],
)
def test_yaml_odd_text_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="image: is not usable YAML"):
        untrusted.yaml_documents(text, what="image")


def test_yaml_dates_stay_text_and_aliases_are_read() -> None:
    assert untrusted.yaml_documents("a: &x [1]\nb: *x\nc: 2001-01-01\n---\n5\n", what="") == [{"a": [1], "b": [1], "c": "2001-01-01"}, 5]


def test_shown_text_cannot_move_the_cursor() -> None:
    assert untrusted.shown("a\x1b[31m\u202eb\n\udc80é") == "a\\x1b[31m\\u202eb\\n\\udc80é"
    assert untrusted.shown("a\tb\nc\r", lines=True) == "a\tb\nc\\r"


def test_ceiling_excess_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    with file.open("rb") as stream:
        assert untrusted.Ceiling(stream, 5, what="layer").read() == b"12345"
    with file.open("rb") as stream, pytest.raises(StoreError, match="layer: is larger than 4 bytes"):
        untrusted.Ceiling(stream, 4, what="layer").read()


def test_numbers_in_text_are_ascii_digits_only() -> None:
    assert [untrusted.number(text) for text in ("0", "12", "007", str((1 << 63) - 1))] == [0, 12, 7, (1 << 63) - 1]
    assert [untrusted.number(text, base=16) for text in ("ff", "0A")] == [255, 10]
    for odd in ("", "²", "٣", "-1", "+1", " 1", "1_0", "0x1", "1.0", str(1 << 63), "9" * 5000, None, 5, "f"):
        assert untrusted.number(odd) is None
    assert untrusted.number("8", base=8) is None
    assert untrusted.number("65536", maximum=65535) is None
    assert [untrusted.decimal(text) for text in ("0", "12.5", "2.5e-05", "1.")] == [0, 12.5, 2.5e-05, 1]
    for odd in ("", "nan", "inf", "1e999", "-1", ".5", "²", "1_0", None, "1" * 5000):
        assert untrusted.decimal(odd) is None


def test_yaml_depth_counts_through_aliases() -> None:
    lines = [f"a0: &a0 {'[' * 60}{']' * 60}", f"a1: &a1 {'[' * 60}*a0{']' * 60}"]
    with pytest.raises(StoreError, match="line 2: it is nested more than 100 levels deep"):
        untrusted.yaml_check("\n".join(lines), what="hostile")
    untrusted.yaml_check(lines[0] + "\nb: *a0", what="harmless")


def test_yaml_excess_gives_the_line_and_leaves_bad_text_to_the_loader() -> None:
    assert untrusted.yaml_excess("a: 1\nb: &b [*b]") == (2, "it holds itself, by an alias")
    assert untrusted.yaml_excess("a" * 20, limit=10) == (1, "it is larger than 10 bytes")
    assert untrusted.yaml_excess("[1, 2, 3]", nodes=3) == (1, "it holds more than 3 values, aliases included")
    assert untrusted.yaml_excess("a: [") is None


def test_yaml_document_is_one() -> None:
    assert untrusted.yaml_document("a: 1", what="x") == {"a": 1}
    assert untrusted.yaml_document("# nothing", what="x") is None
    with pytest.raises(StoreError, match="x: holds more than one document"):
        untrusted.yaml_document("a: 1\n---\nb: 2", what="x")
