"""Images as files of the build context."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile
from harness.build import dry_run
from harness.build.image_archives import ArchivedImages, find_archives
from harness.errors import BuildError
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.unit.build.rootfs_files import write
from tests.unit.oci.archive.test_docker_archive import LAYERS, NAME, docker

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def context_of(tmp_path: Path) -> Path:
    context = write(
        tmp_path / "context",
        {"Kubefile": "FROM scratch\nCOPY web.tar images\nCOPY plain.tar images\n", "images/api/Dockerfile": "", "images/api/x.tar": "x"},
    )
    docker(context / "web.tar", *LAYERS)
    docker(context / "images/db.tar", *LAYERS, names=("db:1",))
    docker(context / "other.tar", *LAYERS, names=("other:1",))
    (context / "plain.tar").write_text("no tar")
    return context


def test_find_archives_lists_archives_of_images_folder_and_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_of(tmp_path)
    parsed = kubefile.parse((context / "Kubefile").read_text(), str(context / "Kubefile"), context=context)
    archives = find_archives(context, dry_run.rootfs_files(parsed, context))
    assert [image.name for archive in archives for image in archive.images] == ["docker.io/library/db:1", NAME]
    assert [Path(archive.shown).name for archive in archives] == ["db.tar", "web.tar"]
    warned = capsys.readouterr().err
    assert "plain.tar" in warned
    assert "it is copied as a file" in warned
    assert "x.tar" not in warned
    images = {image["name"]: image["foundBy"] for image in dry_run.plan(parsed, context)["images"]}
    assert images == {"docker.io/library/db:1": ["listed"], NAME: ["listed"]}


def test_archived_images_serve_manifest_and_blobs_of_archive(tmp_path: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    with store.shared_lease():
        source = ArchivedImages(store, find_archives(context, ()), AMD64)
        assert source.manifest(Reference.parse("none:1"), ()) is None
        manifest = source.manifest(Reference.parse("db:1"), ())
        assert manifest is not None
        layer = store.json(manifest.digest)["layers"][0]["digest"]
        stream = source.blob(Reference.parse("db:1"), layer, None)
        assert stream is not None
        assert stream.read(1 << 20) == LAYERS[0]
        stream.close()
        assert source.admit(Reference.parse(f"db@{manifest.digest}"))
        assert not source.admit(Reference.parse(f"other@{manifest.digest}"))
    assert store.names() == {}


def test_archived_images_of_other_platform_are_left_to_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    with store.shared_lease():
        assert ArchivedImages(store, find_archives(context, ()), ARM64).manifest(Reference.parse("db:1"), ()) is None
    assert "is not for linux/arm64, so its registry is asked" in capsys.readouterr().err


def test_archived_images_damaged_archive_raises_build_error_with_path(tmp_path: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    archives = find_archives(context, ())
    path = context / "images/db.tar"
    path.write_bytes(path.read_bytes().replace(b"first layer", b"worst layer"))
    with store.shared_lease(), pytest.raises(BuildError, match=r"images/db\.tar: .* is damaged: a layer"):
        ArchivedImages(store, archives, AMD64).manifest(Reference.parse("db:1"), ())
