from __future__ import annotations

import errno
import io
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from harness.errors import StoreError, UsageError
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.store import Store


def put_manifest(store: Store, *layers: bytes) -> Descriptor:
    """A manifest with these layers, all in the store, named by nothing."""
    config = Descriptor(OCI_CONFIG, *store.put(b'{"of":"' + b"".join(layers) + b'"}'))
    content = [Descriptor(OCI_LAYER_GZIP, *store.put(layer)).to_json() for layer in layers]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": content}
    return Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest)))


def put_index(store: Store, *manifests: Descriptor) -> Descriptor:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest.to_json() for manifest in manifests]}
    return Descriptor(OCI_INDEX, *store.put(canonical_json(index)))


def blobs(store: Store) -> set[str]:
    return {path.name for path in (store.root / "blobs/sha256").iterdir()}


def temporaries(store: Store) -> list[Path]:
    return list((store.root / "tmp").iterdir())


class _Full:
    """A file on a full disk."""

    def __init__(self, file: IO[bytes], write: Callable[[bytes], int]) -> None:
        self.close, self.fileno, self.write = file.close, file.fileno, write


# Blobs


def test_put_blob_is_read_back_unchanged(store: Store) -> None:
    data = os.urandom(3 << 20)
    digest, size = store.put(io.BytesIO(data))
    assert (digest, size) == (digest_of(data), len(data))
    assert store.has(digest)
    assert store.size(digest) == size
    assert store.read(digest) == data
    with store.open(digest) as file:
        assert file.read() == data
    store.verify(digest)
    assert not temporaries(store)


def test_put_truncated_blob_is_refused_and_leaves_no_files(store: Store) -> None:
    whole = b"all of it"
    with pytest.raises(StoreError, match="that should be") as caught:
        store.put(whole[:4], expected=digest_of(whole))
    assert caught.value.exit_code == 4
    assert not blobs(store)
    assert not temporaries(store)


def test_put_failing_source_raises_its_error_and_leaves_no_files(store: Store) -> None:
    class Peer(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell():
                raise ConnectionResetError(errno.ECONNRESET, "peer went away")
            return super().read(size)

    with pytest.raises(ConnectionResetError):
        store.put(Peer(b"half"))
    assert not blobs(store)
    assert not temporaries(store)


def test_writer_blob_is_invisible_until_complete(store: Store) -> None:
    with store.writer() as blob:
        blob.write(b"part one, ")
        assert not blobs(store)
        blob.write(b"part two")
    assert store.read(blob.digest) == b"part one, part two"
    assert blob.size == 18


@pytest.mark.parametrize(
    "digest", ["sha256:../../etc/passwd", "sha256:12", "md5:00", "", "sha256:" + "0" * 64 + "/x", "sha256:" + "A" * 64]
)
def test_store_invalid_digest_is_refused_by_every_method(store: Store, digest: str) -> None:
    for use in (store.path, store.has, store.read, store.open, store.verify, store.size):
        with pytest.raises(StoreError, match="not a sha256 digest"):
            use(digest)
    with pytest.raises(StoreError, match="not a sha256 digest"):
        store.put(b"", expected=digest)


def test_store_missing_blob_is_named_in_error(store: Store) -> None:
    digest = digest_of(b"never written")
    assert not store.has(digest)
    for use in (store.read, store.open, store.verify, store.size):
        with pytest.raises(StoreError, match=f"{digest} is not in"):
            use(digest)


@pytest.mark.parametrize("damage", [b"", b"conten", b"Content"])
def test_store_damaged_blob_is_detected_and_replaced_by_put(store: Store, damage: bytes) -> None:
    digest, _ = store.put(b"content")
    store.path(digest).write_bytes(damage)
    for use in (store.read, store.verify):
        with pytest.raises(StoreError, match=f"{digest}.*damaged"):
            use(digest)
    store.put(b"content")
    assert store.read(digest) == b"content"


def test_json_of_malformed_blob_raises_store_error(store: Store) -> None:
    for data in (b"\xff", b"{", b"[]"):
        with pytest.raises(StoreError, match="is not"):
            store.json(store.put(data)[0])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("when", ["write", "fsync"])
def test_put_on_full_disk_names_folder_and_leaves_no_files(store: Store, monkeypatch: pytest.MonkeyPatch, code: int, when: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    if when == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda path, *how, **options: _Full(real(path, "xb", buffering=0), refuse))
    with pytest.raises(StoreError, match=f"no space left in {store.root}"):
        store.put(b"x")
    monkeypatch.undo()
    assert not blobs(store)
    assert not temporaries(store)


def test_tag_on_full_disk_keeps_previous_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = put_manifest(store, b"1"), put_manifest(store, b"2")
    store.tag("web", first)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StoreError, match="no space left"):
            store.tag("web", second)
    assert store.resolve("web") == first
    assert not temporaries(store)


