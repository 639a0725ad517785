from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import re
import shutil
import stat
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import BuildError, StoreError
from harness.oci.layer import LayerEntry, compression, diff, scan, snapshot, unpack, write_layer
from harness.oci.layer.extract import open_layer
from harness.oci.layer.tar_reader import END
from harness.oci.model import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, Descriptor, digest_of
from harness.oci.store import CHUNK, Store


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A rootfs with one of everything that a rootfs may hold."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/kubelet").write_bytes(b"\x7fELF" + bytes(100_000))
    (root / "bin/kubelet").chmod(0o755)
    (root / "bin/mount").write_bytes(b"#!")
    (root / "bin/mount").chmod(0o4755)
    (root / "bin/kubectl").symlink_to("kubelet")
    (root / "bin/ctr").symlink_to("/usr/bin//ctr")
    os.link(root / "bin/kubelet", root / "bin/linked")
    (root / "etc/empty").mkdir(parents=True)
    (root / "etc/secret").mkdir()
    (root / "etc/secret").chmod(0o700)
    (root / "etc" / ("long-" + "n" * 200)).write_text("long name")
    (root / "etc/ünï cødé").write_text("")
    (root / "etc/sticky").mkdir()
    (root / "etc/sticky").chmod(0o1777)
    return root


def look(root: Path) -> dict[str, tuple[str, int, object]]:
    """All that a layer keeps of a tree."""
    found: dict[str, tuple[str, int, object]] = {}
    for path in sorted(root.rglob("*")):
        mode, name = path.lstat().st_mode, path.relative_to(root).as_posix()
        if stat.S_ISLNK(mode):
            found[name] = ("symlink", 0, os.readlink(path))  # noqa: PTH115 -- Path would change how the target is written
        elif stat.S_ISDIR(mode):
            found[name] = ("dir", stat.S_IMODE(mode), None)
        else:
            found[name] = ("file", stat.S_IMODE(mode), path.read_bytes())
    return found


Member = tuple[str, bytes, str | bytes]


