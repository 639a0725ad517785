"""What changed between two CloudImages, and what may go."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ExpectedValue, ImageApp, Info, diff, diff_side
from harness.errors import StoreError
from harness.oci.layer import LayerEntry
from harness.oci.model import Platform, digest_of
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64, ARM64, changes, file, no_client, put


def told(found: list[diff.ImageChange], kind: str) -> dict[str, tuple[Any, Any]]:
    return {change.name: (change.old, change.new) for change in found if change.kind == kind}


# Files


def test_diff_files_are_reported_with_change_size_and_mode(store: Store) -> None:
    common = [
        file("etc/same", "same"),
        file("etc/mode", "m"),
        file("etc/text", "one"),
        file("etc/gone", "x"),
        LayerEntry("etc/l", "symlink", target="a"),
    ]
    upper = [
        file("etc/text", "three"),
        file("etc/mode", "m", 0o755),
        LayerEntry("etc/gone", "whiteout"),
        file("bin/new", b"\0" * 10, 0o755),
    ]
    put(store, "old", common)
    put(store, "new", common, [*upper, LayerEntry("etc/l", "symlink", target="b")])
    found = changes(store, "old", "new")
    assert {change.name: change.what for change in found} == {
        "bin/new": "added", "etc/gone": "removed", "etc/l": "changed", "etc/mode": "changed", "etc/text": "changed",
    }  # fmt: skip
    by_name = told(found, "file")
    assert by_name["bin/new"] == (None, {"kind": "file", "mode": "0755", "size": 10, "digest": digest_of(b"\0" * 10)})
    assert [side["mode"] for side in by_name["etc/mode"]] == ["0644", "0755"]
    assert [side["size"] for side in by_name["etc/text"]] == [3, 5]
    assert [side["target"] for side in by_name["etc/l"]] == ["a", "b"]


def test_diff_same_files_in_other_layers_have_no_changes_but_transfer(store: Store) -> None:
    old = put(store, "old", [file("a", "1"), file("b", "2")])
    put(store, "new", [file("a", "1")], [file("b", "2")])
    sides = [diff_side.find(store, name, no_client) for name in ("old", "new")]
    found = diff.compare(store, *sides)
    assert (found.platforms[0].changes, found.equal) == ((), False)
    there = {blob.digest for blob in old.blobs}
    missing = [blob for blob in cloudimage.read(store, "new").blobs if blob.digest not in there]
    assert (found.transfer.blobs, found.transfer.bytes) == (len(missing), sum(blob.size for blob in missing))
    assert found.transfer.shared_bytes + found.transfer.bytes == sides[1].image.size


def test_diff_added_folder_is_listed_only_when_empty(store: Store) -> None:
    put(store, "old", [LayerEntry("etc", "dir")])
    put(store, "new", [LayerEntry("etc", "dir", 0o700), LayerEntry("full", "dir"), file("full/a"), LayerEntry("empty", "dir")])
    assert list(told(changes(store, "old", "new"), "file")) == ["empty", "etc", "full/a"]


def test_diff_content_shows_lines_of_small_text_files_only(store: Store) -> None:
    big = b"x\n" * diff.TEXT_LIMIT
    put(store, "old", [file("t", "a\nb\n"), file("bin", b"\0a"), file("big", big), file("gone", "bye"), file("mode", "m")])
    put(store, "new", [file("t", "a\nc\n"), file("bin", b"\0b"), file("big", big + b"y"), file("come", "hi\n"), file("mode", "m", 0o755)])
    texts = {change.name: change.text for change in changes(store, "old", "new", content=True)}
    assert texts == {
        "t": "--- a/t\n+++ b/t\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n",
        "gone": "--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-bye\n\\ No newline at end of file\n",
        "come": "--- /dev/null\n+++ b/come\n@@ -0,0 +1 @@\n+hi\n",
        "bin": None, "big": None, "mode": None,
    }  # fmt: skip
    assert all(change.text is None for change in changes(store, "old", "new"))


# How it runs, what is in it


def test_diff_run_settings_are_compared_item_by_item(store: Store) -> None:
    app = ImageApp("db", "helm", ("a",), {"P": "1"})
    put(
        store,
        "old",
        info=Info(
            kubernetes="v1.36.3",
            values=(ExpectedValue("P", required=True),),
            env={"A": "1", "B": "2"},
            launch=("one", "two"),
            labels={"x": "1"},
            apps=(app,),
        ),
        history=("RUN a",),
    )
    changed = Info(
        kubernetes="v1.30.4", env={"A": "1", "B": "3", "C": ""}, launch=("two", "three"), apps=(dataclasses.replace(app, env={"P": "2"}),),
        base={"reference": "k", "digest": digest_of(b"k")},
    )  # fmt: skip
    put(store, "new", info=changed, history=("RUN b",))
    found = changes(store, "old", "new")
    assert told(found, "kubernetes") == {"kubernetes": ("v1.36.3", "v1.30.4")}
    assert told(found, "env") == {"B": ("2", "3"), "C": (None, "")}
    assert told(found, "label") == {"x": ("1", None)}
    assert told(found, "value") == {"P": (ExpectedValue("P", required=True).to_json(), None)}
    assert told(found, "launch") == {"one": (0, None), "three": (None, 1)}
    assert told(found, "step") == {"RUN a": (0, None), "RUN b": (None, 0)}
    assert told(found, "base") == {"base": (None, {"reference": "k", "digest": digest_of(b"k")})}
    old, new = told(found, "app")["db"]
    assert (old["env"], new["env"]) == ({"P": "1"}, {"P": "2"})


def test_diff_embedded_images_are_added_removed_or_retagged(store: Store) -> None:
    put(
        store,
        "old",
        embedded={"x.io/same:1": b"s", "x.io/moved:1": b"m1", "x.io/retagged:1": b"r", "x.io/gone:1": b"g", "x.io/two:1": b"t"},
    )
    put(
        store,
        "new",
        embedded={
            "x.io/same:1": b"s",
            "x.io/moved:1": b"m2+",
            "x.io/retagged:2": b"rr",
            "x.io/come:1": b"c",
            "x.io/two:2": b"t",
            "x.io/two:3": b"t",
        },
    )
    found = told(changes(store, "old", "new"), "image")
    assert {name: (old and old["version"], new and new["version"]) for name, (old, new) in found.items()} == {
        "x.io/come:1": (None, "1"),
        "x.io/gone:1": ("1", None),
        "x.io/moved:1": ("1", "1"),
        "x.io/retagged": ("1", "2"),
        "x.io/two:1": ("1", None),
        "x.io/two:2": (None, "2"),
        "x.io/two:3": (None, "3"),
    }  # fmt: skip
    assert found["x.io/moved:1"][1]["size"] - found["x.io/moved:1"][0]["size"] == 1


def test_diff_compares_platforms_separately_or_selected_one_alone(store: Store) -> None:
    put(store, "old", [file("a")], platforms=(AMD64,))
    put(store, "new", [file("b")], platforms=(AMD64, ARM64))
    old, new = (diff_side.find(store, name, no_client) for name in ("old", "new"))
    both = diff.compare(store, old, new)
    assert [(part.platform, part.only, len(part.changes)) for part in both.platforms] == [
        ("linux/amd64", None, 2),
        ("linux/arm64", "new", 0),
    ]
    alone = diff.compare(store, old, new, platform=AMD64)
    assert [part.platform for part in alone.platforms] == ["linux/amd64"]
    assert 0 < alone.transfer.bytes < both.transfer.bytes
    with pytest.raises(StoreError, match="not made for linux/s390x"):
        diff.compare(store, old, new, platform=Platform("linux", "s390x"))


def test_diff_platform_not_pulled_counts_only_when_it_differs(store: Store, tmp_path: Path) -> None:
    image = put(store, "old", [file("a")], platforms=(AMD64, ARM64))
    put(store, "new", [file("b")], platforms=(AMD64, ARM64))
    partial = Store(tmp_path / "partial")
    assert image.absent == ()
    for blob in diff_side.find(store, "old", no_client).blobs((AMD64,)):
        partial.put(store.read(blob))
    partial.tag("old", store.resolve("old"))
    found = diff_side.find(partial, "old", no_client)
    assert [str(platform) for platform in found.image.absent] == ["linux/arm64"]
    same = diff.compare(store, found, diff_side.find(store, "old", no_client))
    assert (same.equal, [part.only for part in same.platforms]) == (True, [None, None])
    assert same.transfer.bytes > 0
    other = diff.compare(store, found, diff_side.find(store, "new", no_client))
    assert [(part.only, part.absent) for part in other.platforms] == [(None, False), ("new", True)]
