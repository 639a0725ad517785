"""What changed between two CloudImages, and what may go."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import posixpath
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from harness import cloudimage
from harness.cli import app as cli
from harness.cloudimage import Blob, CloudImage, EmbeddedImage, History, ImageApp, ImageSet, Info, PlatformImage, diff, prune
from harness.cloudimage import unpacked as trees
from harness.errors import StoreError
from harness.host import docker, scratch
from harness.oci.layer import LayerEntry, scan, unpack, write_layer
from harness.oci.model import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    canonical_json,
    digest_of,
)
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.manifest import Manifest
from harness.oci.store import Store

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
PLAIN = Info()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store.default()


def container_image(store: Store, name: str, content: bytes) -> ImageSet:
    """An embedded image of one layer."""
    blobs = [Descriptor(OCI_CONFIG, *store.put(b'{"os":"linux"}')), Descriptor(OCI_LAYER_GZIP, *store.put(content))]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blobs[0].to_json(), "layers": [blobs[1].to_json()]}
    blobs.append(Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))))
    embedded = EmbeddedImage(name, blobs[2].digest, OCI_MANIFEST, blobs[2].size, ("pulled",))
    return ImageSet((embedded,), tuple(Blob(blob.digest, blob.media_type, blob.size) for blob in blobs))


def images(store: Store, named: Mapping[str, bytes]) -> ImageSet:
    found = ImageSet()
    for name, content in named.items():
        found = found.union(container_image(store, name, content))
    return found


def put(
    store: Store,
    name: str,
    *layers: list[LayerEntry],
    info: Info = PLAIN,
    embedded: Mapping[str, bytes] | None = None,
    history: tuple[str, ...] = (),
    platforms: tuple[Platform, ...] = (AMD64,),
) -> CloudImage:
    made = [write_layer(entries, store) for entries in layers]
    part = PlatformImage(
        AMD64,
        tuple(layer.descriptor for layer in made),
        tuple(layer.diff_id for layer in made),
        tuple(History(line, empty=number >= len(made)) for number, line in enumerate(history)),
        info,
        images(store, embedded or {}),
    )
    store.tag(name, cloudimage.write(store, [dataclasses.replace(part, platform=platform) for platform in platforms]))
    return cloudimage.read(store, name)


def file(path: str, content: bytes | str = b"", mode: int = 0o644) -> LayerEntry:
    return LayerEntry(path, "file", mode, content.encode() if isinstance(content, str) else content)


def no_client() -> Any:
    pytest.fail("a registry is asked")


def changes(store: Store, old: str, new: str, **options: Any) -> list[diff.ImageChange]:
    sides = [diff.find(store, name, no_client) for name in (old, new)]
    return [change for part in diff.compare(store, *sides, **options).platforms for change in part.changes]


def told(found: list[diff.ImageChange], kind: str) -> dict[str, tuple[Any, Any]]:
    return {change.name: (change.old, change.new) for change in found if change.kind == kind}


# Files


def test_files_added_removed_and_changed_are_told_with_size_and_mode(store: Store) -> None:
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


def test_the_same_files_in_other_layers_are_no_change_but_have_to_travel(store: Store) -> None:
    old = put(store, "old", [file("a", "1"), file("b", "2")])
    put(store, "new", [file("a", "1")], [file("b", "2")])
    sides = [diff.find(store, name, no_client) for name in ("old", "new")]
    found = diff.compare(store, *sides)
    assert (found.platforms[0].changes, found.equal) == ((), False)
    there = {blob.digest for blob in old.blobs}
    missing = [blob for blob in cloudimage.read(store, "new").blobs if blob.digest not in there]
    assert (found.transfer.blobs, found.transfer.bytes) == (len(missing), sum(blob.size for blob in missing))
    assert found.transfer.shared_bytes + found.transfer.bytes == sides[1].image.size


def test_a_folder_is_told_by_what_is_in_it_and_alone_when_it_is_empty(store: Store) -> None:
    put(store, "old", [LayerEntry("etc", "dir")])
    put(store, "new", [LayerEntry("etc", "dir", 0o700), LayerEntry("full", "dir"), file("full/a"), LayerEntry("empty", "dir")])
    assert list(told(changes(store, "old", "new"), "file")) == ["empty", "etc", "full/a"]


def test_content_shows_the_lines_of_small_text_files_only(store: Store) -> None:
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


def test_a_layer_is_read_once_and_then_remembered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "old", [file("a", "1")])
    put(store, "new", [file("a", "2")])
    first = changes(store, "old", "new")
    monkeypatch.setattr(diff, "open_layer", lambda *_: pytest.fail("read again"))
    assert changes(store, "old", "new") == first != []


def test_a_damaged_layer_is_told_and_not_remembered(store: Store) -> None:
    put(store, "old", [file("a", "1")])
    layer = put(store, "new", [file("a", "2")]).platforms[0].layers[0]
    store.path(layer.digest).write_bytes(b"\0" * layer.size)
    with pytest.raises(StoreError, match="damaged"):
        changes(store, "old", "new")
    assert store.record(prune.LISTING, layer.digest[7:]) is None


@pytest.mark.parametrize("seed", range(40))
def test_merging_on_paper_gives_what_unpacking_gives(seed: int, store: Store, tmp_path: Path) -> None:
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
    on_paper = {path: (one.kind, one.mode, one.digest, one.target) for path, one in diff.merged(store, made).items()}
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


def test_the_random_layers_are_mostly_good_ones(store: Store, tmp_path: Path) -> None:
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


# How it runs, what is in it


def test_how_it_runs_is_compared_word_by_word(store: Store) -> None:
    app = ImageApp("db", "helm", ("a",), {"P": "1"})
    put(
        store,
        "old",
        info=Info(kubernetes="v1.36.3", env={"A": "1", "B": "2"}, launch=("one", "two"), labels={"x": "1"}, apps=(app,)),
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
    assert told(found, "launch") == {"one": (0, None), "three": (None, 1)}
    assert told(found, "step") == {"RUN a": (0, None), "RUN b": (None, 0)}
    assert told(found, "base") == {"base": (None, {"reference": "k", "digest": digest_of(b"k")})}
    old, new = told(found, "app")["db"]
    assert (old["env"], new["env"]) == ({"P": "1"}, {"P": "2"})


def test_embedded_images_come_go_and_get_other_versions(store: Store) -> None:
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


def test_platforms_are_compared_one_by_one_or_one_alone(store: Store) -> None:
    put(store, "old", [file("a")], platforms=(AMD64,))
    put(store, "new", [file("b")], platforms=(AMD64, ARM64))
    old, new = (diff.find(store, name, no_client) for name in ("old", "new"))
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


def test_a_platform_that_was_not_pulled_is_no_difference_when_it_is_the_same_and_is_told_else(store: Store, tmp_path: Path) -> None:
    image = put(store, "old", [file("a")], platforms=(AMD64, ARM64))
    put(store, "new", [file("b")], platforms=(AMD64, ARM64))
    partial = Store(tmp_path / "partial")
    assert image.absent == ()
    for blob in diff.find(store, "old", no_client).blobs((AMD64,)):
        partial.put(store.read(blob))
    partial.tag("old", store.resolve("old"))
    found = diff.find(partial, "old", no_client)
    assert [str(platform) for platform in found.image.absent] == ["linux/arm64"]
    same = diff.compare(store, found, diff.find(store, "old", no_client))
    assert (same.equal, [part.only for part in same.platforms]) == (True, [None, None])
    assert same.transfer.bytes > 0
    other = diff.compare(store, found, diff.find(store, "new", no_client))
    assert [(part.only, part.absent) for part in other.platforms] == [(None, False), ("new", True)]


def test_equal_for_the_platform_that_is_asked_for(store: Store) -> None:
    put(store, "old", [file("a")], platforms=(AMD64,))
    put(store, "new", [file("a")], platforms=(AMD64, ARM64))
    assert cli.execute(["diff", "old", "new", "--platform", "amd64", "--exit-code"]) == 0
    assert cli.execute(["diff", "old", "new", "--exit-code"]) == 1


# The command line


def test_the_command_line_says_it_in_stable_lines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    old = put(
        store, "old", [file("etc/a", "1"), file("bin/tool", b"x" * 2000, 0o755)], info=Info(env={"A": "1"}), embedded={"x.io/i:1": b"1"}
    )
    new = put(
        store,
        "new",
        [file("etc/a", "22"), LayerEntry("bin/tool", "symlink", target="a")],
        info=Info(env={"A": "2"}),
        embedded={"x.io/i:2": b"2"},
    )
    assert cli.execute(["diff", "old", "new"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"old  old:latest  {old.digest}  ")
    assert lines[1].startswith(f"new  new:latest  {new.digest}  ")
    assert lines[2:-1] == [
        "platform linux/amd64",
        "~ env         A=1 -> 2",
        "~ image       x.io/i  1 224 B -> 2 224 B".replace("224", lines[4].split()[4]),
        "~ file        bin/tool  0755 2.0 kB -> link to a",
        "~ file        etc/a  1 B -> 2 B",
    ]
    assert lines[-1].startswith("to send  ")


def test_the_same_image_under_two_names_is_the_same(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a")])
    cloudimage.tag(store, "old", "new")
    assert cli.execute(["diff", "old", "new", "--exit-code"]) == 0
    assert "they are the same" in capsys.readouterr().out
    assert cli.execute(["diff", "old", "new", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["equal"], said["transfer"]["send"], said["platforms"][0]["changes"]) == (True, {"blobs": 0, "bytes": 0}, [])


def test_json_has_every_change(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a", "1\n")])
    put(store, "new", [file("a", "2\n")])
    assert cli.execute(["diff", "old", "new", "--content", "-o", "json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["platforms"]
    (change,) = part["changes"]
    assert (change["kind"], change["name"], change["change"], part["filesCompared"]) == ("file", "a", "changed", True)
    assert change["diff"].endswith("-1\n+2\n")


def test_a_strangers_image_cannot_write_to_our_terminal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a", "1\n")])
    put(store, "new", [file("a", "\x1b[2J\n"), file("e\nvil\x1b]0;x\x07")], info=Info(env={"\x1b[1m": "v"}))
    assert cli.execute(["diff", "old", "new", "--content"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "e\\nvil\\x1b]0;x\\x07" in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["diff", "old", "odl"], 4, "did you mean old:latest?"),
        (["diff", "old", "plain"], 4, "not a CloudImage"),
        (["diff", "old", "UPPER"], 4, "lower case"),
        (["diff", "old", "old", "--platform", "x/"], 2, "--platform"),
        (["diff", "old", "old", "-o", "yaml"], 2, "--output yaml"),
        (["diff", "old"], 2, "Missing argument"),
        (["history", "old", "--platform", "arm64"], 4, "not made for linux/arm64"),
    ],
)
def test_what_goes_wrong_is_told(words: list[str], code: int, message: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a")])
    store.tag("plain", Descriptor(OCI_MANIFEST, *store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST}))))
    assert cli.execute(words) == code
    assert message in capsys.readouterr().err


def test_history_of_each_platform_stands_under_its_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "web", [file("a")], history=("COPY a a", "ENV A=1"), platforms=(AMD64, ARM64))
    assert cli.execute(["history", "web"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("platform")] == ["platform linux/amd64", "platform linux/arm64"]
    assert said.count("COPY a a") == 2
    assert cli.execute(["history", "web", "--platform", "arm64"]) == 0
    said = capsys.readouterr().out
    assert (said.count("COPY a a"), "platform" in said) == (1, False)


# In a registry


class Shelf:
    """A registry of what a store has. ``asked`` are the digests of what was fetched."""

    def __init__(self, store: Store, names: Mapping[str, str]) -> None:
        self.store = store
        self.names = names
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def manifest(self, reference: Reference) -> Manifest:
        digest = reference.digest or self.names.get(reference.familiar)
        if digest is None or not self.store.has(digest):
            raise RemoteError(f"{reference}: 404", status=404)
        data = self.store.read(digest)
        self.asked.append(digest)
        return Manifest(data, json.loads(data)["mediaType"], digest)

    def blob(self, reference: Reference, digest: str, size: int) -> Any:
        self.asked.append(digest)
        assert self.store.size(digest) == size
        return self.store.open(digest)


def test_of_an_image_in_a_registry_only_manifests_and_configs_are_fetched(store: Store, tmp_path: Path) -> None:
    far = Store(tmp_path / "far")
    info = Info(env={"A": "2"})
    image = put(far, "web", [file("a", "1")], [file("b", "2")], info=info, embedded={"x.io/i:1": b"i" * 1000}, platforms=(AMD64, ARM64))
    put(store, "web", [file("a", "1")], embedded={"x.io/i:1": b"i" * 1000})
    shelf: Any = Shelf(far, {"reg.test/web:1": image.digest})
    old, new = diff.find(store, "web", no_client), diff.find(store, "reg.test/web:1", lambda: shelf)
    content = {layer.digest for part in image.platforms for layer in part.layers}
    content |= {blob.digest for part in image.platforms for blob in part.images.blobs}
    assert not content & set(shelf.asked)
    here = {blob.digest for blob in cloudimage.read(store, "web").blobs}
    assert sorted(shelf.asked) == sorted({blob.digest for blob in image.blobs} - content - here)
    assert (new.where, new.image.digest) == ("reg.test", image.digest)
    found = diff.compare(store, old, new)
    first = found.platforms[0]
    assert not first.files
    assert {change.kind for change in first.changes} == {"env", "layer"}
    assert found.transfer.bytes == image.size - sum(size for digest, size in new.blobs(()).items() if digest in old.blobs(()))


def test_what_the_store_has_is_not_fetched_and_its_files_are_compared(store: Store) -> None:
    old = put(store, "old", [file("a", "1")])
    new = put(store, "new", [file("a", "2")])
    shelf: Any = Shelf(store, {"reg.test/web:1": new.digest})
    sides = diff.find(store, "old", no_client), diff.find(store, "docker://reg.test/web:1", lambda: shelf)
    assert shelf.asked == [new.digest]
    found = diff.compare(store, *sides)
    assert [change.name for change in found.platforms[0].changes] == ["a"]
    assert old.digest != new.digest


def test_the_store_is_asked_before_the_registry_unless_told_otherwise(store: Store) -> None:
    put(store, "reg.test/web:1", [file("a", "1")])
    there = put(store, "else", [file("a", "2")])
    shelf: Any = Shelf(store, {"reg.test/web:1": there.digest, "hub:latest": there.digest})
    assert diff.find(store, "reg.test/web:1", no_client).where == "store"
    assert diff.find(store, "docker://reg.test/web:1", lambda: shelf).where == "reg.test"
    assert diff.find(store, "docker://hub", lambda: shelf).where == "docker.io"


def test_a_slip_of_the_pen_asks_no_registry(store: Store) -> None:
    for name in ("wbe", "acme/web"):
        with pytest.raises(StoreError, match="no such image"):
            diff.find(store, name, no_client)


def test_a_damaged_local_image_is_not_looked_for_elsewhere(store: Store) -> None:
    image = put(store, "reg.test/web:1", [file("a")])
    store.path(image.platforms[0].layers[0].digest).unlink()
    with pytest.raises(StoreError, match="missing or cut short"):
        diff.find(store, "reg.test/web:1", no_client)


def test_what_is_no_cloudimage_in_a_registry_is_said_after_one_request(store: Store) -> None:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [Descriptor(OCI_MANIFEST, digest_of(b"x"), 1).to_json()]}
    shelf: Any = Shelf(store, {"reg.test/nginx:1": store.put(canonical_json(index))[0]})
    with pytest.raises(StoreError, match="not a CloudImage"):
        diff.find(store, "reg.test/nginx:1", lambda: shelf)
    assert len(shelf.asked) == 1


def test_a_config_that_was_changed_on_its_way_is_refused(store: Store, tmp_path: Path) -> None:
    far = Store(tmp_path / "far")
    image = put(far, "web", [file("a")])
    manifest = json.loads(far.read(json.loads(far.read(image.digest))["manifests"][0]["digest"]))
    config = far.path(manifest["config"]["digest"])
    config.write_bytes(config.read_bytes()[::-1])
    shelf: Any = Shelf(far, {"reg.test/web:1": image.digest})
    with pytest.raises(StoreError, match="is damaged"):
        diff.find(store, "reg.test/web:1", lambda: shelf)


# Prune


def kinds(found: prune.Pruned) -> dict[str, int]:
    return {kind.name: kind.count for kind in found.kinds if kind.count}


def attach(store: Store, image: CloudImage, suffix: str = ".sig", repository: str = "web") -> str:
    """Something under a tag made of the image's digest."""
    config = Descriptor(OCI_CONFIG, *store.put(f"about {image.digest}{suffix}".encode()))
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": []}
    name = f"{repository}:{image.digest.replace(':', '-')}{suffix}"
    store.tag(name, Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))))
    return name


