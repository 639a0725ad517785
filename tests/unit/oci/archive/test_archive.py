from __future__ import annotations

import errno
import io
import json
import os
import random
import tarfile
from pathlib import Path

import pytest

from harness.errors import StoreError, UsageError
from harness.oci.archive.save import save
from harness.oci.layer.compression import Compression
from harness.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import contents, load, member, put_index, put_manifest

SHARED = b"shared layer" * 20_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two images, ``web:1`` (an index) and ``ghcr.io/x/db:2``, that share a layer."""
    store = Store(tmp_path / "store")
    store.tag("web:1", put_index(store, put_manifest(store, SHARED, b"web")))
    store.tag("ghcr.io/x/db:2", put_manifest(store, SHARED, b"db"))
    return store


def rewritten(archive: Path, change: dict[str, bytes | None], extra: tuple[tarfile.TarInfo, ...] = ()) -> io.BytesIO:
    """An archive with some members changed (None: left out) and others added before the rest."""
    result = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=result, mode="w") as new:
        for info in extra:
            new.addfile(info)
        for info in old.getmembers():
            content = old.extractfile(info)
            data = change.get(info.name, content.read() if content else b"")
            if data is not None:
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    result.seek(0)
    return result


def test_save_and_load_keep_names_digests_and_blobs(store: Store, other: Store, tmp_path: Path) -> None:
    archive = tmp_path / "both.tar"
    saved = save(store, ["web:1", "ghcr.io/x/db:2"], archive)
    assert (saved.files, saved.size, saved.blobs) == ((archive,), archive.stat().st_size, len(contents(store)))
    assert load(other, archive).names == store.names() == other.names()
    assert contents(other) == contents(store)
    for name in contents(other):
        other.verify(f"sha256:{name}")


def test_save_blob_shared_by_two_images_is_written_once(store: Store, tmp_path: Path) -> None:
    save(store, ["web:1", "ghcr.io/x/db:2"], tmp_path / "both.tar")
    with tarfile.open(tmp_path / "both.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert names[:2] == ["oci-layout", "index.json"]
    assert names.count("blobs/sha256/" + digest_of(SHARED)[7:]) == 1


def test_save_one_image_omits_other_images(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    assert list(load(other, tmp_path / "web.tar").names) == ["web:1"]
    assert not other.has(digest_of(b"db"))


def test_save_same_images_from_two_stores_gives_identical_bytes(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1", "ghcr.io/x/db:2"], tmp_path / "1.tar")
    load(other, tmp_path / "1.tar")
    os.utime(other.path(digest_of(b"db")), (1, 1))
    save(other, ["ghcr.io/x/db:2", "docker.io/library/web:1", "web:1"], tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_save_by_digest_keeps_name_and_unnamed_image_is_refused(store: Store, other: Store, tmp_path: Path) -> None:
    image = store.resolve("web:1")
    save(store, [image.digest[7:19]], tmp_path / "web.tar")
    assert load(other, tmp_path / "web.tar").names == {"web:1": image}
    store.untag("web:1")
    with pytest.raises(StoreError, match="no name to be saved under"):
        save(store, [image.digest], tmp_path / "again.tar")


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_save_to_stream_equals_file_in_every_compression(store: Store, other: Store, tmp_path: Path, compress: Compression) -> None:
    stream = io.BytesIO()
    save(store, ["web:1"], stream, compress=compress)
    save(store, ["web:1"], tmp_path / "web.tar", compress=compress)
    assert (tmp_path / "web.tar").read_bytes() == stream.getvalue()
    assert (len(stream.getvalue()) < 10_000) == (compress != "none")
    stream.seek(0)
    assert list(load(other, stream).names) == ["web:1"]
    assert load(other, tmp_path / "web.tar").written == 0


def test_save_missing_or_damaged_blob_or_image_raises_and_leaves_no_file(store: Store, tmp_path: Path) -> None:
    store.path(digest_of(SHARED)).unlink()
    with pytest.raises(StoreError, match=digest_of(SHARED)):
        save(store, ["web:1"], tmp_path / "web.tar")
    store.put(SHARED)
    store.path(digest_of(b"web")).write_bytes(b"bew")
    with pytest.raises(StoreError, match="damaged"):
        save(store, ["web:1"], tmp_path / "web.tar")
    with pytest.raises(StoreError, match="no such image"):
        save(store, ["web:1", "webb"], tmp_path / "web.tar")
    assert not list(tmp_path.glob("*.tar*"))
    assert not list(tmp_path.glob(".*"))


def test_save_unwritable_destination_raises_store_error_with_reason(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/web\.tar"):
        save(store, ["web:1"], tmp_path / "nowhere/web.tar")

    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match="No space left on device"):
        save(store, ["web:1"], Full())


def test_load_changed_blob_is_refused_and_sets_no_names(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    changed = rewritten(tmp_path / "web.tar", {"blobs/sha256/" + digest_of(b"web")[7:]: b"bew"})
    with pytest.raises(StoreError, match=f"that should be {digest_of(b'web')}"):
        load(other, changed)
    assert not other.names()
    assert not other.has(digest_of(b"web"))


@pytest.mark.parametrize("gone", [SHARED, b"web", b"{}"])
def test_load_missing_blob_is_refused_and_sets_no_names(store: Store, other: Store, tmp_path: Path, gone: bytes) -> None:
    save(store, ["web:1", "ghcr.io/x/db:2"], tmp_path / "both.tar")
    cut = rewritten(tmp_path / "both.tar", {"blobs/sha256/" + digest_of(gone)[7:]: None})
    with pytest.raises(StoreError, match=f"it lacks blob {digest_of(gone)}"):
        load(other, cut)
    assert not other.names()


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd"])
def test_load_truncated_archive_is_refused_at_any_length(store: Store, other: Store, tmp_path: Path, compress: Compression) -> None:
    save(store, ["web:1", "ghcr.io/x/db:2"], tmp_path / "both.tar", compress=compress)
    data = (tmp_path / "both.tar").read_bytes()
    chance = random.Random(5)
    for length in [0, 1, 511, 512, 513, len(data) - 1025, len(data) - 513, len(data) - 1, *chance.sample(range(len(data)), 50)]:
        with pytest.raises(StoreError):
            load(other, io.BytesIO(data[: max(length, 0)]))
        assert not other.names()
    assert len(load(other, io.BytesIO(data)).names) == 2


def test_save_blob_size_differing_from_manifest_is_refused_and_writes_no_file(store: Store, tmp_path: Path) -> None:
    wrong = {"schemaVersion": 2, "config": Descriptor(OCI_CONFIG, digest_of(b"{}"), 3).to_json(), "layers": []}
    image = Descriptor(OCI_MANIFEST, *store.put(canonical_json(wrong)))
    store.tag("wrong", image)
    with pytest.raises(StoreError, match="2 bytes instead of 3"):
        save(store, ["wrong"], tmp_path / "wrong.tar")
    assert not list(tmp_path.glob("*wrong*"))


@pytest.mark.parametrize(
    "bad",
    [
        member("../escape", tarfile.REGTYPE),
        member("/etc/escape", tarfile.REGTYPE),
        member("blobs/../../escape", tarfile.DIRTYPE),
        member("blobs/sha256/" + "0" * 64, tarfile.SYMTYPE, "/etc/passwd"),
        member("index.json", tarfile.LNKTYPE, "/etc/passwd"),
        member("index.json", tarfile.SYMTYPE, "oci-layout"),
        member("disk", tarfile.BLKTYPE),
        member("null", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name[:20]} {info.type!r}",
)
def test_load_unsafe_tar_entry_is_refused_and_named(store: Store, other: Store, tmp_path: Path, bad: tarfile.TarInfo) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    with pytest.raises(StoreError, match="the archive is refused") as caught:
        load(other, rewritten(tmp_path / "web.tar", {}, (bad,)))
    assert bad.name in caught.value.message
    assert not other.names()


def test_load_ignores_files_of_other_tools(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    extra = (member("manifest.json", tarfile.REGTYPE), member("./blobs/", tarfile.DIRTYPE))
    assert list(load(other, rewritten(tmp_path / "web.tar", {}, extra)).names) == ["web:1"]


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (None, "no index.json"),
        (b"{", "cannot be understood"),
        (b"[]", "cannot be understood"),
        (b'{"manifests": {}}', "cannot be understood"),
        (b'{"manifests": [1]}', "cannot be understood"),
        (b'{"manifests": [{"mediaType": "x"}]}', "not a descriptor"),
    ],
)
def test_load_missing_or_malformed_index_raises_store_error(
    store: Store, other: Store, tmp_path: Path, index: bytes | None, why: str
) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    with pytest.raises(StoreError, match=why):
        load(other, rewritten(tmp_path / "web.tar", {"index.json": index}))


def test_load_missing_or_invalid_image_name_is_refused(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    image = store.resolve("web:1").to_json()
    for named, why in (({}, "does not say the name"), ({"org.opencontainers.image.ref.name": "../.."}, "not an image name")):
        index = json.dumps({"manifests": [{**image, "annotations": named}]}).encode()
        with pytest.raises(StoreError, match=why):
            load(other, rewritten(tmp_path / "web.tar", {"index.json": index}))
    assert not other.names()


def test_load_file_without_archive_raises_error_with_specific_reason(other: Store, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    with pytest.raises(StoreError, match="not a readable OCI archive"):
        load(other, tmp_path / "text")
    with pytest.raises(UsageError, match="missing: no such file"):
        load(other, tmp_path / "missing")
    with pytest.raises(UsageError, match=r"is a folder.*\n.*tar -C"):
        load(other, tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(StoreError, match="is empty"):
        load(other, tmp_path / "empty")
    (tmp_path / "xz").write_bytes(b"\xfd7zXZ\0" + bytes(100))
    with pytest.raises(StoreError, match=r"compressed with xz.*\n.*xz -d"):
        load(other, tmp_path / "xz")


@pytest.mark.parametrize(
    "names",
    [
        ("manifest.json", "f" * 64 + ".json", "0" * 64 + "/layer.tar"),
        ("0" * 64 + ".tar", "manifest.json"),
        ("manifest.json", "repositories"),
    ],
    ids=["docker save", "podman save", "the list alone"],
)
def test_load_docker_archive_is_refused_with_conversion_hint(other: Store, tmp_path: Path, names: tuple[str, ...]) -> None:
    with tarfile.open(tmp_path / "d.tar", "w") as tar:
        for name in names:
            tar.addfile(member(name, tarfile.REGTYPE))
    with pytest.raises(StoreError, match=r"d\.tar is a docker-archive.*\n.*docker load -i .*skopeo copy docker-archive:"):
        load(other, tmp_path / "d.tar")


def test_load_docker_25_oci_archive_uses_containerd_image_name(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["ghcr.io/x/db:2"], tmp_path / "db.tar")
    annotations = {"io.containerd.image.name": "docker.io/library/db:2", "org.opencontainers.image.ref.name": "2"}
    index = {"schemaVersion": 2, "manifests": [{**store.resolve("ghcr.io/x/db:2").to_json(), "annotations": annotations}]}
    changed = rewritten(tmp_path / "db.tar", {"index.json": json.dumps(index).encode()})
    late = io.BytesIO()
    with tarfile.open(fileobj=changed) as old, tarfile.open(fileobj=late, mode="w") as new:
        for info in sorted(old.getmembers(), key=lambda info: info.name):
            new.addfile(info, old.extractfile(info))
        new.addfile(member("manifest.json", tarfile.REGTYPE))
        new.addfile(member("repositories", tarfile.REGTYPE))
    late.seek(0)
    assert load(other, late).names == {"db:2": store.resolve("ghcr.io/x/db:2")}
