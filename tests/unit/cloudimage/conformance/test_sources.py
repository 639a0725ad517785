"""Images in archives and layouts: found, chosen, read as they are, and never believed."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage import conformance
from harness.cloudimage.conformance import ClauseOutcome
from harness.cloudimage.conformance.sources import is_file, subject
from harness.errors import StoreError, UsageError
from harness.oci.archive.save import save
from harness.oci.store import Store
from harness.untrusted import UntrustedTree
from tests.unit.cloudimage.conformance.drafts import evidence, failed, outcome, write

Files = dict[str, bytes]


@pytest.fixture
def archive(store: Store, tmp_path: Path) -> Path:
    write(store)
    save(store, ["web"], tmp_path / "web.tar")
    return tmp_path / "web.tar"


def content(archive: Path) -> Files:
    with tarfile.open(archive) as tar:
        return {entry.name: file.read() for entry in tar if (file := tar.extractfile(entry)) is not None}


def pack(path: Path, files: Files, *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in more:
            tar.addfile(info)
    return path


def checked(path: Path, name: str | None = None) -> conformance.ConformanceReport:
    return conformance.check(Store.default(), str(path), name)


def test_check_of_saved_archive_passes_all_clauses(store: Store, archive: Path) -> None:
    report = checked(archive)
    assert failed(report) == []
    assert [result.clause.id for result in report.results if result.outcome is ClauseOutcome.NOT_APPLICABLE] == []
    assert (report.name, report.digest) == ("web:latest", store.resolve("web").digest)


@pytest.mark.parametrize("compress", ["gzip", "zstd"])
def test_check_of_compressed_archive_passes(store: Store, tmp_path: Path, compress: Any) -> None:
    write(store)
    save(store, ["web"], tmp_path / "web.tar", compress=compress)
    assert failed(checked(tmp_path / "web.tar")) == []


def test_check_of_volumes_passes_unless_one_is_missing(store: Store, tmp_path: Path) -> None:
    write(store)
    save(store, ["web"], tmp_path / "web.tar", volume_size=4096)
    assert is_file(tmp_path / "web.tar")
    assert failed(checked(tmp_path / "web.tar")) == []
    assert failed(checked(tmp_path / "web.tar.001")) == []
    (tmp_path / "web.tar.002").unlink()
    assert "CI-ARCHIVE-1" in failed(checked(tmp_path / "web.tar"))


def test_check_of_layout_folder_passes(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    for name, data in content(archive).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    assert failed(checked(folder)) == []


def test_check_of_folder_without_layout_reads_stored_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    write(store)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "web").mkdir()
    assert failed(checked(Path("web"))) == []


def test_check_of_archive_with_several_images_requires_valid_name(store: Store, tmp_path: Path) -> None:
    write(store)
    write(store, name="shop:1")
    save(store, ["web", "shop:1"], tmp_path / "both.tar")
    with pytest.raises(UsageError, match="has 2 images"):
        checked(tmp_path / "both.tar")
    assert checked(tmp_path / "both.tar", "shop:1").name == "shop:1"
    with pytest.raises(UsageError, match="no such image"):
        checked(tmp_path / "both.tar", "shop:2")
    with pytest.raises(UsageError, match="not an image name"):
        checked(tmp_path / "both.tar", "A b")


def test_check_of_stored_image_with_archive_name_raises_usage_error(store: Store) -> None:
    write(store)
    with pytest.raises(UsageError, match="chooses an image of an archive"):
        conformance.check(store, "web", "web")


# Archives broken by hand


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def index(change: Callable[[Any], object]) -> Callable[[Files], None]:
    def apply(files: Files) -> None:
        value = json.loads(files["index.json"])
        change(value)
        files["index.json"] = json.dumps(value).encode()

    return apply


def first_layer(files: Files) -> str:
    return max((name for name in files if name.startswith("blobs/")), key=lambda name: files[name][:2] == b"\x1f\x8b")


def without(name: str) -> Callable[[Files], None]:
    def change(files: Files) -> None:
        del files[name]

    return change


def without_layer(files: Files) -> None:
    del files[first_layer(files)]


BROKEN: list[tuple[str, str, Callable[[Files], None]]] = [
    ("CI-ARCHIVE-1", "no oci-layout", without("oci-layout")),
    ("CI-ARCHIVE-1", "another version", lambda files: files.update({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'})),
    ("CI-ARCHIVE-1", "a path that leaves", lambda files: files.update({"../x": b""})),
    ("CI-ARCHIVE-1", "an absolute path", lambda files: files.update({"/x": b""})),
    ("CI-ARCHIVE-1", "no index", without("index.json")),
    ("CI-ARCHIVE-1", "an index of nothing", lambda files: files.update({"index.json": b'{"manifests":[]}'})),
    ("CI-ARCHIVE-1", "an index that is no JSON", lambda files: files.update({"index.json": b"\x1b[31m"})),
    ("CI-ARCHIVE-1", "an entry without digest", index(lambda value: value["manifests"].append({"size": 1}))),
    ("CI-ARCHIVE-2", "no name", index(lambda value: value["manifests"][0].pop("annotations"))),
    (
        "CI-ARCHIVE-2",
        "a name that is not one",
        index(lambda value: value["manifests"][0]["annotations"].update({"org.opencontainers.image.ref.name": "A b\x1b[31m"})),
    ),
    ("CI-DIGEST-2", "a blob left out", without_layer),
    ("CI-DIGEST-4", "a blob changed", lambda files: files.update({first_layer(files): bytes(len(files[first_layer(files)]))})),
]


@pytest.mark.parametrize(("clause", "damage", "change"), BROKEN, ids=[f"{clause} {damage}" for clause, damage, _ in BROKEN])
def test_check_of_damaged_archive_fails_only_its_clause(
    archive: Path, tmp_path: Path, clause: str, damage: str, change: Callable[[Files], None]
) -> None:
    files = content(archive)
    change(files)
    report = checked(pack(tmp_path / "broken.tar", files))
    assert failed(report) == [clause], damage
    assert all(line.isprintable() for result in report.results for line in result.evidence)


def test_check_of_archive_does_not_follow_link(archive: Path, tmp_path: Path) -> None:
    files = content(archive)
    blob = first_layer(files)
    del files[blob]
    (tmp_path / "secret").write_bytes(b"x")
    report = checked(pack(tmp_path / "broken.tar", files, link(blob, str(tmp_path / "secret"))))
    assert failed(report) == ["CI-ARCHIVE-1", "CI-DIGEST-2"]


def test_check_of_layout_does_not_read_outside_link_or_fifo(archive: Path, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    files = content(archive)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    blob = folder / first_layer(files)
    (tmp_path / "elsewhere").write_bytes(blob.read_bytes())
    blob.unlink()
    blob.symlink_to(tmp_path / "elsewhere")
    assert failed(checked(folder)) == ["CI-DIGEST-2"]
    blob.unlink()
    os.mkfifo(blob)
    assert failed(checked(folder)) == ["CI-DIGEST-2"]


def test_check_of_archive_with_duplicate_file_fails_archive_clause(archive: Path, tmp_path: Path) -> None:
    files = content(archive)
    again = tarfile.TarInfo("oci-layout")
    report = checked(pack(tmp_path / "broken.tar", files, again))
    assert failed(report) == ["CI-ARCHIVE-1"]
    assert evidence(report, "CI-ARCHIVE-1") == "has the file oci-layout twice"


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 5000, b"PK\x03\x04" + bytes(600), b"\x1f\x8b\x08" + bytes(100)])
def test_check_of_file_other_than_archive_fails_only_archive_clause(tmp_path: Path, data: bytes, store: Store) -> None:
    (tmp_path / "web.tar").write_bytes(data)
    report = checked(tmp_path / "web.tar")
    assert failed(report) == ["CI-ARCHIVE-1"]
    assert report.digest == ""
    assert outcome(report, "CI-LAYOUT-1") is ClauseOutcome.NOT_APPLICABLE


def test_check_of_truncated_archive_fails_archive_clause(archive: Path, tmp_path: Path) -> None:
    data = archive.read_bytes()
    (tmp_path / "cut.tar").write_bytes(data[: len(data) // 2])
    assert "CI-ARCHIVE-1" in failed(checked(tmp_path / "cut.tar"))


def test_check_of_archive_with_impossible_size_fails_archive_clause_and_writes_no_file(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = UntrustedTree.create
    written: list[str] = []

    def noted(tree: UntrustedTree, path: str) -> Any:
        written.append(path)
        return create(tree, path)

    monkeypatch.setattr(UntrustedTree, "create", noted)
    # The disk would have room for it.
    monkeypatch.setattr("harness.cloudimage.conformance.sources.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 50}))
    info = tarfile.TarInfo(f"blobs/sha256/{'0' * 64}")
    info.size = 1 << 44
    (tmp_path / "huge.tar").write_bytes(info.tobuf() + archive.read_bytes())
    report = checked(tmp_path / "huge.tar")
    assert failed(report) == ["CI-ARCHIVE-1"]
    assert f"it has a file of {1 << 44} bytes, more than the" in evidence(report, "CI-ARCHIVE-1")
    assert written == []
    checked(archive)
    assert "index.json" in written


def test_check_of_archive_on_full_disk_raises_store_error(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cloudimage.conformance.sources.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(StoreError, match="no space left to read the archive"):
        checked(archive)


def test_check_of_archive_that_disk_does_not_take_raises_store_error(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(UntrustedTree, "create", refuse)
    with pytest.raises(StoreError, match=r"cannot read .*: Disk quota exceeded"):
        checked(archive)


def test_subject_of_archive_removes_temporary_files(archive: Path, tmp_path: Path) -> None:
    with subject(Store.default(), str(archive)) as found:
        assert found.image.index.value is not None
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
