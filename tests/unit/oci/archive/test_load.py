"""Archives that are wrong or hostile: refused with a reason, without a name in the store, and without much of it in memory."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.archive.save import save
from harness.oci.garbage import collect
from harness.oci.graph import DEEPEST_INDEX
from harness.oci.layer import compression, tar_reader
from harness.oci.layer.compression import Compression
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, REF_NAME, Descriptor, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import blob_name, contents, for_platform, load, members, packed, put_index, put_manifest, times

LAYER = b"a layer" * 20_000
ZEROS = bytes(1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.tag("web:1", put_index(store, put_manifest(store, LAYER, b"web")))
    return store


@pytest.fixture
def files(store: Store, tmp_path: Path) -> dict[str, bytes]:
    """The files of an archive of ``web:1``, in order."""
    save(store, ["web:1"], tmp_path / "web.tar")
    return members(tmp_path / "web.tar")


def refused(other: Store, archive: io.BytesIO | Path, why: str) -> None:
    with pytest.raises(StoreError, match=why):
        load(other, archive)
    assert not other.names()
    assert not list((other.root / "tmp").iterdir())


def last_first(files: dict[str, bytes]) -> dict[str, bytes]:
    """As skopeo writes: blobs by digest, then index.json."""
    return dict(sorted(files.items()))


def listing(*images: Descriptor) -> bytes:
    entries = [
        {**image.to_json(), "annotations": {REF_NAME: f"web:{number}", **image.annotations}} for number, image in enumerate(images, 1)
    ]
    return canonical_json({"schemaVersion": 2, "manifests": entries})


# Blobs twice, blobs too many


@pytest.mark.parametrize("order", [dict, last_first], ids=["index first", "index last"])
def test_load_repeated_blob_is_accepted_unless_bytes_differ(
    files: dict[str, bytes], other: Store, order: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    entries = list(order(files).items())
    twice = [entry for entry in entries for _ in range(2 if entry[0].startswith("blobs/") else 1)]
    assert list(load(other, packed(twice)).names) == ["web:1"]
    other.untag("web:1")
    forged = [*entries, (blob_name(LAYER), LAYER[:-1] + b"X")]
    refused(other, packed(forged), f"should be {digest_of(LAYER)}")
    assert other.read(digest_of(LAYER)) == LAYER
    refused(other, packed([forged[-1], *entries]), f"should be {digest_of(LAYER)}")


@pytest.mark.parametrize("again", [None, listing(Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 2))], ids=["the same", "another"])
def test_load_second_index_is_refused(files: dict[str, bytes], other: Store, again: bytes | None) -> None:
    entries = [*files.items(), ("index.json", again or files["index.json"])]
    refused(other, packed(entries), "two index.json")


def test_load_unreferenced_blob_is_not_kept(files: dict[str, bytes], other: Store) -> None:
    load(other, packed({**files, blob_name(b"stowaway"): b"stowaway", "blobs/sha512/" + "0" * 128: b"x", "README": b"x"}))
    assert not other.has(digest_of(b"stowaway"))
    assert len(contents(other)) == 5


def test_load_blob_size_differing_from_manifest_is_refused_before_content_is_read(files: dict[str, bytes], other: Store) -> None:
    data = packed({**files, blob_name(LAYER): LAYER + b"more"}).getvalue()
    # It ends behind the header of the blob: reading the content would find an archive that is cut.
    cut = io.BytesIO(data[: data.index(blob_name(LAYER).encode()) + tarfile.BLOCKSIZE])
    refused(other, cut, f"{len(LAYER) + 4} bytes, and its manifest says {len(LAYER)}")
    assert not other.has(digest_of(LAYER))


def test_load_missing_blobs_are_all_listed(files: dict[str, bytes], other: Store) -> None:
    few = {name: data for name, data in files.items() if name not in (blob_name(LAYER), blob_name(b"web"))}
    with pytest.raises(StoreError, match=r"of web:1 it lacks blob sha256:\w+ and 1 more") as caught:
        load(other, packed(few))
    assert set(str(caught.value.details).split("\n")) == {digest_of(LAYER), digest_of(b"web")}


# Media types and manifests that do not mean what they say


@pytest.mark.parametrize("media_type", ["application/octet-stream", OCI_LAYER_GZIP, OCI_CONFIG, ""])
def test_load_name_of_non_image_media_type_is_refused(store: Store, files: dict[str, bytes], other: Store, media_type: str) -> None:
    image = store.resolve("web:1")
    index = listing(Descriptor(media_type, image.digest, image.size))
    refused(other, packed({**files, "index.json": index}), "which is not an image")


def test_load_manifest_type_differing_from_descriptor_is_refused(store: Store, files: dict[str, bytes], other: Store) -> None:
    image = store.resolve("web:1")
    index = listing(Descriptor(OCI_MANIFEST, image.digest, image.size))
    refused(other, packed({**files, "index.json": index}), f"should be {OCI_MANIFEST}, but says that it is {OCI_INDEX}".replace("+", r"\+"))


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (b"not JSON", "not usable JSON"),
        (b"[]", "not a JSON object"),
        (b'{"schemaVersion": 2, "config": 1, "layers": []}', "not a descriptor"),
        (b'{"schemaVersion": 2, "layers": [{}]}', "not a descriptor"),
        (b'{"schemaVersion": 2, "layers": {"a": 1}}', "not a list of descriptors"),
        (b'{"schemaVersion": 2, "layers": [{"mediaType": "x", "digest": "sha256:../../x", "size": 1}]}', "not a descriptor"),
    ],
)
@pytest.mark.parametrize("order", [dict, last_first], ids=["index first", "index last"])
def test_load_malformed_manifest_raises_store_error(
    other: Store, manifest: bytes, why: str, order: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    index = listing(Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest)))
    refused(other, packed(order({"index.json": index, blob_name(manifest): manifest})), why)


def test_load_blob_declared_with_two_sizes_is_refused(store: Store, tmp_path: Path, other: Store) -> None:
    layers = [{"mediaType": OCI_LAYER_GZIP, "digest": digest_of(b"x"), "size": size} for size in (1, 1 << 40)]
    manifest = canonical_json({"schemaVersion": 2, "layers": layers})
    index = listing(Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest)))
    refused(other, packed({"index.json": index, blob_name(manifest): manifest, blob_name(b"x"): b"x"}), "two sizes")


# Too much of everything


def test_load_blobs_larger_than_free_disk_are_refused_before_any_layer_is_kept(other: Store) -> None:
    sizes = {digest_of(LAYER): len(LAYER), digest_of(b"x"): 1 << 60}
    layers = [{"mediaType": OCI_LAYER_GZIP, "digest": digest, "size": size} for digest, size in sizes.items()]
    manifest = canonical_json({"schemaVersion": 2, "layers": layers})
    index = listing(Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest)))
    refused(
        other,
        packed({"index.json": index, blob_name(manifest): manifest, blob_name(LAYER): LAYER}),
        f"no space left in {other.root}: .* are needed, .* are free",
    )
    assert contents(other) == {digest_of(manifest).removeprefix("sha256:")}


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def compressed(how: Compression, begin: bytes, zeros: int) -> bytes:
    result = bytearray()
    with compression.writer(result.extend, how) as writer:
        writer.write(begin)
        for _ in range(zeros >> 20):
            writer.write(ZEROS)
    return bytes(result)


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (header("index.json", 200 << 20), "its index.json has 210 MB"),
        (header("junk", 200 << 20), "of which no manifest speaks"),
        (header(blob_name(b"x"), 200 << 20), "of which no manifest speaks"),
        (header("name", 200 << 20, tarfile.GNUTYPE_LONGNAME), "a header of 209715200 bytes"),
        (header("pax", 200 << 20, tarfile.XHDTYPE), "a header of 209715200 bytes"),
        (header("pax", 200 << 20, tarfile.XGLTYPE), "a header of 209715200 bytes"),
    ],
    ids=["index", "something else", "a blob", "a long name", "an extended header", "a global header"],
)
@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_load_compression_bomb_is_refused_with_little_memory_and_disk(other: Store, how: Compression, begin: bytes, why: str) -> None:
    bomb = compressed(how, begin, 100 << 20)
    assert len(bomb) < 200_000
    tracemalloc.start()
    try:
        refused(other, io.BytesIO(bomb), why)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert sum(path.stat().st_size for path in other.root.rglob("*")) < 1_000_000


def test_load_compression_bomb_after_end_mark_is_ignored(store: Store, files: dict[str, bytes], other: Store) -> None:
    bomb = compressed("zstd", packed(files).getvalue(), 100 << 20)
    assert list(load(other, io.BytesIO(bomb)).names) == ["web:1"]


def test_load_highly_compressible_layer_of_manifest_is_accepted(store: Store, other: Store, tmp_path: Path) -> None:
    store.tag("zeros", put_manifest(store, bytes(100 << 20)))
    save(store, ["zeros"], tmp_path / "zeros.tar", compress="zstd")
    assert (tmp_path / "zeros.tar").stat().st_size < 100_000
    assert list(load(other, tmp_path / "zeros.tar").names) == ["zeros:latest"]


def test_load_manifest_over_size_limit_is_refused(other: Store) -> None:
    index = listing(Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, 33 << 20))
    refused(other, packed({"index.json": index}), "its manifest sha256:0+ has 35 MB")


def test_save_and_load_index_of_2000_blobs_keep_all_blobs(store: Store, other: Store, tmp_path: Path) -> None:
    layers = [number.to_bytes(4, "big") for number in range(1000)]
    parts = [for_platform(put_manifest(store, *layers[start::2]), name) for start, name in enumerate(("amd64", "arm64"))]
    config = Descriptor(OCI_CONFIG, digest_of(b"{}"), 2).to_json()
    singles = []
    for layer in layers[:999]:
        one = {"schemaVersion": 2, "config": config, "layers": [Descriptor(OCI_LAYER_GZIP, digest_of(layer), 4).to_json()]}
        singles.append(Descriptor(OCI_MANIFEST, *store.put(canonical_json(one))))
    image = put_index(store, *parts, *singles)
    store.tag("big", image)
    saved = save(store, ["big"], tmp_path / "big.tar")
    assert saved.blobs == 2003
    assert load(other, tmp_path / "big.tar").written == 2003
    assert other.resolve("big") == image


def nested(store: Store, depth: int) -> tuple[Descriptor, dict[str, bytes]]:
    """An image below ``depth`` indexes, and the files of an archive of it."""
    image = put_manifest(store, b"deep")
    blobs = [store.read(image.digest), b"{}", b"deep"]
    for _ in range(depth):
        image = put_index(store, image)
        blobs.insert(0, store.read(image.digest))
    return image, {"index.json": listing(image), **{blob_name(blob): blob for blob in blobs}}


@pytest.mark.parametrize("order", [dict, last_first], ids=["index first", "index last"])
@pytest.mark.parametrize("depth", [DEEPEST_INDEX + 1, 1050])
def test_load_too_deeply_nested_indexes_are_refused(
    store: Store, other: Store, depth: int, order: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    _, deep = nested(store, depth)
    refused(other, packed(order(deep)), f"web:1 in the archive cannot be used: .*more than {DEEPEST_INDEX} indexes within each other")


def test_save_and_load_deepest_nested_indexes_succeed_and_deeper_are_not_saved(store: Store, other: Store, tmp_path: Path) -> None:
    image, _ = nested(store, DEEPEST_INDEX)
    store.tag("deep", image)
    save(store, ["deep"], tmp_path / "deep.tar")
    assert load(other, tmp_path / "deep.tar").names == {"deep:latest": image}
    store.tag("deeper", put_index(store, image))
    with pytest.raises(StoreError, match=r"deeper:latest cannot be saved: .*more than 4 indexes within each other"):
        save(store, ["deeper"], tmp_path / "deeper.tar")
    assert not (tmp_path / "deeper.tar").exists()


# What is here already


def test_load_stored_blobs_are_not_written_again(files: dict[str, bytes], store: Store, other: Store) -> None:
    other.put(LAYER)
    before = times(other)
    loaded = load(other, packed(files))
    assert (loaded.written, loaded.present) == (4, 1)
    assert times(other).items() >= before.items()
    before = times(other)
    assert load(other, packed(last_first(files))).written == 0
    assert times(other) == before


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1] + b"X", lambda data: b"X" + data[1:], lambda data: data[:-1], lambda data: b""],
    ids=["the last byte", "the first byte", "cut", "empty"],
)
@pytest.mark.parametrize("which", ["layer", "manifest"])
def test_load_replaces_damaged_blob_in_store(
    files: dict[str, bytes], store: Store, other: Store, damage: Callable[[bytes], bytes], which: str
) -> None:
    load(other, packed(files))
    digest = digest_of(LAYER) if which == "layer" else other.resolve("web:1").digest
    other.path(digest).write_bytes(damage(other.path(digest).read_bytes()))
    assert load(other, packed(files)).written == 1
    other.verify(digest)


def test_load_damaged_arriving_blob_keeps_stored_blob(files: dict[str, bytes], other: Store) -> None:
    other.put(LAYER)
    refused(other, packed({**files, blob_name(LAYER): b"X" + LAYER[1:]}), f"should be {digest_of(LAYER)}")
    assert other.read(digest_of(LAYER)) == LAYER


def test_load_truncated_archive_keeps_blobs_for_next_load(store: Store, other: Store, tmp_path: Path) -> None:
    big = os.urandom(500_000)
    store.tag("web:2", put_manifest(store, LAYER, big))
    save(store, ["web:2"], tmp_path / "web.tar")
    data = (tmp_path / "web.tar").read_bytes()
    first, last = sorted((LAYER, big), key=digest_of)
    refused(other, io.BytesIO(data[: data.index(last[:1000]) + 2000]), "too early")
    collect(other)
    assert other.has(digest_of(first))
    loaded = load(other, tmp_path / "web.tar")
    assert (loaded.written, loaded.present) == (1, 3)
    assert other.resolve("web:2") == store.resolve("web:2")
    other.untag("web:2")
    collect(other)
    assert not contents(other)


# Noise


def test_load_any_flipped_bit_is_refused_or_harmless(store: Store, other: Store, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar")
    data = (tmp_path / "web.tar").read_bytes()
    chance = random.Random(3)
    for _ in range(150):
        place = chance.randrange(len(data))
        changed = data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
        try:
            names = load(other, io.BytesIO(changed)).names
        except StoreError:
            assert not other.names()
            continue
        for name, image in names.items():
            assert image.digest == store.resolve("web:1").digest
            other.untag(name)
        shutil.rmtree(other.root / "cache")


class Endless(io.RawIOBase):
    """A pipe that never ends; fails the test when too much is read of it."""

    def __init__(self, begin: bytes, limit: int) -> None:
        self._left = begin
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = (self._left or bytes(1 << 16))[: len(buffer)]
        self._left = self._left[len(data) :]
        self._limit -= len(data)
        assert self._limit > 0, "it is read without end"
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        (header("index.json", 1 << 60), "its index.json has"),
        (header(blob_name(b"x"), 1 << 60), "no space left"),
        (header("pax", 1 << 60, tarfile.XHDTYPE), "a header of"),
        (b"", "it has no index.json"),
        (header("a", 0) * 3 + b"garbage" * 100, "not a readable OCI archive"),
    ],
    ids=["index", "blob", "extended header", "zeros", "garbage"],
)
def test_load_endless_stream_is_refused_after_bounded_read(other: Store, begin: bytes, why: str) -> None:
    with pytest.raises(StoreError, match=why):
        load(other, io.BufferedReader(Endless(begin, 80 << 20)))
    assert not other.names()


def entries(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    tar = tar_reader.TarReader(io.BytesIO(data))
    for entry in tar:
        yield entry.name, entry.kind, tar.read()


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_reader_pax_gnu_and_ustar_archives_are_read(form: int) -> None:
    buffer = io.BytesIO()
    names = ["short", "folder/" + "n" * 90 + "/" + "m" * 60, "ü" if form != tarfile.USTAR_FORMAT else "u"]
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(name.encode()[: len(name)]))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "x" * 90
        tar.addfile(link)
    found = list(entries(buffer.getvalue()))
    assert [(name, kind) for name, kind, _ in found] == [*((name, "file") for name in names), ("link", "symlink")]
    assert [data for _, _, data in found[:2]] == [name.encode() for name in names[:2]]


def test_tar_reader_entry_over_8_gib_has_full_size() -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        info = tarfile.TarInfo("big")
        info.size = 10 << 30
        entry = next(iter(tar_reader.TarReader(io.BytesIO(info.tobuf(form)))))
        assert entry.size == 10 << 30
