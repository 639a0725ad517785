"""What COPY takes from the build context, and where it lands."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from harness.kubefile import context as kubefile_context
from harness.kubefile.context import ContextError, PlacedFile, place


@pytest.fixture
def context(tmp_path: Path) -> Path:
    root = tmp_path / "context"
    for name in ("a.txt", "b.txt", ".hidden", "dir/x.yaml", "dir/sub/y.yaml", "etc/values.yaml", "amd64/bin/tool", "[z].txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "dir/empty").mkdir()
    (tmp_path / "secret").write_text("secret")
    return root


def paths(placed: tuple[PlacedFile, ...]) -> list[str]:
    return [entry.path for entry in placed]


@pytest.mark.parametrize(
    ("sources", "destination", "expected"),
    [
        (["a.txt"], "", ["a.txt"]),
        (["a.txt"], "b", ["b"]),
        (["a.txt"], "b/", ["b/a.txt"]),
        (["./a.txt"], "b/c", ["b/c"]),
        (["/a.txt"], "b/", ["b/a.txt"]),
        (["dir/../a.txt"], "b/", ["b/a.txt"]),
        (["a.txt"], "manifests", ["manifests/a.txt"]),
        (["a.txt"], "made", ["made/a.txt"]),
        (["a.txt", "b.txt"], "c/", ["c/a.txt", "c/b.txt"]),
        (["*.txt"], "c/", ["c/[z].txt", "c/a.txt", "c/b.txt"]),
        (["?.txt"], "", ["a.txt", "b.txt"]),
        (["[ab].txt"], "c/", ["c/a.txt", "c/b.txt"]),
        (["[^a].txt"], "c", ["c"]),
        ([r"\[z\].*"], "c/", ["c/[z].txt"]),
        (["a*"], "c/", ["c", "c/bin", "c/bin/tool", "c/a.txt"]),
        (["dir"], "d", ["d", "d/empty", "d/sub", "d/sub/y.yaml", "d/x.yaml"]),
        (["dir/"], "d/", ["d", "d/empty", "d/sub", "d/sub/y.yaml", "d/x.yaml"]),
        (["dir"], "", ["empty", "sub", "sub/y.yaml", "x.yaml"]),
        (["*/x.yaml"], "d/", ["d/x.yaml"]),
        (["amd64/bin"], "bin", ["bin", "bin/tool"]),
        (["https://x.io/f", "a.txt"], "c/", ["c/a.txt"]),
    ],
)
def test_place_maps_sources_to_destination_paths(context: Path, sources: list[str], destination: str, expected: list[str]) -> None:
    known = {"made"}
    placed = place(context, sources, destination, is_folder=lambda path: path in known or kubefile_context.known_folder(path))
    assert sorted(paths(placed)) == sorted(expected)
    assert all(entry.source.is_relative_to(context) for entry in placed)


def test_place_lists_parents_before_children(context: Path) -> None:
    found = paths(place(context, ["dir"], "d"))
    assert found == ["d", "d/empty", "d/sub", "d/sub/y.yaml", "d/x.yaml"]


def test_place_later_source_overwrites_earlier_source(context: Path) -> None:
    (context / "dir/a.txt").write_text("from dir")
    placed = place(context, ["a.txt", "dir"], "c/")
    assert [entry.source.read_text() for entry in placed if entry.path == "c/a.txt"] == ["from dir"]


def test_place_rootfs_folder_keeps_its_name_in_root(context: Path) -> None:
    assert paths(place(context, ["etc"], "")) == ["etc", "etc/values.yaml"]
    assert paths(place(context, ["amd64/bin"], "")) == ["bin", "bin/tool"]
    assert paths(place(context, ["etc"], "conf/")) == ["conf", "conf/values.yaml"]
    assert "etc/values.yaml" in paths(place(context, ["*"], ""))
    named_like_one = context.rename(context.parent / "manifests")
    assert "a.txt" in paths(place(named_like_one, ["."], ""))


@pytest.mark.parametrize(
    ("sources", "destination", "message", "hint"),
    [
        (["none"], "", "none: no such file or folder in", None),
        (["dir/x.yml"], "", "dir/x.yml: no such file or folder in", "did you mean dir/x.yaml?"),
        (["dri/x.yaml"], "", "dri/x.yaml: no such file or folder in", "did you mean dir?"),
        (["*.zip"], "", "*.zip: nothing matches in", None),
        (["../secret"], "", "../secret is outside the build context", "copy it into the context first"),
        (["dir/../../secret"], "", "dir/../../secret is outside the build context", "copy it into the context first"),
        (["a.txt", "b.txt"], "c", "2 sources for the destination c, which is not a folder", "end it with a slash: c/"),
        (["*.txt"], "c", "3 sources for the destination c, which is not a folder", "end it with a slash: c/"),
    ],
)
def test_place_unusable_source_raises_context_error_with_hint(
    context: Path, sources: list[str], destination: str, message: str, hint: str | None
) -> None:
    with pytest.raises(ContextError) as caught:
        place(context, sources, destination)
    assert caught.value.message.startswith(message)
    assert caught.value.hint == hint


@pytest.mark.parametrize("goal", ["../secret", "../", "/etc/passwd"])
def test_place_symbolic_link_out_of_context_raises_context_error(context: Path, goal: str) -> None:
    (context / "link").symlink_to(goal)
    (context / "dir/link").symlink_to(f"../{goal}" if goal.startswith("..") else goal)
    for source in ("link", "link/secret", "l*", "dir", "."):
        with pytest.raises(ContextError, match=r"symbolic link|no such file"):
            place(context, [source], "d/")


def test_place_links_inside_context_are_resolved_or_kept(context: Path) -> None:
    (context / "to-file").symlink_to("dir/x.yaml")
    (context / "to-dir").symlink_to("dir")
    (context / "dir/up").symlink_to("../a.txt")
    (context / "dir/dangling").symlink_to("later")
    assert place(context, ["to-file"], "d/") == (PlacedFile(context / "dir/x.yaml", "d/to-file"),)
    assert "d/sub/y.yaml" in paths(place(context, ["to-dir"], "d/"))
    below = {entry.path: entry.source for entry in place(context, ["dir"], "d/")}
    assert below["d/up"].is_symlink()
    assert below["d/dangling"].is_symlink()


def test_place_link_loop_or_fifo_raises_context_error(context: Path) -> None:
    (context / "round").symlink_to("round")
    with pytest.raises(ContextError, match="round"):
        place(context, ["round"], "")
    os.mkfifo(context / "dir/pipe")
    with pytest.raises(ContextError, match="dir/pipe is neither a file, a folder nor a symbolic link"):
        place(context, ["dir"], "d/")


def test_place_absolute_links_of_image_resolve_inside_image(context: Path) -> None:
    (context / "link").symlink_to("/dir/x.yaml")
    (context / "lib").symlink_to("/dir")
    (context / "dir/out").symlink_to("/etc/passwd")
    (context / "up").symlink_to("../../../a.txt")
    (context / "round").symlink_to("/round")
    assert place(context, ["/link"], "d/", image=True) == (PlacedFile(context / "dir/x.yaml", "d/link"),)
    assert place(context, ["/lib/x.yaml"], "d/", image=True) == (PlacedFile(context / "dir/x.yaml", "d/x.yaml"),)
    assert place(context, ["up"], "d/", image=True) == (PlacedFile(context / "a.txt", "d/up"),)
    assert "d/out" in paths(place(context, ["/dir"], "d/", image=True))
    assert paths(place(context, ["/etc"], "", image=True)) == ["values.yaml"]
    with pytest.raises(ContextError, match="circle"):
        place(context, ["round"], "d/", image=True)
    with pytest.raises(ContextError, match="no such file or folder in the image"):
        place(context, ["none"], "d/", image=True)


def test_add_marks_tars_by_their_content(context: Path) -> None:
    with tarfile.open(context / "app.bin", "w:gz") as tar:
        tar.add(context / "a.txt", "a.txt")
    (context / "empty.tar").write_bytes(b"")
    (context / "fake.tar.gz").write_text("not a tar")
    assert place(context, ["app.bin"], "d/", extract=True) == (PlacedFile(context / "app.bin", "d", archive=True),)
    assert place(context, ["app.bin"], "d/") == (PlacedFile(context / "app.bin", "d/app.bin"),)
    assert place(context, ["empty.tar"], "d/", extract=True) == (PlacedFile(context / "empty.tar", "d/empty.tar"),)
    assert place(context, ["fake.tar.gz"], "", extract=True) == (PlacedFile(context / "fake.tar.gz", "fake.tar.gz"),)


def test_place_leaves_out_image_list_with_passwords(context: Path) -> None:
    (context / "imageListWithAuth.yaml").write_text("- password: p")
    assert "imageListWithAuth.yaml" not in paths(place(context, ["."], ""))
    for source in ("imageListWithAuth.yaml", "*.yaml"):
        with pytest.raises(ContextError, match="holds passwords"):
            place(context, [source], "d/")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://x.io/a/b.yaml", "b.yaml"),
        ("https://x.io/b%20c.yaml?v=1#x", "b c.yaml"),
        ("https://x.io/a/", None),
        ("https://x.io/a/..", None),
    ],
)
def test_url_name_is_last_path_segment_or_raises_context_error(url: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(ContextError, match="no file name"):
            kubefile_context.url_name(url)
    else:
        assert kubefile_context.url_name(url) == name


@pytest.mark.parametrize(("path", "expected"), [("", "f"), ("d/", "d/f"), ("d", "d"), ("manifests", "manifests/f"), ("d/e", "d/e")])
def test_destination_of_file_appends_name_to_folders(path: str, expected: str) -> None:
    assert kubefile_context.destination_of(path, "f") == expected


def test_place_ignored_files_are_left_out_or_refused(context: Path) -> None:
    (context / "secret").mkdir()
    (context / "secret/id").write_text("private")
    (context / "secret/public").write_text("public")
    (context / "link").symlink_to("secret")
    (context / "link-to-file").symlink_to("secret/id")
    (context / ".dockerignore").write_text("secret\n!secret/public\n**/*.yaml\n.hidden\n")
    taken = paths(place(context, ["."], ""))
    assert "secret/public" in taken
    assert not {"secret/id", ".hidden", "dir/x.yaml", "dir/sub/y.yaml"} & set(taken)
    assert {"dir", "dir/sub", "a.txt"} <= set(taken)
    assert paths(place(context, ["secret/"], "s")) == ["s/public"]
    for source in ("secret/id", "link-to-file", ".hidden", "dir/*.yaml", "link/id"):
        with pytest.raises(ContextError, match=r"is excluded by .*\.dockerignore:"):
            place(context, [source], "x/")


def test_place_ignored_folder_is_left_out_entirely(context: Path) -> None:
    (context / ".dockerignore").write_text("b.txt\n")
    (context / ".slipwayignore").write_text("dir\n.*ignore\n")
    taken = paths(place(context, ["."], ""))
    assert "b.txt" in taken
    assert not [path for path in taken if path.startswith(("dir", ".docker", ".slipway"))]
    with pytest.raises(ContextError) as caught:
        place(context, ["dir"], "x")
    assert caught.value.message == f"dir is excluded by {context}/.slipwayignore:1"
    assert caught.value.hint == "take it back there: !dir"


def test_place_from_container_image_disregards_ignore_file(context: Path) -> None:
    (context / ".dockerignore").write_text("*\n")
    assert paths(place(context, ["/a.txt"], "x", image=True)) == ["x"]


@pytest.mark.parametrize(
    ("sources", "destination", "expected"),
    [
        (["dir/sub/y.yaml"], "x/", ["x/dir/sub/y.yaml"]),
        (["./dir/./sub/y.yaml"], "x/", ["x/sub/y.yaml"]),
        (["dir/sub"], "x/", ["x/dir/sub", "x/dir/sub/y.yaml"]),
        (["dir/*.yaml", "a.txt"], "", ["dir/x.yaml", "a.txt"]),
        (["*/./sub/*"], "", ["sub/y.yaml"]),
    ],
)
def test_place_with_parents_keeps_source_folders(context: Path, sources: list[str], destination: str, expected: list[str]) -> None:
    assert paths(place(context, sources, destination, parents=True)) == expected


def test_place_leaves_out_excluded_patterns(context: Path) -> None:
    assert paths(place(context, ["dir"], "d", exclude=["sub"])) == ["d", "d/empty", "d/x.yaml"]
    assert paths(place(context, ["dir"], "d", exclude=["**/*.yaml", "empty"])) == ["d", "d/sub"]
    assert paths(place(context, ["*.txt"], "d/", exclude=["b.txt", "[[]*"])) == ["d/a.txt"]
    assert paths(place(context, ["dir"], "d", exclude=["dir/x.yaml"])) == ["d", "d/empty", "d/sub", "d/sub/y.yaml"]


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000 + "b", "\u00e9" * 200])
def test_place_too_long_name_raises_context_error(context: Path, name: str) -> None:
    with pytest.raises(ContextError, match="too long"):
        place(context, [name], "x")


def test_place_name_with_nul_raises_context_error(context: Path) -> None:
    with pytest.raises(ContextError, match="NUL"):
        place(context, ["a\0b"], "x")
