"""The store with the real thing: other processes, SIGKILL, a full disk, and skopeo as a reader that we did not write."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Blob, CloudImage, EmbeddedImage, History, ImageSet, Info, PlatformImage
from harness.errors import StoreError
from harness.host import apt
from harness.oci import garbage
from harness.oci.archive.save import save
from harness.oci.layer import LayerEntry, scan, unpack, write_layer
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Platform, canonical_json
from harness.oci.store import Store
from harness.process import run
from tests.integration import disk
from tests.integration.registry import registry
from tests.unit.oci.layouts import load
from tests.waiting import HANG, until

PLATFORMS = (Platform("linux", "amd64"), Platform("linux", "arm64"))
processes = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def image(store: Store, tmp_path: Path) -> CloudImage:
    """A CloudImage for two platforms, under two names, with a container image in it."""
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    (root / "bin/run").write_bytes(os.urandom(3 << 20))
    (root / "bin/run").chmod(0o755)
    (root / "bin/alias").symlink_to("run")
    with store.shared_lease():
        descriptor = cloudimage.write(store, [platform_image(store, platform, root) for platform in PLATFORMS])
        store.tag("web", descriptor)
        store.tag("ghcr.io/acme/web:1.0", descriptor)
    return cloudimage.read(store, "web")


def platform_image(store: Store, platform: Platform, root: Path) -> PlatformImage:
    layer = write_layer([*scan(root), LayerEntry("Metadata", "file", 0o644, str(platform).encode())], store)
    history = (History("FROM scratch", "1", empty=True), History("COPY . .", "2"))
    info = Info(kubernetes="v1.36.3", launch=("kubectl apply -f manifests/",), labels={"a": "b"})
    return PlatformImage(platform, (layer.descriptor,), (layer.diff_id,), history, info, embedded(store, platform))


def embedded(store: Store, platform: Platform) -> ImageSet:
    """One container image under an index of which only one platform is kept."""
    layer = write_layer([LayerEntry("hello", "file", 0o755, b"hello")], store)
    config_json = {**platform.to_json(), "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]}}
    config = Descriptor(OCI_CONFIG, *store.put(canonical_json(config_json)))
    manifest_json = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [layer.descriptor.to_json()]}
    manifest = Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest_json)), platform=platform)
    elsewhere = Descriptor(OCI_MANIFEST, "sha256:" + "5" * 64, 7, platform=Platform("linux", "s390x"))
    index_json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest.to_json(), elsewhere.to_json()]}
    index = Descriptor(OCI_INDEX, *store.put(canonical_json(index_json)))
    blobs = tuple(Blob(blob.digest, blob.media_type, blob.size) for blob in (index, manifest, config, layer.descriptor))
    return ImageSet((EmbeddedImage("docker.io/library/hello:1", index.digest, index.media_type, index.size, ("pulled",)),), blobs)


# Skopeo


@pytest.fixture(scope="session")
def skopeo() -> list[str]:
    apt.ensure("skopeo", "skopeo")
    return ["skopeo", "--insecure-policy"]


@pytest.mark.parametrize("name", ["web:latest", "ghcr.io/acme/web:1.0"])
def test_store_familiar_name_is_readable_by_skopeo(skopeo: list[str], store: Store, image: CloudImage, name: str) -> None:
    where = f"oci:{store.root}:{name}"
    assert json.loads(run([*skopeo, "inspect", "--raw", where]).stdout) == store.json(image.digest)
    for platform in image.platforms:
        option = f"--override-arch={platform.platform.architecture}"
        seen = json.loads(run([*skopeo, option, "inspect", where]).stdout)
        assert (seen["Architecture"], seen["Labels"]) == (platform.platform.architecture, {"a": "b"})
        assert seen["Layers"] == [layer.digest for layer in platform.layers]


def test_store_copy_by_skopeo_is_same_cloudimage(skopeo: list[str], store: Store, image: CloudImage, tmp_path: Path) -> None:
    run([*skopeo, "copy", "--all", "--preserve-digests", f"oci:{store.root}:web:latest", f"oci:{tmp_path}/copy:web:latest"])
    copied = Store(tmp_path / "copy")
    assert cloudimage.read(copied, "web") == image
    cloudimage.verify(copied, image)


def test_store_copy_of_one_platform_by_skopeo_has_its_rootfs_layers(
    skopeo: list[str], store: Store, image: CloudImage, tmp_path: Path
) -> None:
    run([*skopeo, "--override-arch=arm64", "copy", f"oci:{store.root}:web:latest", f"dir:{tmp_path}/arm64"])
    manifest = json.loads((tmp_path / "arm64/manifest.json").read_bytes())
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.digest for layer in image.platforms[1].layers]


def test_store_copy_through_registry_by_skopeo_keeps_digests(skopeo: list[str], store: Store, image: CloudImage, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as running:
        there = f"docker://{running.host}/acme/web:1"
        run([*skopeo, "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", f"oci:{store.root}:web:latest", there])
        run([*skopeo, "copy", "--all", "--preserve-digests", "--src-tls-verify=false", there, f"oci:{tmp_path}/back:web:latest"])
    assert cloudimage.read(Store(tmp_path / "back"), "web") == image


# Archives


def test_save_and_load_exchange_archives_with_skopeo(skopeo: list[str], store: Store, image: CloudImage, tmp_path: Path) -> None:
    save(store, ["web", "ghcr.io/acme/web:1.0"], tmp_path / "ours.tar")
    run(
        [
            *skopeo,
            "copy",
            "--all",
            "--preserve-digests",
            f"oci-archive:{tmp_path}/ours.tar:web:latest",
            f"oci-archive:{tmp_path}/theirs.tar:web:latest",
        ]
    )
    ours, theirs = Store(tmp_path / "1"), Store(tmp_path / "2")
    assert set(load(ours, tmp_path / "ours.tar").names) == {"web:latest", "ghcr.io/acme/web:1.0"}
    assert set(load(theirs, tmp_path / "theirs.tar").names) == {"web:latest"}
    assert cloudimage.read(ours, "web") == cloudimage.read(theirs, "web") == image


def test_save_and_load_through_fifo_keep_image(store: Store, image: CloudImage, tmp_path: Path) -> None:
    sender = processes.Process(target=send, args=(store.root, tmp_path / "fifo"))
    os.mkfifo(tmp_path / "fifo")
    sender.start()
    with (tmp_path / "fifo").open("rb") as stream:
        load(Store(tmp_path / "other"), stream)
    sender.join(30)
    assert cloudimage.read(Store(tmp_path / "other"), "web") == image


def send(root: Path, fifo: Path) -> None:
    save(Store(root), ["web"], fifo)


# Several processes


def test_collect_beside_concurrent_builds_removes_nothing_in_use(store: Store) -> None:
    stop, rounds = processes.Event(), processes.Value("i")
    collector = processes.Process(target=collect, args=(store.root, stop, rounds))
    builders = [processes.Process(target=build, args=(store.root, number, rounds)) for number in range(3)]
    for process in (collector, *builders):
        process.start()
    for process in builders:
        process.join(120)
    stop.set()
    collector.join(30)
    assert [process.exitcode for process in (collector, *builders)] == [0, 0, 0, 0]
    assert set(store.names()) == {f"image-{builder}-{number}:latest" for builder in range(3) for number in range(15)}
    for name in store.names():
        cloudimage.verify(store, cloudimage.read(store, name))
    assert not list((store.root / "tmp").iterdir())


def build(root: Path, builder: int, rounds: Any) -> None:
    """Write images that share a layer with those of the other builders; collect() is called while theirs have no name yet."""
    store = Store(root)
    for number in range(15):
        with store.shared_lease():
            shared = write_layer([LayerEntry("shared", "file", 0o644, bytes(100_000) + bytes([number]))], store)
            own = write_layer([LayerEntry("own", "file", 0o644, f"{builder} {number}".encode())], store)
            enough = rounds.value + 2
            while rounds.value < enough:
                time.sleep(0.001)
            both = PlatformImage(PLATFORMS[0], (shared.descriptor, own.descriptor), (shared.diff_id, own.diff_id))
            store.tag(f"image-{builder}-{number}", cloudimage.write(store, [both]))


def collect(root: Path, stop: Any, rounds: Any) -> None:
    store = Store(root)
    while not stop.wait(0.001):
        garbage.collect(store)
        rounds.value += 1


def test_store_killed_writer_leaves_names_and_blobs_intact(store: Store) -> None:
    chance = random.Random(11)
    kept: dict[str, Descriptor] = {}
    for _ in range(12):
        writer = processes.Process(target=write_for_ever, args=(store.root, len(kept)))
        writer.start()
        wait_until_named(store, len(kept) + 1)
        time.sleep(chance.uniform(0, 0.15))  # anywhere within a write: that is the point
        writer.kill()
        writer.join()
        assert set(kept.items()) <= set(store.names().items())
        kept = store.names()
        for blob in (store.root / "blobs/sha256").iterdir():
            store.verify(f"sha256:{blob.name}")
    Store(store.root)
    assert not list((store.root / "tmp").iterdir())
    for name in kept:
        cloudimage.read(store, name)
    assert not garbage.collect(store).busy
    for name in kept:
        cloudimage.verify(store, cloudimage.read(store, name))


def wait_until_named(store: Store, count: int) -> None:
    until(lambda: len(store.names()) >= count, "the writer does not write")


def write_for_ever(root: Path, number: int) -> None:
    store = Store(root)
    while True:
        with store.shared_lease():
            layer = write_layer([LayerEntry("data", "file", 0o644, os.urandom(1 << 20))], store)
            image = PlatformImage(PLATFORMS[0], (layer.descriptor,), (layer.diff_id,))
            store.tag(f"image-{number}", cloudimage.write(store, [image]))
        number += 1


def test_collect_lease_of_killed_build_does_not_block(store: Store) -> None:
    held = processes.Event()
    holder = processes.Process(target=hold, args=(store.root, held))
    holder.start()
    assert held.wait(HANG)
    assert garbage.collect(store).busy
    holder.kill()
    holder.join()
    assert not garbage.collect(store).busy


def hold(root: Path, held: Any) -> None:
    with Store(root).shared_lease():
        held.set()
        time.sleep(600)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk.small(tmp_path / "small", 2) as place:
        yield place


def test_store_full_disk_raises_store_error_and_keeps_existing_content(
    small_disk: Path, store: Store, image: CloudImage, tmp_path: Path
) -> None:
    full = Store(small_disk / "store")
    small, _ = full.put(b"fits")
    save(store, ["web"], tmp_path / "web.tar")
    layer = image.platforms[0].layers[0]
    with store.open(layer.digest) as file:
        for fill in (
            lambda: full.put(os.urandom(3 << 20)),
            lambda: full.put(file),
            lambda: write_layer([LayerEntry("data", "file", 0o644, os.urandom(3 << 20))], full),
            lambda: load(full, tmp_path / "web.tar"),
        ):
            with pytest.raises(StoreError, match=f"no space left in {full.root}") as caught:
                fill()
            assert caught.value.hint
            assert not list((full.root / "tmp").iterdir())
    assert not full.names()
    assert full.read(small) == b"fits"
    with pytest.raises(StoreError, match=f"cannot unpack into {small_disk}/out: No space left"):
        unpack(store, [layer], small_disk / "out")
    with pytest.raises(StoreError, match=f"{small_disk}/web.tar: No space left"):
        save(store, ["web"], small_disk / "web.tar")
    assert not list(small_disk.glob("*web.tar*"))
