"""Container images in archives of docker, podman and skopeo."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.archive import docker_archive
from harness.oci.archive.save import save
from harness.oci.graph import walk
from harness.oci.model import OCI_LAYER, OCI_LAYER_GZIP, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import put_manifest

NAME = "registry.example.com/web:1"
LAYERS = (b"first layer" * 100, b"second layer" * 100)


def archive(path: Path, entries: list[tuple[str, bytes | str]]) -> Path:
    """A tar: bytes are files, text is the target of a symbolic link."""
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def config(*layers: bytes, **more: Any) -> bytes:
    value = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]}}
    return json.dumps({**value, **more}).encode()


def saved(layers: list[str], names: tuple[str, ...] = (NAME,)) -> bytes:
    return json.dumps([{"Config": "config.json", "RepoTags": names, "Layers": layers}]).encode()


def docker(path: Path, *layers: bytes, names: tuple[str, ...] = (NAME,)) -> Path:
    files = [(f"{number}/layer.tar", layer) for number, layer in enumerate(layers)]
    return archive(path, [*files, ("config.json", config(*layers)), ("manifest.json", saved([name for name, _ in files], names))])


def taken(store: Store, path: Path) -> dict[str, Any]:
    listed = docker_archive.listing(path)
    assert listed is not None
    with store.shared_lease():
        return docker_archive.take_images(store, path, listed)


def test_take_images_docker_archive_stores_manifest_and_blobs_without_names(tmp_path: Path, store: Store) -> None:
    path = docker(tmp_path / "web.tar", *LAYERS, names=(NAME, "nginx:1"))
    images = taken(store, path)
    assert sorted(images) == ["docker.io/library/nginx:1", NAME]
    manifest = store.json(images[NAME].digest)
    assert [(layer["digest"], layer["mediaType"]) for layer in manifest["layers"]] == [(digest_of(layer), OCI_LAYER) for layer in LAYERS]
    assert all(store.has(blob.digest) for blob in walk(store, images[NAME]))
    assert store.names() == {}
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert taken(store, path) == images


def test_take_images_linked_and_compressed_layers_keep_order_and_media_type(tmp_path: Path, store: Store) -> None:
    packed = gzip.compress(LAYERS[1])
    entries: list[tuple[str, bytes | str]] = [
        ("a/layer.tar", LAYERS[0]), ("b/layer.tar", "../a/layer.tar"), ("c.tar.gz", packed),
        ("config.json", config(LAYERS[0], LAYERS[0], LAYERS[1])),
        ("manifest.json", saved(["a/layer.tar", "b/layer.tar", "c.tar.gz"])),
    ]  # fmt: skip
    images = taken(store, archive(tmp_path / "x.tar", entries))
    layers = store.json(images[NAME].digest)["layers"]
    assert [layer["digest"] for layer in layers] == [digest_of(LAYERS[0]), digest_of(LAYERS[0]), digest_of(packed)]
    assert layers[2]["mediaType"] == OCI_LAYER_GZIP


def test_take_images_oci_archive_keeps_digests(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "other")
    root = put_manifest(other, LAYERS[0])
    other.tag(NAME, root)
    save(other, [NAME], tmp_path / "web.tar")
    listed = docker_archive.listing(tmp_path / "web.tar")
    assert listed is not None
    assert listed.images == {NAME: root.digest}
    assert taken(store, tmp_path / "web.tar")[NAME].digest == root.digest
    assert store.names() == {}


@pytest.mark.parametrize("content", [{}, {"readme": b"x"}])
def test_listing_tar_without_images_returns_none(tmp_path: Path, content: dict[str, bytes]) -> None:
    assert docker_archive.listing(archive(tmp_path / "x.tar", [*content.items()])) is None


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("../manifest.json", b"[]")], "leaves its folder"),
        ([("/etc/x", b"[]")], "leaves its folder"),
        ([("manifest.json", b"{")], "manifest.json"),
        ([("manifest.json", b'[{"Config": 1, "Layers": []}]')], "cannot be understood"),
        ([("manifest.json", b'[{"Config": "a", "Layers": [], "RepoTags": ["Bad"]}]')], "cannot be understood"),
        ([("manifest.json", saved(["x"] * 1001))], "more than 1000 layers"),
        ([("manifest.json", b" " * (17 << 20))], "is refused: its manifest.json has"),
        ([("index.json", b"{}")], "index.json cannot be understood"),
    ],
)
def test_listing_hostile_archive_is_refused_with_reason(tmp_path: Path, entries: list[tuple[str, bytes | str]], reason: str) -> None:
    with pytest.raises(StoreError, match=reason):
        docker_archive.listing(archive(tmp_path / "x.tar", entries))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([("config.json", config(b"a")), ("manifest.json", saved(["a.tar"]))], "lacks a.tar"),
        ([("a.tar", b"a"), ("manifest.json", saved(["a.tar"]))], "lacks config.json"),
        ([("a.tar", b"b"), ("config.json", config(b"a")), ("manifest.json", saved(["a.tar"]))], "is damaged: a layer"),
        ([("a.tar", b"a"), ("config.json", config()), ("manifest.json", saved(["a.tar"]))], "its config says 0"),
        ([("a.tar", b"a"), ("config.json", b"{}"), ("manifest.json", saved(["a.tar"]))], "has no list of layers"),
        ([("a.tar", "/etc/passwd"), ("config.json", config(b"a")), ("manifest.json", saved(["a.tar"]))], "lacks a.tar"),
        ([("a.tar", "a.tar"), ("config.json", config(b"a")), ("manifest.json", saved(["a.tar"]))], "lacks a.tar"),
    ],
)
def test_take_images_damaged_docker_archive_is_refused_with_reason(
    tmp_path: Path, store: Store, entries: list[tuple[str, bytes | str]], reason: str
) -> None:
    with pytest.raises(StoreError, match=reason):
        taken(store, archive(tmp_path / "x.tar", entries))


def test_listing_file_that_is_not_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("(stands for what docker save wrote)")
    with pytest.raises(StoreError):
        docker_archive.listing(tmp_path / "x.tar")
