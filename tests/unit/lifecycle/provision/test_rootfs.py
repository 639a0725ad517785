"""The rootfs on its way: merged once, sent whole, rendered for each node."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from harness.cloudimage import PlatformImage
from harness.errors import InputError, StoreError
from harness.lifecycle.provision import rootfs
from harness.nodes.files import NodeFile
from harness.oci.layer import LayerEntry, scan, write_layer
from harness.oci.model import OCI_LAYER_ZSTD, Platform
from harness.oci.store import Store
from harness.process import ProcessResult
from tests.unit.lifecycle.standin import StandIn


def image(store: Store, *layers: dict[str, str], root: Path) -> PlatformImage:
    """An image of some layers of text files."""
    made = []
    for number, files in enumerate(layers):
        folder = root / f"layer-{number}"
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
            (folder / path).chmod(0o755 if path.startswith("bin/") else 0o644)
        made.append(write_layer(scan(folder), store))
    return PlatformImage(Platform.parse("linux/amd64"), tuple(layer.descriptor for layer in made), tuple(layer.diff_id for layer in made))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "store")


def test_tree_of_same_layers_is_merged_once(store: Store, tmp_path: Path) -> None:
    found = image(store, {"etc/a": "one"}, {"etc/a": "two", "bin/x": "#!"}, root=tmp_path)
    tree = rootfs.tree(store, found)
    assert (tree / "etc/a").read_text() == "two"
    stamp = tree.stat().st_ino
    assert rootfs.tree(store, found).stat().st_ino == stamp
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]


def test_read_file_returns_content_of_uppermost_layer(store: Store, tmp_path: Path) -> None:
    found = image(store, {"etc/slipway.yaml": "old", "etc/b": "b"}, {"etc/slipway.yaml": "new"}, {"etc/c": "c"}, root=tmp_path)
    assert rootfs.read_file(store, found, "etc/slipway.yaml") == b"new"
    assert rootfs.read_file(store, found, "etc/b") == b"b"
    assert rootfs.read_file(store, found, "etc/nosuch") is None


def test_read_file_larger_than_limit_raises_store_error(store: Store, tmp_path: Path) -> None:
    largest = "a" * rootfs._SMALL_FILE
    found = image(store, {"etc/slipway.yaml": largest, "etc/large": f"{largest}a"}, root=tmp_path)
    assert rootfs.read_file(store, found, "etc/slipway.yaml") == largest.encode()
    with pytest.raises(StoreError, match=r"etc/large of the image has 1048577 bytes; at most 1048576 are read"):
        rootfs.read_file(store, found, "etc/large")


@pytest.mark.parametrize(
    "removal",
    [
        LayerEntry("etc/addons/network.yaml", "whiteout"),
        LayerEntry("etc/addons", "whiteout"),
        LayerEntry("etc/addons", "opaque"),
        LayerEntry("etc", "opaque"),
    ],
)
def test_read_file_removed_by_upper_layer_returns_none(store: Store, tmp_path: Path, removal: LayerEntry) -> None:
    found = image(store, {"etc/addons/network.yaml": "old", "b": "b"}, root=tmp_path)
    made = write_layer([removal, LayerEntry("etc/other", "file", source=b"o")], store)
    found = dataclasses.replace(found, layers=(*found.layers, made.descriptor), diff_ids=(*found.diff_ids, made.diff_id))
    assert rootfs.read_file(store, found, "etc/addons/network.yaml") is None
    assert rootfs.read_file(store, found, "etc/other") == b"o"
    assert rootfs.read_file(store, found, "b") == b"b"
    again = write_layer([LayerEntry("etc/addons/network.yaml", "file", source=b"new")], store)
    found = dataclasses.replace(found, layers=(*found.layers, again.descriptor), diff_ids=(*found.diff_ids, again.diff_id))
    assert rootfs.read_file(store, found, "etc/addons/network.yaml") == b"new"


def test_rendered_returns_only_changed_files_and_keeps_tree(store: Store, tmp_path: Path) -> None:
    tree = rootfs.tree(
        store,
        image(store, {"manifests/a.yaml": "port: {{ Port }}", "manifests/b.yaml": "x: 1", "etc/c.tmpl": "{{ .HostIP }}"}, root=tmp_path),
    )
    files = rootfs.rendered(tree, {"Port": "8443", "HostIP": "10.0.0.1"})
    assert {path: file.data for path, file in files.items()} == {"manifests/a.yaml": b"port: 8443", "etc/c": b"10.0.0.1"}
    assert (tree / "manifests/a.yaml").read_text() == "port: {{ Port }}"


def test_rendered_files_have_owner_only_mode(store: Store, tmp_path: Path) -> None:
    tree = rootfs.tree(store, image(store, {"etc/a": "{{ Word }}", "etc/b.tmpl": "{{ .Word }}"}, root=tmp_path))
    files = rootfs.rendered(tree, {"Word": "hunter2"})
    assert {path: oct(file.mode) for path, file in files.items()} == {"etc/a": "0o600", "etc/b": "0o600"}
    assert oct(rootfs.owner_only(0o100755)) == "0o700"


def test_rendered_edited_file_is_included_and_tree_is_kept(store: Store, tmp_path: Path) -> None:
    tree = rootfs.tree(store, image(store, {"etc/mysql.yaml": "a: b"}, root=tmp_path))

    def edit(root: Path) -> list[str]:
        (root / "etc/mysql.yaml").write_text("size: {{ Size }}")
        return ["etc/mysql.yaml"]

    assert rootfs.rendered(tree, {"Size": "9"}, edit=edit)["etc/mysql.yaml"].data == b"size: 9"
    assert (tree / "etc/mysql.yaml").read_text() == "a: b"


def test_rendered_missing_value_is_reported_with_file_and_line(store: Store, tmp_path: Path) -> None:
    tree = rootfs.tree(store, image(store, {"manifests/a.yaml": "a: 1\nport: {{ Port }}"}, root=tmp_path))
    with pytest.raises(InputError, match=r"manifests/a\.yaml:2"):
        rootfs.rendered(tree, {})


class Members(StandIn):
    """Keeps the entries of the tars that it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.members: list[tarfile.TarInfo] = []

    def _take(self, command: str, write: Callable[[BinaryIO], None]) -> None:
        super()._take(command, write)
        stream = io.BytesIO()
        write(stream)
        with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
            self.members += tar.getmembers()