# Names


def test_tag_writes_oci_image_layout(store: Store) -> None:
    image = put_manifest(store, b"layer")
    store.tag("docker.io/library/web", image)
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_text()) == {
        "schemaVersion": 2,
        "manifests": [{**image.to_json(), "annotations": {"org.opencontainers.image.ref.name": "web:latest"}}],
    }


def test_resolve_every_spelling_of_name_gives_same_image(store: Store) -> None:
    image = put_manifest(store, b"layer")
    store.tag("web", image)
    store.tag("ghcr.io/x/y:1", image)
    assert store.names() == {"ghcr.io/x/y:1": image, "web:latest": image}
    for name in ("web", "web:latest", "docker.io/library/web", f"web@{image.digest}", image.digest, image.digest[7:14], image.digest[:15]):
        assert store.resolve(name) == image


def test_resolve_in_second_store_of_same_folder_finds_name(store: Store) -> None:
    image = put_manifest(store, b"layer")
    store.tag("web", image)
    assert Store(store.root).resolve("web") == image


def test_tag_existing_name_moves_to_new_image(store: Store) -> None:
    old, new = put_manifest(store, b"old"), put_manifest(store, b"new")
    store.tag("web", old)
    store.tag("web:latest", new)
    assert store.names() == {"web:latest": new}


@pytest.mark.parametrize(("name", "short"), [("web:1", True), ("acme/web:1", True), ("registry.example.com/web:1", False)])
def test_resolve_unknown_short_name_hint_says_that_no_registry_is_asked(store: Store, name: str, short: bool) -> None:
    with pytest.raises(StoreError, match="no such image") as caught:
        store.resolve(name)
    hint = str(caught.value.hint)
    assert "build, pull or load it" in hint
    assert ("a short name is read from the store only, one with its registry (registry.example.com/...) is pulled" in hint) is short


def test_resolve_unknown_name_suggests_nearest_name(store: Store) -> None:
    store.tag("mysql-cluster", put_manifest(store, b"1"))
    store.tag("ghcr.io/acme/redis:7", put_manifest(store, b"2"))
    for wrong, near in (
        ("mysql-clutser", "mysql-cluster:latest"),
        ("mysql-cluster:1", "mysql-cluster:latest"),
        ("acme/redis:7", "ghcr.io/acme/redis:7"),
    ):
        with pytest.raises(StoreError, match="no such image") as caught:
            store.resolve(wrong)
        assert str(caught.value.hint).startswith(f"did you mean {near}? a short name is read from the store only")
        with pytest.raises(StoreError, match="no such image"):
            store.untag(wrong)


def test_resolve_unknown_name_in_empty_store_hints_at_images_command(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store.resolve("web")
    assert "slipway images" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["", "A B", "web:", "../x", "web@sha256:" + "0" * 64])
def test_tag_invalid_name_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError):
        store.tag(name, put_manifest(store, b"layer"))
    assert not store.names()