def test_a_dry_run_tells_what_prune_then_removes(store: Store, tmp_path: Path) -> None:
    kept = put(store, "kept", [file("a", "1")])
    gone = put(store, "gone", [file("b", "2")])
    store.keep("unfinished", "a" * 64, {"image": digest_of(b"x")})
    (store.root / "partial" / ("b" * 64)).write_bytes(b"12345")
    (store.root / "tmp/left").write_bytes(b"123")
    trees.folder().mkdir(parents=True)
    for name in (trees.identity(kept.platforms[0].layers), trees.identity(gone.platforms[0].layers), ".unpacking-x"):
        (trees.folder() / name).mkdir()
        (trees.folder() / name / "file").write_bytes(b"1234")
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
    assert [path.name for path in trees.folder().iterdir()] == [trees.identity(kept.platforms[0].layers)]
    cloudimage.verify(store, cloudimage.read(store, "kept"))
    assert kinds(prune.prune(store)) == {}
    assert prune.prune(store).bytes == 0


def test_build_steps_stay_unless_the_cache_is_to_go(store: Store) -> None:
    layer = write_layer([file("a", "1")], store)
    store.keep("step", "b" * 64, {"layer": layer.descriptor.to_json(), "diffId": layer.diff_id})
    assert kinds(prune.prune(store)) == {}
    assert store.has(layer.descriptor.digest)
    assert kinds(prune.prune(store, cache=True, dry_run=True)) == {"blobs": 1, "records": 1}
    assert kinds(prune.prune(store, cache=True)) == {"blobs": 1, "records": 1}
    assert store.record("step", "b" * 64) is None