def test_send_whole_tree_with_modes_replaces_old_one_after_transfer(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for path, mode in {"bin/kubectl": 0o755, "bin/mount": 0o4755, "etc/a": 0o644, "etc/key": 0o600}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(f"the file {path}")
        (tree / path).chmod(mode)
    (tree / "bin/k").symlink_to("kubectl")
    (tree / "empty").mkdir()
    (tree / "etc").chmod(0o750)
    node = Members()
    rootfs.send(node, tree)
    command, files = node.tars[0]
    # A file is the content, a link its target, a folder nothing.
    assert files == {
        "bin": b"",
        "bin/k": b"kubectl",
        "bin/kubectl": b"the file bin/kubectl",
        "bin/mount": b"the file bin/mount",
        "empty": b"",
        "etc": b"",
        "etc/a": b"the file etc/a",
        "etc/key": b"the file etc/key",
    }
    modes = {member.name: member.mode for member in node.members}
    assert {path: oct(modes[path]) for path in ("bin/kubectl", "bin/mount", "etc", "etc/a", "etc/key")} == {
        "bin/kubectl": "0o755", "bin/mount": "0o4755", "etc": "0o750", "etc/a": "0o644", "etc/key": "0o600",
    }  # fmt: skip
    assert {(member.uid, member.gid) for member in node.members} == {(0, 0)}
    # The modes are those of the tree, and the old tree stays until the new one beside it is complete.
    assert "FOLDER=/var/lib/slipway/rootfs\n" in command
    lines = command.splitlines()
    order = [
        "set -e",
        'tar -C "$FOLDER.new" -xopf -',
        'if [ -d "$FOLDER" ]; then mv "$FOLDER" "$FOLDER.old"; fi',
        'mv "$FOLDER.new" "$FOLDER"',
    ]
    assert [line for line in lines if line in order] == order


def test_parcel_lists_all_paths_digests_and_modes(store: Store, tmp_path: Path) -> None:
    found = image(store, {"bin/kubectl": "program", "etc/a": "a"}, {"etc/a": "b"}, root=tmp_path)
    (rootfs.tree(store, found) / "bin/k").symlink_to("kubectl")
    parcel = rootfs.parcel(store, found)
    assert parcel.name == rootfs.parcel_name(found)
    assert {path: content.digest for path, content in parcel.files.items()} == {
        "bin/kubectl": hashlib.blake2b(b"program").hexdigest(),
        "etc/a": hashlib.blake2b(b"b").hexdigest(),
    }
    assert parcel.beside["paths"].decode().splitlines() == ["./bin", "./bin/k", "./bin/kubectl", "./etc", "./etc/a"]
    assert sorted(parcel.beside["modes"].decode().splitlines()) == ["644 ./etc/a", "755 ./bin/kubectl"]
    with tarfile.open(fileobj=io.BytesIO(parcel.beside["skeleton.tar"])) as tar:
        assert {member.name: member.linkname for member in tar} == {"bin": "", "bin/k": "kubectl", "etc": ""}


def test_parcel_packed_sends_layers_from_first_missing_one_on(store: Store, tmp_path: Path) -> None:
    found = image(store, {"etc/a": "a"}, {"etc/b": "b"}, {"etc/c": "c"}, root=tmp_path)
    first, second, third = (layer.digest for layer in found.layers)
    packed = rootfs.parcel(store, found).packed
    assert packed is not None

    def sent(*there: str) -> bytes:
        stream = io.BytesIO()
        load = packed(there)
        assert load is not None
        load.write(stream)
        assert load.size == len(stream.getvalue())
        return stream.getvalue()

    assert sent() == b"".join(store.read(layer.digest) for layer in found.layers)
    assert sent(first, third) == store.read(second) + store.read(third)
    assert packed([first, second, third]) is None


def test_packed_zstd_layer_returns_none(store: Store, tmp_path: Path) -> None:
    found = image(store, {"etc/a": "a"}, root=tmp_path)
    zstd = dataclasses.replace(found.layers[0], media_type=OCI_LAYER_ZSTD)
    assert rootfs._packed(store, [zstd], ()) is None


def test_parcel_with_backslash_in_path_is_not_listed(store: Store, tmp_path: Path) -> None:
    assert not rootfs.parcel(store, image(store, {"etc/a\\b": "a"}, root=tmp_path)).listed
    assert rootfs.parcel(store, image(store, {"etc/a b": "a"}, root=tmp_path / "other")).listed


def test_parcel_with_non_utf8_path_is_not_listed_and_keeps_its_bytes(store: Store, tmp_path: Path) -> None:
    """A layer has any bytes as a name; the whole tree is sent to nodes then."""
    parcel = rootfs.parcel(store, image(store, {"etc/\udcff": "a"}, root=tmp_path))
    assert not parcel.listed
    assert b"./etc/\xff\n" in parcel.beside["modes"]


def test_fingerprint_changes_with_content_and_mode(store: Store) -> None:
    from harness.nodes.files import NodeFile

    assert rootfs.fingerprint({"a": NodeFile(b"x")}) == rootfs.fingerprint({"a": NodeFile(b"x")})
    assert rootfs.fingerprint({"a": NodeFile(b"x")}) != rootfs.fingerprint({"a": NodeFile(b"y")})
    assert rootfs.fingerprint({"a": NodeFile(b"x")}) != rootfs.fingerprint({"a": NodeFile(b"x", 0o600)})


class Receiving(StandIn):
    """Keeps the tars that it is sent, and the list of what was rendered."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[dict[str, bytes]] = []
        self.listed = ""

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        if isinstance(input, bytes):
            with tarfile.open(fileobj=io.BytesIO(input)) as tar:
                self.received.append(
                    {member.name: file.read() for member in tar if member.isreg() and (file := tar.extractfile(member)) is not None}
                )
        elif isinstance(input, str):
            self.listed = input
        super().run(command, check=check, timeout=timeout)
        return ProcessResult((), 0, self.listed if command.startswith("cat /") else "", "")


def test_send_rendered_restores_image_files_no_longer_rendered(store: Store, tmp_path: Path) -> None:
    tree = rootfs.tree(store, image(store, {"etc/a": "of the image", "etc/b": "b"}, root=tmp_path))
    node = Receiving()
    rootfs.send_rendered(node, {"etc/a": NodeFile(b"rendered"), "etc/new": NodeFile(b"made")}, tree)
    assert node.received[-1] == {"etc/a": b"rendered", "etc/new": b"made"}
    assert node.listed == "etc/a\netc/new\n"
    rootfs.send_rendered(node, {"etc/b": NodeFile(b"other")}, tree)
    assert node.received[-1] == {"etc/a": b"of the image", "etc/b": b"other"}
    assert any("rm -f /var/lib/slipway/rootfs/etc/new" in command for command in node.commands)
    rootfs.send_rendered(node, {}, tree)
    assert node.received[-1] == {"etc/b": b"b"}
    assert node.listed == ""


def test_send_rendered_without_files_sends_nothing(store: Store, tmp_path: Path) -> None:
    node = Receiving()
    rootfs.send_rendered(node, {}, rootfs.tree(store, image(store, {"etc/a": "a"}, root=tmp_path)))
    assert node.received == []


@pytest.mark.parametrize(
    "path", ["{outside}", "/{outside}", "../outside/key", "etc/../../outside/key", "out/key", "etc/key", "etc/loop", ""]
)
def test_send_rendered_unsafe_path_listed_by_node_sends_no_local_file(store: Store, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "key").write_text("PRIVATE")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/a").write_text("of the image")
    (tree / "out").symlink_to(outside)
    (tree / "etc/loop").symlink_to("loop")
    (tree / "etc/key").symlink_to(outside / "key")
    node = Receiving()
    node.listed = path.format(outside=outside / "key") + "\netc/a\n"
    rootfs.send_rendered(node, {"etc/b": NodeFile(b"rendered")}, tree)
    sent = node.received[-1]
    assert (sent["etc/a"], sent["etc/b"]) == (b"of the image", b"rendered")
    assert b"PRIVATE" not in b"".join(sent.values())
    assert not any("rm -f" in command and (".." in command or "//" in command) for command in node.commands)


def test_original_of_symlink_is_link_and_path_below_it_is_none(store: Store, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "etc").symlink_to("/root")
    assert rootfs._original(tree, "etc") == NodeFile(link="/root")
    assert rootfs._original(tree, "etc/.ssh") is None
    assert rootfs._original(tree, "absent") is None