def put_tar(store: Store, *members: Member, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    """A layer as somebody else might make it: (name, tar type, content or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    data = buffer.getvalue()
    return Descriptor(media_type, *store.put(gzip.compress(data) if media_type == OCI_LAYER_GZIP else data))


def file(name: str, content: bytes = b"x") -> Member:
    return name, tarfile.REGTYPE, content


def folder(name: str) -> Member:
    return name, tarfile.DIRTYPE, b""


def symlink(name: str, target: str) -> Member:
    return name, tarfile.SYMTYPE, target


def hardlink(name: str, target: str) -> Member:
    return name, tarfile.LNKTYPE, target


# Writing


def test_write_layer_and_unpack_restore_tree(store: Store, tree: Path, tmp_path: Path) -> None:
    written = write_layer(scan(tree), store)
    unpack(store, [written.descriptor], tmp_path / "out")
    assert look(tmp_path / "out") == look(tree)
    assert (tmp_path / "out/bin/linked").samefile(tmp_path / "out/bin/kubelet")


def test_write_layer_same_tree_in_other_place_and_order_has_same_digest(store: Store, tree: Path, tmp_path: Path) -> None:
    first = write_layer(scan(tree), store)
    copy = tmp_path / "other" / "place"
    unpack(store, [first.descriptor], copy)
    for path in copy.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    backwards = sorted(scan(copy), key=lambda entry: entry.path, reverse=True)
    assert write_layer(backwards, Store(tmp_path / "second store")) == first


def test_write_layer_records_no_time_or_owner_and_sorts_entries(store: Store, tree: Path) -> None:
    written = write_layer(scan(tree), store)
    packed = store.read(written.descriptor.digest)
    plain = gzip.decompress(packed)
    assert digest_of(plain) == written.diff_id
    assert packed[4:8] == bytes(4)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
    assert all((member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "") for member in members)
    names = [member.name.split("/") for member in members]
    assert names == sorted(names)
    assert {member.name for member in members if member.pax_headers} == {"etc/long-" + "n" * 200, "etc/ünï cødé"}


def test_write_layer_digest_is_independent_of_processor_count(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = random.Random(7).randbytes(5 << 19) * 3
    entries = [LayerEntry("data", "file", 0o644, data)]
    written = []
    for processors in (1, 2, 7):
        monkeypatch.setattr(os, "cpu_count", lambda n=processors: n)
        written.append(write_layer(entries, store))
    assert written[0] == written[1] == written[2]
    assert digest_of(gzip.decompress(store.read(written[0].descriptor.digest))) == written[0].diff_id


def test_write_layer_and_unpack_keep_non_utf8_file_name(store: Store, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    (root / os.fsdecode(b"caf\xe9")).write_text("latin 1")
    unpack(store, [write_layer(scan(root), store).descriptor], tmp_path / "out")
    assert os.listdir(os.fsencode(tmp_path / "out")) == [b"caf\xe9"]  # noqa: PTH208 -- bytes are the point


def test_write_layer_without_entries_unpacks_to_empty_tree(store: Store, tmp_path: Path) -> None:
    written = write_layer([], store)
    unpack(store, [written.descriptor], tmp_path / "out")
    assert look(tmp_path / "out") == {}


def test_write_layer_takes_generated_content_and_prefix_and_last_entry_wins(store: Store, tree: Path, tmp_path: Path) -> None:
    entries = [
        LayerEntry("Metadata", "file", 0o644, b"{}"),
        *scan(tree / "etc", "application/etc"),
        LayerEntry("Metadata", "file", 0o600, b"{1}"),
    ]
    unpack(store, [write_layer(entries, store).descriptor], tmp_path / "out")
    found = look(tmp_path / "out")
    assert found["Metadata"] == ("file", 0o600, b"{1}")
    assert found["application/etc/sticky"] == ("dir", 0o1777, None)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "", "a//b", "a/", ".", "etc/.wh.x", ".wh..wh..opq", ".wh.a/b"])
def test_write_layer_path_not_plain_is_refused_without_blob(store: Store, path: str) -> None:
    with pytest.raises(BuildError, match="cannot be in a layer"):
        write_layer([LayerEntry(path, "file", 0o644, b"")], store)
    assert not list((store.root / "blobs/sha256").iterdir())


def test_write_layer_file_shrinking_while_read_raises_build_error(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing = tmp_path / "log"
    growing.write_bytes(bytes(CHUNK + 1))
    real = os.fstat

    def pretend(descriptor: int) -> os.stat_result:
        values = list(real(descriptor))
        values[6] += 1000
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", pretend)
    with pytest.raises(BuildError, match="log became shorter"):
        write_layer([LayerEntry("log", "file", 0o644, growing)], store)
    assert not list((store.root / "blobs/sha256").iterdir())


def test_write_layer_missing_source_file_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"{tmp_path}/gone cannot be read"):
        write_layer([LayerEntry("x", "file", 0o644, tmp_path / "gone")], store)


def test_write_layer_opaque_or_whiteout_folder_is_emptied_and_refilled(store: Store, tmp_path: Path) -> None:
    lower = write_layer(
        [LayerEntry("d", "dir"), LayerEntry("d/old", "file", 0o644, b""), LayerEntry("x", "dir"), LayerEntry("x/old", "file", 0o644, b"")],
        store,
    )
    entries = [
        LayerEntry("d", "opaque"),
        LayerEntry("x", "whiteout"),
        LayerEntry("d/new", "file", 0o644, b""),
        LayerEntry("d", "dir", 0o700),
        LayerEntry("x", "dir"),
    ]
    upper = write_layer(entries, store)
    unpack(store, [lower.descriptor, upper.descriptor], tmp_path / "out")
    assert {name: oct(mode) for name, (_, mode, _) in look(tmp_path / "out").items()} == {"d": "0o700", "d/new": "0o644", "x": "0o755"}


def test_write_layer_hard_link_before_its_file_is_refused(store: Store) -> None:
    with pytest.raises(BuildError, match="hard link to b"):
        write_layer([LayerEntry("a", "hardlink", target="b"), LayerEntry("b", "file", 0o644, b"")], store)


def test_scan_fifo_is_refused_with_path(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/pipe")
    with pytest.raises(BuildError, match="run/pipe is a device or a FIFO"):
        list(scan(tmp_path))


# Unpacking: what may not be


@pytest.mark.parametrize(
    "members",
    [
        [file("../outside")],
        [file("a/../../outside")],
        [file("a/..")],
        [file("/outside")],
        [folder("../outside")],
        [symlink("../outside", "x")],
        [symlink("link", ".."), file("link/outside")],
        [symlink("link", "../.."), file("link/outside")],
        [symlink("link", "/tmp"), file("link/outside")],
        [symlink("link", "a/../../x"), folder("a"), file("link/outside")],
        [folder("a"), symlink("a/b", ".."), symlink("c", "a/b/.."), file("c/outside")],
        [symlink("one", "two"), symlink("two", "one"), file("one/outside")],
        [symlink("link", ".."), folder("link/outside")],
        [symlink("link", ".."), symlink("link/outside", "x")],
        [symlink("link", ".."), hardlink("stolen", "link/secret")],
        [hardlink("stolen", "../secret")],
        [hardlink("stolen", "/etc/hostname")],
        [hardlink("stolen", "nothing")],
        [folder("a"), hardlink("stolen", "a")],
        [file("a"), file("a/b")],
        [("null", tarfile.CHRTYPE, "")],
        [("disk", tarfile.BLKTYPE, "")],
        [("pipe", tarfile.FIFOTYPE, "")],
        [file(".wh..")],
        [file(".wh...")],
        [file(".wh.")],
        [folder("a"), file("a/.wh...")],
        [symlink("link", ".."), file("link/.wh.secret")],
        [symlink("link", ".."), file("link/.wh..wh..opq")],
        [file("../.wh.secret")],
    ],
    ids=lambda members: " ".join(f"{name}>{content}" if isinstance(content, str) else name for name, _, content in members),
)
def test_unpack_hostile_entry_is_refused_and_changes_nothing_outside(store: Store, tmp_path: Path, members: list[Member]) -> None:
    jail = tmp_path / "jail"
    jail.mkdir()
    (jail / "secret").write_text("secret")
    bad = put_tar(store, *members)
    with pytest.raises(StoreError, match=f"layer {bad.digest} is refused: its entry") as caught:
        unpack(store, [bad], jail / "out")
    assert members[-1][0].rstrip("/") in str(caught.value)
    assert [path.name for path in jail.iterdir() if path.name != "out"] == ["secret"]
    assert (jail / "secret").read_text() == "secret"
    assert (jail / "secret").stat().st_nlink == 1


def test_unpack_path_through_outward_link_of_lower_layer_is_refused(store: Store, tmp_path: Path) -> None:
    lower, upper = put_tar(store, symlink("etc", "/etc")), put_tar(store, file("etc/passwd"))
    with pytest.raises(StoreError, match="leaves the rootfs through a link"):
        unpack(store, [lower, upper], tmp_path / "out")


def test_unpack_outward_link_is_replaced_and_never_followed(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    lower = put_tar(store, symlink("to-file", str(outside)), symlink("to-dir", str(tmp_path)), symlink("alias", str(outside)))
    upper = put_tar(store, file("to-file", b"new"), folder("to-dir"), hardlink("hard", "alias"), file("hard", b"new"))
    unpack(store, [lower, upper], tmp_path / "out")
    assert outside.read_text() == "mine"
    assert look(tmp_path / "out") == {
        "alias": ("symlink", 0, str(outside)),
        "hard": ("file", 0o644, b"new"),
        "to-dir": ("dir", 0o755, None),
        "to-file": ("file", 0o644, b"new"),
    }


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-10], lambda data: data[:40] + b"\0" + data[41:], lambda data: b""], ids=["cut", "changed", "empty"]
)
def test_unpack_damaged_layer_is_refused_before_extraction(store: Store, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    good, bad = put_tar(store, file("good")), put_tar(store, file("bad", b"y" * 1000))
    store.path(bad.digest).write_bytes(damage(store.read(bad.digest)))
    with pytest.raises(StoreError, match="damaged"):
        unpack(store, [good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "data",
    [b"not gzip", gzip.compress(b"not a tar" * 100, mtime=0), gzip.compress(bytes(10_000), mtime=0)[:-9], b""],
    ids=["not gzip", "not a tar", "cut", "empty"],
)
def test_unpack_layer_without_readable_tar_raises_store_error(store: Store, tmp_path: Path, data: bytes) -> None:
    bad = Descriptor(OCI_LAYER_GZIP, *store.put(data))
    with pytest.raises(StoreError, match=f"layer {bad.digest} is not a readable tar"):
        unpack(store, [bad], tmp_path / "out")


def test_unpack_unknown_media_type_is_named(store: Store, tmp_path: Path) -> None:
    unknown = OCI_LAYER + "+xz"
    with pytest.raises(StoreError, match=re.escape(unknown)):
        unpack(store, [put_tar(store, file("x"), media_type=unknown)], tmp_path / "out")


# Unpacking: how layers merge


def merged(store: Store, destination: Path, *layers: list[Member]) -> dict[str, object]:
    """Path -> content (files), target (links) or None (folders) of layers laid over each other."""
    unpack(store, [put_tar(store, *members) for members in layers], destination)
    return {name: content for name, (_, _, content) in look(destination).items()}


@pytest.mark.parametrize(
    ("lower", "upper", "result"),
    [
        pytest.param([file("a", b"1")], [file("a", b"2")], {"a": b"2"}, id="a file replaces a file"),
        pytest.param([file("a/b")], [file("a")], {"a": b"x"}, id="a file replaces a folder"),
        pytest.param([file("a")], [folder("a"), file("a/b")], {"a": None, "a/b": b"x"}, id="a folder replaces a file"),
        pytest.param([file("a/b")], [folder("a"), file("a/c")], {"a": None, "a/b": b"x", "a/c": b"x"}, id="folders merge"),
        pytest.param([file("a/b")], [symlink("a", "c")], {"a": "c"}, id="a link replaces a folder"),
        pytest.param(
            [symlink("l", "d"), file("d/x")], [file("l/y")], {"l": "d", "d": None, "d/x": b"x", "d/y": b"x"}, id="a link inside is followed"
        ),
        pytest.param(
            [symlink("a/l", "../d"), folder("d")], [file("a/l/y")], {"a": None, "a/l": "../d", "d": None, "d/y": b"x"}, id="also upwards"
        ),
        pytest.param([file("a"), file("b")], [file(".wh.a")], {"b": b"x"}, id="a file is removed"),
        pytest.param([file("d/a"), file("d/b"), file("c")], [file(".wh.d")], {"c": b"x"}, id="a folder is removed"),
        pytest.param(
            [symlink("l", "d"), file("d/a")], [file(".wh.l")], {"d": None, "d/a": b"x"}, id="a link is removed, not what it means"
        ),
        pytest.param([symlink("l", "d"), file("d/a")], [file("l/.wh.a")], {"l": "d", "d": None}, id="through a link inside"),
        pytest.param([file("a")], [file(".wh.b"), file("no/.wh.c")], {"a": b"x"}, id="what is not there may be removed"),
        pytest.param([file("d/a"), file("d/e/b")], [file("d/.wh..wh..opq"), file("d/c")], {"d": None, "d/c": b"x"}, id="opaque"),
        pytest.param([file("d/a"), file("d/e/b")], [file("d/c"), file("d/.wh..wh..opq")], {"d": None, "d/c": b"x"}, id="opaque comes late"),
        pytest.param([file("d/e/a")], [file("d/e/b"), file("d/.wh..wh..opq")], {"d": None, "d/e": None, "d/e/b": b"x"}, id="opaque, deep"),
        pytest.param([file("d/a")], [file("d/b"), file(".wh.d")], {"d": None, "d/b": b"x"}, id="removal comes after what is new in it"),
        pytest.param([file("a", b"1")], [file("a", b"2"), file(".wh.a")], {"a": b"2"}, id="a removal is of lower layers only"),
        pytest.param([file("a")], [file(".wh..wh.plnk"), file("b")], {"a": b"x", "b": b"x"}, id="other marks of aufs mean nothing"),
        pytest.param(
            [file("a", b"1"), hardlink("b", "a")], [file("b", b"2")], {"a": b"1", "b": b"2"}, id="a hard link is not written through"
        ),
        pytest.param([file("a", b"1")], [hardlink("b", "./a")], {"a": b"1", "b": b"1"}, id="a hard link to a lower layer"),
        pytest.param([], [folder("./"), folder("./a/"), file("./a/b")], {"a": None, "a/b": b"x"}, id="names with a dot"),
        pytest.param([file("a")], [hardlink("a", "a")], {"a": b"x"}, id="a hard link to itself"),
    ],
)
def test_unpack_two_layers_merges_files_links_and_whiteouts(
    store: Store, tmp_path: Path, lower: list[Member], upper: list[Member], result: dict[str, object]
) -> None:
    assert merged(store, tmp_path / "out", lower, upper) == result


def test_unpack_read_only_folder_is_filled_by_next_layer(store: Store, tmp_path: Path) -> None:
    lower = write_layer([LayerEntry("d", "dir", 0o555), LayerEntry("d/a", "file", 0o444, b"")], store)
    upper = write_layer([LayerEntry("d/b", "file", 0o6755, b"")], store)
    unpack(store, [lower.descriptor, upper.descriptor], tmp_path / "out")
    assert {name: oct(mode) for name, (_, mode, _) in look(tmp_path / "out").items()} == {"d": "0o555", "d/a": "0o444", "d/b": "0o6755"}


def test_unpack_plain_tar_and_multi_member_gzip_are_read(store: Store, tmp_path: Path) -> None:
    plain = put_tar(store, file("a"), media_type=OCI_LAYER)
    data = store.read(put_tar(store, file("b"), media_type=OCI_LAYER).digest)
    pieces = b"".join(gzip.compress(data[start : start + 1000]) for start in range(0, len(data), 1000))
    unpack(store, [plain, Descriptor(OCI_LAYER_GZIP, *store.put(pieces + bytes(512)))], tmp_path / "out")
    assert sorted(look(tmp_path / "out")) == ["a", "b"]


def zstd_layer(store: Store, *members: Member) -> bytes:
    data = store.read(put_tar(store, *members, media_type=OCI_LAYER).digest)
    packed = bytearray()
    with compression.ZstdWriter(packed.extend) as writer:
        writer.write(data)
    return bytes(packed)


def test_unpack_zstd_layer_over_gzip_layer_merges_both(store: Store, tmp_path: Path) -> None:
    upper = Descriptor(OCI_LAYER_ZSTD, *store.put(zstd_layer(store, file("a", b"2" * 300_000), file(".wh.b"))))
    unpack(store, [put_tar(store, file("a", b"1"), file("b")), upper], tmp_path / "out")
    assert {name: content for name, (_, _, content) in look(tmp_path / "out").items()} == {"a": b"2" * 300_000}


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: data[:30] + b"\xff" + data[31:], lambda data: b"x" + data],
    ids=["the last byte is missing", "cut", "changed", "not zstd"],
)
def test_unpack_malformed_zstd_layer_raises_store_error(store: Store, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    bad = Descriptor(OCI_LAYER_ZSTD, *store.put(damage(zstd_layer(store, file("a", os.urandom(50_000))))))
    with pytest.raises(StoreError, match=f"layer {bad.digest} is not a readable tar"):
        unpack(store, [bad], tmp_path / "out")


# What a command changed


def laid_over(store: Store, before: Path, changes: list[LayerEntry], destination: Path) -> dict[str, tuple[str, int, object]]:
    layers = [write_layer(scan(before), store).descriptor, write_layer(changes, store).descriptor]
    unpack(store, layers, destination, links_out=True)
    return look(destination)


def test_diff_unchanged_tree_gives_no_entries(tree: Path) -> None:
    before = snapshot(tree)
    for path in tree.rglob("*"):
        os.utime(path, (time.time() + 100, 5), follow_symlinks=False)
    data = (tree / "bin/kubelet").read_bytes()
    (tree / "bin/kubelet").write_bytes(data)
    assert list(diff(before, tree)) == []


@pytest.mark.parametrize("way", ["copy", "snapshot"])
def test_diff_lists_every_kind_of_change(store: Store, tree: Path, tmp_path: Path, way: str) -> None:
    copy = tmp_path / "before"
    shutil.copytree(tree, copy, symlinks=True)
    before = copy if way == "copy" else snapshot(tree)
    (tree / "bin/mount").write_bytes(b"!#")  # same length
    (tree / "bin/kubelet").chmod(0o700)
    (tree / "bin/kubectl").unlink()
    (tree / "bin/kubectl").symlink_to("linked")
    (tree / "bin/ctr").unlink()
    (tree / "bin/ctr").write_text("now a file")
    (tree / "etc/empty").rmdir()
    (tree / "etc/empty").symlink_to("sticky")
    shutil.rmtree(tree / "etc/secret")
    (tree / "etc/ünï cødé").unlink()
    (tree / "etc/ünï cødé").mkdir()
    (tree / "etc/ünï cødé/new").write_text("")
    (tree / "etc/sticky").chmod(0o755)
    changes = list(diff(before, tree))
    assert {(entry.kind, entry.path) for entry in changes} == {
        ("file", "bin/mount"),
        ("file", "bin/kubelet"),
        ("hardlink", "bin/linked"),
        ("symlink", "bin/kubectl"),
        ("file", "bin/ctr"),
        ("symlink", "etc/empty"),
        ("whiteout", "etc/secret"),
        ("dir", "etc/ünï cødé"),
        ("file", "etc/ünï cødé/new"),
        ("dir", "etc/sticky"),
    }
    assert laid_over(store, copy, changes, tmp_path / "out") == look(tree)


def test_diff_removed_folder_gives_single_whiteout(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c").write_text("")
    before = snapshot(tmp_path)
    shutil.rmtree(tmp_path / "a")
    assert list(diff(before, tmp_path)) == [LayerEntry("a", "whiteout")]


def test_diff_file_named_like_whiteout_is_refused(tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    (tmp_path / ".wh.passwd").write_text("")
    with pytest.raises(BuildError, match="mean removals"):
        list(diff(before, tmp_path))


def random_tree(chance: random.Random, root: Path, depth: int = 0) -> None:
    for name in chance.sample("abcdef", chance.randint(1, 4)):
        if not (root / name).is_symlink() and not (root / name).exists():
            random_thing(chance, root / name, depth)


def random_thing(chance: random.Random, path: Path, depth: int) -> None:
    kind = chance.choice(["file", "file", "link", "dir"] if depth < 3 else ["file", "link"])
    if kind == "file":
        path.write_bytes(chance.randbytes(chance.choice([0, 3, 3, 2000])))
        path.chmod(chance.choice([0o644, 0o755, 0o4711]))
    elif kind == "link":
        path.symlink_to(chance.choice(["a", "../b", "/etc/hosts", "nowhere"]))
    else:
        path.mkdir()
        path.chmod(chance.choice([0o755, 0o700]))
        random_tree(chance, path, depth + 1)


@pytest.mark.parametrize("seed", range(25))
def test_diff_unpacked_over_old_tree_gives_new_tree(store: Store, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    random_tree(chance, before)
    shutil.copytree(before, after, symlinks=True)
    for path in sorted(after.rglob("*"), reverse=True):
        if chance.random() < 0.4:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            if chance.random() < 0.6:
                random_thing(chance, path, 2)
    random_tree(chance, after)
    assert laid_over(store, before, list(diff(before, after)), tmp_path / "out") == look(after)


# Layers that are made to do harm


def put_raw(store: Store, tar: bytes, media_type: str = OCI_LAYER_GZIP) -> Descriptor:
    return Descriptor(media_type, *store.put(gzip.compress(tar) if media_type == OCI_LAYER_GZIP else tar))


def header(name: str, kind: bytes, size: int = 0, *, mode: int = 0o644, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.linkname = kind, size, mode, link
    return info.tobuf(tarfile.GNU_FORMAT)


def folder_with_mode(name: str, mode: int) -> bytes:
    return header(name, tarfile.DIRTYPE, mode=mode)


@pytest.mark.parametrize("link", ["../outside", "OUTSIDE", "inside"])
def test_unpack_mode_of_a_folder_never_goes_through_a_link(store: Store, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside/etc"
    outside.mkdir(parents=True, mode=0o755)
    target = str(tmp_path / "outside") if link == "OUTSIDE" else link
    tar = folder_with_mode("inside/etc", 0o700) + folder_with_mode("x/etc", 0o777)
    swap = header("x", tarfile.SYMTYPE, link=target)
    layers = [put_raw(store, tar + END), put_raw(store, swap + END)]
    unpack(store, layers, tmp_path / "out", links_out=True)
    assert outside.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/inside/etc").stat().st_mode & 0o777 == 0o700
    unpack(store, [put_raw(store, tar + swap + END)], tmp_path / "once", links_out=True)
    assert outside.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "members",
    [
        [symlink("a", "..")],
        [symlink("etc/addons/a.yaml", "../../../root/.ssh/id_rsa")],
        [folder("d/e"), symlink("up", "d/e/../../.."), file("x")],
        [symlink("shallow", "."), symlink("d/link", "../shallow/..")],
        [symlink("a", ".."), hardlink("b/a", "a")],
    ],
)
def test_unpack_relative_link_out_of_the_tree_is_refused(store: Store, tmp_path: Path, members: list[Member]) -> None:
    layer = put_tar(store, *members)
    with pytest.raises(StoreError, match="leads out of the rootfs"):
        unpack(store, [layer], tmp_path / "out")


@pytest.mark.parametrize("target", ["/etc/passwd", "a/..", "../x/a", "missing", "loop"])
def test_unpack_link_inside_or_for_the_node_is_kept(store: Store, tmp_path: Path, target: str) -> None:
    unpack(store, [put_tar(store, folder("x/a"), symlink("x/loop", target))], tmp_path / "out")
    assert (tmp_path / "out/x/loop").readlink() == Path(target)


def sparse(name: str, size: int) -> bytes:
    return header(name, tarfile.GNUTYPE_SPARSE, 0)[:483] + b"%011o\0" % size + bytes(17)


def with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    return block[:148] + b"%06o\0 " % total + block[156:]


def pax(records: bytes) -> bytes:
    return header("pax", tarfile.XHDTYPE, len(records)) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    ("tar", "reason"),
    [
        (with_checksum(sparse("s", 1 << 40)), "sparse"),
        (pax(b"22 GNU.sparse.major=1\n") + header("s", tarfile.REGTYPE), "sparse"),
        (header("long", tarfile.GNUTYPE_LONGNAME, 300 << 20), "a header of 314572800 bytes"),
        (header("pax", tarfile.XHDTYPE, 300 << 20), "a header of 314572800 bytes"),
        (pax(b"16 comment=abcd\n") * 65 + header("s", tarfile.REGTYPE), "more than 64 headers"),
        (header("file/", tarfile.AREGTYPE, 512), "a folder with content"),
        (header("x", tarfile.REGTYPE, 5) + b"12345", "ends"),
    ],
    ids=["gnu sparse", "pax sparse", "long name", "long pax", "many pax", "folder with content", "cut"],
)
def test_unpack_harmful_header_is_refused(store: Store, tmp_path: Path, tar: bytes, reason: str) -> None:
    bad = put_raw(store, tar)
    with pytest.raises(StoreError, match=f"layer {bad.digest} .*{reason}"):
        unpack(store, [bad], tmp_path / "out")


def test_open_layer_keeps_a_ceiling_of_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "SLACK", 4096)
    bomb = put_raw(store, header("zeros", tarfile.REGTYPE, 4 << 20) + bytes(4 << 20) + END)
    assert bomb.size * compression.RATIO < 4 << 20, "the layer is small enough to be a bomb"
    with pytest.raises(StoreError, match=f"layer {bomb.digest} is refused.*is larger than"), open_layer(store, bomb) as tar:
        for _ in tar:
            pass


@pytest.mark.parametrize(("most", "names", "why"), [(3, 24, "it has more than 3 entries"), (4, 23, "its names are too long")])
def test_open_layer_entries_or_names_over_limit_are_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, most: int, names: int, why: str
) -> None:
    monkeypatch.setattr("harness.oci.layer.extract.MOST_ENTRIES", most)
    monkeypatch.setattr("harness.oci.layer.tar_reader._NAMES", names)
    layer = put_tar(store, *(file(f"name-{number}") for number in range(4)))
    with pytest.raises(StoreError, match=why), open_layer(store, layer) as tar:
        for _ in tar:
            pass
    monkeypatch.setattr("harness.oci.layer.extract.MOST_ENTRIES", 4)
    monkeypatch.setattr("harness.oci.layer.tar_reader._NAMES", 24)
    with open_layer(store, layer) as tar:
        assert len(list(tar)) == 4


def test_unpack_keeps_some_of_the_disk_free(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.oci.layer.extract._BETWEEN_LOOKS", 1)
    monkeypatch.setattr("harness.oci.layer.extract._FREE", 1 << 60)
    with pytest.raises(StoreError, match="does not fit on the disk"):
        unpack(store, [put_tar(store, file("x"))], tmp_path / "out")


@pytest.mark.parametrize("name", ["a/" * 300 + "b", "a" * 5000])
def test_unpack_long_path_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="too long"):
        unpack(store, [put_tar(store, file(name))], tmp_path / "out")


@pytest.mark.parametrize("target", ["", "a\0b", "a" * 5000])
def test_unpack_link_to_an_impossible_name_is_refused(store: Store, tmp_path: Path, target: str) -> None:
    record = b"linkpath=" + target.encode() + b"\n"
    record = b"%d %b" % (len(record) + 1 + len(str(len(record))), record)
    if not record.startswith(b"%d " % len(record)):
        record = b"%d %b" % (len(record), record.partition(b" ")[2])
    with pytest.raises(StoreError, match="link to nothing"):
        unpack(store, [put_raw(store, pax(record) + header("x", tarfile.SYMTYPE) + END)], tmp_path / "out")


def test_unpack_empties_a_folder_once_a_layer(store: Store, tmp_path: Path) -> None:
    lower = put_tar(store, file("d/old"))
    upper = put_tar(store, file("d/new"), file("d/.wh..wh..opq"), file("d/newer"), file("d/.wh..wh..opq"), file(".wh.d"))
    unpack(store, [lower, upper], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/d").iterdir()) == ["new", "newer"]


def test_unpack_tar_without_end_mark_is_read_as_go_reads_it(store: Store, tmp_path: Path) -> None:
    unpack(store, [put_raw(store, header("x", tarfile.REGTYPE, 1) + b"1" + bytes(511))], tmp_path / "out")
    assert (tmp_path / "out/x").read_bytes() == b"1"


LONG = "a" * 256


@pytest.mark.parametrize(
    "members",
    [[file(LONG)], [file(f"b/{LONG}/c")], [symlink(LONG, "x")], [symlink("link", LONG), file("link/x")]],
    ids=["file", "folder", "link", "through a link"],
)
def test_unpack_file_name_over_255_bytes_is_refused(store: Store, tmp_path: Path, members: list[Member]) -> None:
    with pytest.raises(StoreError, match="too long"):
        unpack(store, [put_tar(store, *members)], tmp_path / "out")


@pytest.mark.parametrize(
    ("records", "owner", "dated"),
    [
        (b"", (0, 0), False),
        (b"13 uid=70000\n", (70000, 0), False),
        (b"8 gid=7\n", (0, 7), False),
        (b"15 mtime=0.000\n", (0, 0), False),
        (b"14 mtime=12.5\n", (0, 0), True),
        (b"11 atime=1\n", (0, 0), True),
        (b"14 mtime=soon\n", (0, 0), True),
        (b"12 uid=root\n", (-1, 0), False),
    ],
)
def test_open_layer_gives_owner_and_says_of_a_time(store: Store, records: bytes, owner: tuple[int, int], dated: bool) -> None:
    layer = put_raw(store, (pax(records) if records else b"") + header("a", tarfile.REGTYPE) + END)
    with open_layer(store, layer) as tar:
        assert [(entry.owner, entry.dated) for entry in tar] == [(owner, dated)]


def test_open_layer_hashes_the_whole_tar(store: Store) -> None:
    layer = write_layer([LayerEntry("a", "file", 0o644, bytes(300_000))], store)
    content = hashlib.sha256()
    with open_layer(store, layer.descriptor, content):
        pass
    assert f"sha256:{content.hexdigest()}" == layer.diff_id