def test_what_was_learnt_of_a_layer_goes_with_it(store: Store) -> None:
    put(store, "old", [file("a", "1")])
    put(store, "new", [file("a", "2")])
    changes(store, "old", "new")
    store.untag("new")
    prune.prune(store)
    layer = cloudimage.read(store, "old").platforms[0].layers[0]
    assert [path.stem for path in (store.root / "cache" / prune.LISTING).iterdir()] == [layer.digest[7:]]


@pytest.mark.parametrize("options", [{}, {"cache": True}, {"dry_run": True}])
def test_while_somebody_uses_the_store_nothing_of_it_goes(store: Store, options: dict[str, bool]) -> None:
    stray, _ = store.put(b"stray")
    store.keep("step", "b" * 64, {"layer": digest_of(b"x")})
    with store.shared_lease():
        found = prune.prune(Store(store.root), **options)  # type: ignore[arg-type]
    assert found.busy
    assert kinds(found) == {}
    assert store.has(stray)
    assert store.record("step", "b" * 64) is not None


def test_prune_is_refused_while_it_cannot_know_what_an_image_needs(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(store, "web", [file("a")])
    stray, _ = store.put(b"stray")
    index = store.path(image.digest)
    good = index.read_bytes()
    index.write_bytes(good[:-1])
    before = sorted(store.root.rglob("*"))
    monkeypatch.setattr(docker, "running", lambda: None)
    assert cli.execute(["prune"]) == 4
    assert "nothing is removed: web:latest is damaged" in capsys.readouterr().err
    assert sorted(store.root.rglob("*")) == before
    index.write_bytes(good)
    assert cli.execute(["prune"]) == 0
    assert not store.has(stray)


def test_a_tree_that_a_process_uses_stays(store: Store) -> None:
    image = put(store, "web", [file("a", "1")])
    place = trees.unpacked_rootfs(store, image.platforms[0].layers)
    store.untag("web")
    found = prune.prune(store)
    assert (found.trees_in_use, kinds(found).get("trees"), place.is_dir()) == (1, None, True)
    os.close(trees._locks.pop(place))
    assert kinds(prune.prune(store)) == {"trees": 1}
    assert not list(trees.folder().iterdir())


def test_no_tree_goes_while_one_is_unpacked(store: Store) -> None:
    (trees.folder() / "unneeded").mkdir(parents=True)
    with trees._lease(fcntl.LOCK_SH):
        assert prune.prune(store).trees_busy
    assert kinds(prune.prune(store)) == {"trees": 1}


def test_a_tree_that_went_is_unpacked_again(store: Store) -> None:
    image = put(store, "web", [file("a", "1")])
    layers = image.platforms[0].layers
    place = trees.unpacked_rootfs(store, layers)
    held = os.fstat(trees._locks[place]).st_ino
    os.close(trees._locks.pop(place))
    trees.remove(())
    assert not place.exists()
    assert (trees.unpacked_rootfs(store, layers) / "a").read_text() == "1"
    assert os.fstat(trees._locks[place]).st_ino == place.stat().st_ino
    assert held is not None


def test_read_only_folders_of_a_tree_can_be_removed(store: Store) -> None:
    inside = trees.folder() / "unneeded/folder"
    inside.mkdir(parents=True)
    (inside / "file").write_text("x")
    inside.chmod(0o500)
    assert kinds(prune.prune(store)) == {"trees": 1}
    assert not (trees.folder() / "unneeded").exists()
    assert not list(trees.folder().iterdir())


def test_temporary_folders_of_living_processes_stay(store: Store) -> None:
    mine = scratch.folder()
    prune.prune(store)
    assert mine.is_dir()


def test_prune_says_what_went_by_kind(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Where no engine answers none is started.
    monkeypatch.setattr(docker, "running", lambda: None)
    store.put(b"12345")
    assert cli.execute(["prune", "--dry-run", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["dryRun"], said["kinds"]["blobs"], said["bytes"]) == (True, {"count": 1, "bytes": 5}, 5)
    assert cli.execute(["prune", "--dry-run"]) == 0
    assert "would free 5 B" in capsys.readouterr().out
    assert cli.execute(["prune"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["blobs", "1", "5", "B"] in [line.split() for line in lines]
    assert lines[-1] == "freed 5 B"


# Names and attachments


def test_attachments_go_with_the_last_name_of_their_image(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    cloudimage.tag(store, "web", "alias")
    other = put(store, "other", [file("b")])
    names = [attach(store, image), attach(store, image, "", "elsewhere/web"), attach(store, image, ".att")]
    foreign = attach(store, other)
    on_signature = attach(store, dataclasses.replace(image, digest=store.resolve(names[0]).digest))
    assert cli.execute(["rmi", "web"]) == 0
    assert set(names) <= set(store.names())
    capsys.readouterr()
    assert cli.execute(["rmi", "alias", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["names"][0] == "alias:latest"
    assert set(said["names"][1:]) == {*names, on_signature}
    assert set(store.names()) == {"other:latest", foreign}
    assert said["bytes"] > 0


def test_what_is_attached_to_a_part_that_another_image_has_stays(store: Store) -> None:
    """A signature of the manifest for one platform, which two indexes list."""
    one = put(store, "one", [file("a")], platforms=(AMD64,))
    put(store, "both", [file("a")], platforms=(AMD64, ARM64))
    shared = json.loads(store.read(one.digest))["manifests"][0]["digest"]
    name = attach(store, dataclasses.replace(one, digest=shared))
    cloudimage.remove(store, ["one"])
    assert name in store.names()
    assert cloudimage.remove(store, ["both"])[0] == ("both:latest", name)


def test_a_signature_can_be_removed_by_its_own_name(store: Store) -> None:
    image = put(store, "web", [file("a")])
    name = attach(store, image)
    assert cloudimage.remove(store, [name])[0] == (name,)
    assert list(store.names()) == ["web:latest"]


def test_when_one_name_is_not_there_none_goes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    name = attach(store, image)
    assert cli.execute(["rmi", "web", "wbe"]) == 4
    assert "wbe" in capsys.readouterr().err
    assert list(store.names()) == ["web:latest", name]
    assert cli.execute(["rmi", image.digest[7:20]]) == 0
    assert store.names() == {}


def test_prune_takes_attachments_of_images_that_are_gone(store: Store) -> None:
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


def test_images_hides_attachments_and_shows_them_on_request(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    names = {attach(store, image): "signature", attach(store, image, ".att"): "attestation", attach(store, image, ""): "referrers"}
    container_image(store, "nginx", b"n")
    manifest = next(
        path.name for path in (store.root / "blobs/sha256").iterdir() if b"tar+gzip" in path.read_bytes() and b"config" in path.read_bytes()
    )
    store.tag("nginx", Descriptor(OCI_MANIFEST, f"sha256:{manifest}", store.size(f"sha256:{manifest}")))

    def listed(*words: str) -> dict[str, str]:
        assert cli.execute(["images", *words, "-o", "json"]) == 0
        return {row["name"]: row["kind"] for row in json.loads(capsys.readouterr().out)}

    assert listed() == {"web:latest": "cloudimage"}
    assert listed("--all") == {"web:latest": "cloudimage", "nginx:latest": "image", **names}
    assert cli.execute(["images", "--all"]) == 0
    assert "nginx:latest" in capsys.readouterr().out


def test_while_somebody_uses_the_store_attachments_stay_for_prune(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A pull names the signatures before the image: taken away in between they would be lost."""
    image = put(store, "web", [file("a")])
    name = attach(store, image)
    with store.shared_lease():
        assert cli.execute(["rmi", "web"]) == 0
    assert "the store is in use" in capsys.readouterr().out
    assert list(store.names()) == [name]
    assert store.has(image.digest)
    assert prune.prune(store).names == (name,)
    assert not store.has(image.digest)