def test_tag_missing_blob_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="cannot tag"):
        store.tag("web", Descriptor(OCI_MANIFEST, digest_of(b"?"), 1))


def test_resolve_digest_like_name_wins_over_digest(store: Store) -> None:
    image = put_manifest(store, b"1")
    other = put_manifest(store, b"2")
    store.tag("web", image)
    store.tag(image.digest[7:20], other)
    assert store.resolve(image.digest[7:20]) == other
    assert store.resolve("sha256:" + image.digest[7:20]) == image


def test_resolve_unnamed_image_is_found_by_digest(store: Store) -> None:
    image = put_manifest(store, b"layer")
    assert store.resolve(image.digest) == image
    with pytest.raises(StoreError):
        store.resolve(store.put(b"not an image")[0])


def test_names_damaged_index_raises_error_with_file(store: Store) -> None:
    for damage in ("", "[]", '{"manifests": [{}]}', '{"manifests": 3}'):
        (store.root / "index.json").write_text(damage)
        with pytest.raises(StoreError, match=r"index\.json is damaged"):
            store.names()


def test_tag_from_concurrent_threads_keeps_all_names(store: Store) -> None:
    images = [put_manifest(store, str(number).encode()) for number in range(24)]
    begin = threading.Barrier(8)

    def tag(worker: int) -> None:
        begin.wait()
        for number in range(worker, 24, 8):
            store.tag(f"image-{number}", images[number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tag, range(8)))
    assert store.names() == {f"image-{number}:latest": images[number] for number in sorted(range(24), key=lambda n: f"image-{n}:latest")}


def test_lock_can_be_acquired_again_by_its_holder(store: Store) -> None:
    image = put_manifest(store, b"layer")
    with store.lock():
        store.tag("a", image)
        with store.lock():
            store.untag("a")
    assert not store.names()


# Records


def test_record_returns_last_kept_value(store: Store) -> None:
    assert store.record("step", "sha256:12") is None
    store.keep("step", "sha256:12", {"layer": "x"})
    assert store.record("step", "sha256:12") == {"layer": "x"}
    assert store.record("discovery", "sha256:12") is None
    store.keep("step", "sha256:12", {"layer": "y"})
    assert store.record("step", "sha256:12") == {"layer": "y"}


def test_record_damaged_file_returns_none(store: Store) -> None:
    store.keep("step", "1", {})
    (store.root / "cache/step/1.json").write_text('{"half')
    assert store.record("step", "1") is None


@pytest.mark.parametrize(("kind", "key"), [("..", "x"), ("step", "../../x"), ("step", ""), ("step", "a/b"), (".x", "y")])
def test_keep_and_record_path_outside_folder_is_refused(store: Store, kind: str, key: str) -> None:
    with pytest.raises(StoreError):
        store.keep(kind, key, {})
    with pytest.raises(StoreError):
        store.record(kind, key)


def test_store_opening_removes_leftover_files_unless_leased(store: Store) -> None:
    left = store.root / "tmp/4711-left"
    left.write_bytes(b"half a blob")
    with store.shared_lease():
        Store(store.root)
        assert left.exists()
    Store(store.root)
    assert not left.exists()


def test_default_store_follows_slipway_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "here"))
    assert Store.default().root == tmp_path / "here/store"
    monkeypatch.delenv("SLIPWAY_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Store.default().root == tmp_path / "home/.local/share/slipway/store"
    monkeypatch.setenv("SLIPWAY_HOME", "~/here")
    assert Store.default().root == tmp_path / "home/here/store"
    monkeypatch.delenv("SLIPWAY_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert Store.default().root == tmp_path / "data/slipway/store"


def test_default_store_home_of_unknown_user_raises_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", "~nosuchuser/slipway")
    with pytest.raises(UsageError, match="no user nosuchuser"):
        Store.default()


def test_store_unusable_path_is_named_in_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=str(tmp_path / "file")):
        Store(tmp_path / "file/store")
