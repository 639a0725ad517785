"""Archives with the real thing: skopeo and sha256sum as judges that we did not write, pipes, full disks, SIGKILL."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cloudimage
from harness.cloudimage import CloudImage, Info, PlatformImage
from harness.host import apt
from harness.oci.archive.save import save
from harness.oci.layer import LayerEntry, unpack, write_layer
from harness.oci.model import OCI_LAYER, OCI_LAYER_ZSTD, Descriptor, Platform
from harness.oci.store import Store
from harness.process import run
from tests.conftest import Slipway
from tests.integration import disk, dying
from tests.waiting import HANG

SKOPEO = ["skopeo", "--insecure-policy", "copy", "--quiet"]
ALL = ["--all", "--preserve-digests"]
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def zstd_program() -> None:
    apt.ensure("zstd", "zstd")


def write(store: Store, name: str, *layers: bytes) -> CloudImage:
    """A CloudImage for two platforms whose layers hold some bytes, the same for both."""
    with store.shared_lease():
        packed = [write_layer([LayerEntry(f"file{number}", "file", 0o644, data)], store) for number, data in enumerate(layers)]
        parts = [
            PlatformImage(
                Platform("linux", architecture),
                tuple(layer.descriptor for layer in packed),
                tuple(layer.diff_id for layer in packed),
                (),
                Info(labels={"for": architecture}),
            )
            for architecture in ("amd64", "arm64")
        ]
        store.tag(name, cloudimage.write(store, parts))
    return cloudimage.read(store, name)


def write_noise(store: Store, name: str, *sizes: int) -> CloudImage:
    """A CloudImage with layers of so many MiB, which nobody can unpack."""
    with store.shared_lease():
        layers = []
        for size in sizes:
            with store.writer() as blob:
                for _ in range(size):
                    blob.write(os.urandom(MIB))
            layers.append(Descriptor(OCI_LAYER, blob.digest, blob.size))
        part = PlatformImage(Platform("linux", "amd64"), tuple(layers), tuple(layer.digest for layer in layers))
        store.tag(name, cloudimage.write(store, [part]))
    return cloudimage.read(store, name)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "store")


@pytest.fixture
def image(store: Store) -> CloudImage:
    return write(store, "web:1", *(os.urandom(MIB) for _ in range(6)))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The home of somebody else."""
    return tmp_path / "site"


def at(home: Path) -> dict[str, str]:
    return {"SLIPWAY_HOME": str(home)}


# What others say


def test_save_archive_is_read_by_skopeo(slipway: Slipway, home: Path, image: CloudImage, store: Store, tmp_path: Path) -> None:
    slipway("save", "web:1", "-f", tmp_path / "web.tar", env=at(home))
    run([*SKOPEO, *ALL, f"oci-archive:{tmp_path}/web.tar:web:1", f"oci:{tmp_path}/copy:web:1"])
    assert cloudimage.read(Store(tmp_path / "copy"), "web:1") == image
    seen = json.loads(run(["skopeo", "--override-arch", "arm64", "inspect", f"oci-archive:{tmp_path}/web.tar:web:1"]).stdout)
    assert (seen["Architecture"], seen["Labels"]) == ("arm64", {"for": "arm64"})


@pytest.mark.parametrize("compress", [None, "gzip", "zstd"])
def test_load_archive_of_skopeo_compressed_or_not_keeps_image(
    slipway: Slipway, image: CloudImage, store: Store, site: Path, tmp_path: Path, compress: str | None
) -> None:
    run([*SKOPEO, *ALL, f"oci:{store.root}:web:1", f"oci-archive:{tmp_path}/web.tar:web:1"])
    packed = tmp_path / "web.tar"
    if compress:
        run([compress, "-q", "-k", packed])
        packed = next(path for path in tmp_path.glob("web.tar.*"))
    said = slipway("load", "-f", packed, env=at(site)).stdout
    assert said == f"web:1  {image.digest}\n"
    assert cloudimage.read(Store(site / "store"), "web:1") == image


def test_save_volumes_are_verified_and_joined_by_standard_tools(
    slipway: Slipway, home: Path, image: CloudImage, store: Store, site: Path, tmp_path: Path
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    slipway("save", "web:1", "-f", stick / "web.tar", "--volume-size", "2MiB", env=at(home))
    assert len(list(stick.glob("web.tar.???"))) == 4
    run(["sha256sum", "--strict", "--quiet", "-c", "web.tar.sums"], cwd=stick)
    run(["sh", "-c", "cat web.tar.0* > whole.tar"], cwd=stick)
    run([*SKOPEO, *ALL, f"oci-archive:{stick}/whole.tar:web:1", f"oci:{tmp_path}/copy:web:1"])
    assert cloudimage.read(Store(tmp_path / "copy"), "web:1") == image
    slipway("load", "-f", stick / "web.tar.001", env=at(site))
    assert cloudimage.read(Store(site / "store"), "web:1") == image


def test_save_and_load_through_pipe_keep_digest(slipway: Slipway, home: Path, image: CloudImage, site: Path) -> None:
    words = f"{sys.executable} -m harness.cli"
    script = f"SLIPWAY_HOME={home} {words} -q save web:1 -f - --compress zstd | SLIPWAY_HOME={site} {words} -q load -f -"
    assert run(["bash", "-o", "pipefail", "-c", script]).stdout == f"web:1  {image.digest}\n"


def test_load_docker_archive_is_refused_and_hinted_conversion_works(
    slipway: Slipway, store: Store, image: CloudImage, site: Path, tmp_path: Path
) -> None:
    docker = tmp_path / "docker.tar"
    run([*SKOPEO, f"oci:{store.root}:web:1", f"docker-archive:{docker}:web:1"])
    refused = slipway("load", "-f", docker, env=at(site), check=False)
    assert refused.returncode == 4
    assert "docker.tar is a docker-archive" in refused.stderr
    assert "oci-archive:NEW.tar:NAME:TAG" in refused.stderr
    run([*SKOPEO, f"docker-archive:{docker}", f"oci-archive:{tmp_path}/new.tar:plain:1"])
    assert slipway("load", "-f", tmp_path / "new.tar", env=at(site)).stdout.startswith("plain:1  sha256:")


@pytest.mark.parametrize("level", ["-1", "-19", "--fast=5"])
def test_unpack_zstd_layers_gives_same_files_as_gzip(store: Store, image: CloudImage, tmp_path: Path, level: str) -> None:
    layers = [store.path(layer.digest).read_bytes() for layer in image.platforms[0].layers[:2]]
    unpack(store, [Descriptor(OCI_LAYER_ZSTD, *store.put(repacked(layer, level))) for layer in layers], tmp_path / "zstd")
    unpack(store, image.platforms[0].layers[:2], tmp_path / "gzip")
    names = sorted(path.name for path in (tmp_path / "gzip").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "zstd").iterdir()) == ["file0", "file1"]
    for name in names:
        assert (tmp_path / "zstd" / name).read_bytes() == (tmp_path / "gzip" / name).read_bytes()


def repacked(layer: bytes, level: str) -> bytes:
    return subprocess.run(["zstd", "-q", "-c", level], input=gzip.decompress(layer), check=True, capture_output=True).stdout


# Deltas


def test_save_since_writes_small_delta_that_loads_only_beside_its_base(
    slipway: Slipway, home: Path, store: Store, image: CloudImage, site: Path, tmp_path: Path
) -> None:
    second = write_again(store, image)
    slipway("save", "web:1", "-f", tmp_path / "1.tar", env=at(home))
    said = slipway("save", "web:2", "-f", tmp_path / "2.tar", "--since", "web:1", env=at(home)).stdout
    assert "instead of 6.3 MB, where the site has web:1" in said
    assert (tmp_path / "2.tar").stat().st_size < 20_000
    refused = slipway("load", "-f", tmp_path / "2.tar", env=at(site), check=False)
    assert refused.returncode == 4
    assert f"web:1 ({image.digest}): 8 of 8 blobs are not here" in refused.stderr
    slipway("load", "-f", tmp_path / "1.tar", env=at(site))
    slipway("load", "-f", tmp_path / "2.tar", env=at(site))
    assert cloudimage.read(Store(site / "store"), "web:2") == second
    cloudimage.verify(Store(site / "store"), second)


def write_again(store: Store, image: CloudImage) -> CloudImage:
    """``web:2``: the layers of ``web:1``, one small one more."""
    with store.shared_lease():
        layer = write_layer([LayerEntry("small", "file", 0o644, b"new")], store)
        parts = [
            PlatformImage(part.platform, (*part.layers, layer.descriptor), (*part.diff_ids, layer.diff_id), (), part.info)
            for part in image.platforms
        ]
        store.tag("web:2", cloudimage.write(store, parts))
    return cloudimage.read(store, "web:2")


def test_save_one_platform_loads_under_digest_of_whole_index(
    slipway: Slipway, home: Path, store: Store, image: CloudImage, site: Path, tmp_path: Path
) -> None:
    slipway("save", "web:1", "-f", tmp_path / "arm.tar", "--platform", "linux/arm64", env=at(home))
    assert slipway("load", "-f", tmp_path / "arm.tar", env=at(site)).stdout == f"web:1  {image.digest}\n"
    loaded = cloudimage.read(Store(site / "store"), "web:1")
    assert (loaded.digest, [str(part.platform) for part in loaded.platforms]) == (image.digest, ["linux/arm64"])
    assert "linux/arm64" in slipway("images", env=at(site)).stdout


# Faults


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk.small(tmp_path / "small", 4) as place:
        yield place


@pytest.mark.parametrize("volumes", [[], ["--volume-size", "1MiB"]], ids=["one file", "volumes"])
def test_save_full_disk_leaves_no_partial_archive(
    slipway: Slipway, home: Path, image: CloudImage, small_disk: Path, volumes: list[str]
) -> None:
    refused = slipway("save", "web:1", "-f", small_disk / "web.tar", *volumes, env=at(home), check=False)
    assert refused.returncode == 4
    assert "web.tar: No space left on device" in refused.stderr
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("order", ["ours", "skopeo's"])
def test_load_full_disk_leaves_store_usable(
    slipway: Slipway, home: Path, store: Store, image: CloudImage, small_disk: Path, tmp_path: Path, order: str
) -> None:
    if order == "ours":
        slipway("save", "web:1", "-f", tmp_path / "web.tar", env=at(home))
    else:
        run([*SKOPEO, *ALL, f"oci:{store.root}:web:1", f"oci-archive:{tmp_path}/web.tar:web:1"])
    refused = slipway("load", "-f", tmp_path / "web.tar", env=at(small_disk), check=False)
    assert refused.returncode == 4
    assert f"no space left in {small_disk}/store" in refused.stderr
    there = Store(small_disk / "store")
    assert not there.names()
    assert not list((there.root / "tmp").iterdir())
    slipway("prune", env=at(small_disk))
    assert not list((there.root / "blobs/sha256").iterdir())
    there.put(b"fits")


def test_save_over_file_size_limit_is_reported_and_leaves_no_file(home: Path, image: CloudImage, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "save", "web:1", "-f", str(tmp_path / "web.tar")],
        env={**os.environ, **at(home)},
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, 2 * MIB)),
    )
    assert done.returncode == 4
    assert "web.tar: File too large" in done.stderr
    assert "--volume-size 4GB" in done.stderr
    assert not list(tmp_path.glob("*web.tar*"))


def killed_at(count: int, *words: str | Path, home: Path) -> bool:
    """Kill the command line at its event number ``count`` with files; False when it had ended before."""
    argv = dying.command(count, home / "events", "-q", *words)
    done = subprocess.run(argv, env={**os.environ, **at(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    assert done.returncode in (0, -signal.SIGKILL)
    return done.returncode != 0


def events(*words: str | Path, home: Path) -> int:
    """How many events with files the command line has from its beginning to its end."""
    home.mkdir(exist_ok=True)
    run(dying.command(0, home / "events", "-q", *words), env=at(home))
    return dying.counted(home / "events")


@pytest.fixture
def large(store: Store) -> CloudImage:
    """A hundred megabytes in 20 blobs."""
    return write_noise(store, "web:1", *[5] * 20)


def test_load_killed_at_any_moment_is_completed_by_next_load(
    slipway: Slipway, home: Path, large: CloudImage, site: Path, tmp_path: Path
) -> None:
    slipway("-q", "save", "web:1", "-f", tmp_path / "web.tar", env=at(home))
    every = events("load", "-f", tmp_path / "web.tar", home=tmp_path / "measured")
    chance = random.Random(8)
    there = Store(site / "store")
    blobs = there.root / "blobs/sha256"
    killed = 0
    for _ in range(8):
        if killed_at(int(chance.uniform(0.1, 0.8) * every), "load", "-f", tmp_path / "web.tar", home=site):
            killed += 1
            assert not there.names() or cloudimage.read(there, "web:1") == large
            for path in blobs.iterdir():
                there.verify(f"sha256:{path.name}")
    assert killed
    before = {path.name: path.stat().st_ino for path in blobs.iterdir()}
    loaded = json.loads(slipway("-q", "load", "-f", tmp_path / "web.tar", "-o", "json", env=at(site)).stdout)
    assert loaded["present"] == len(before)
    assert loaded["written"] + loaded["present"] == len(large.blobs)
    assert {path.name: path.stat().st_ino for path in blobs.iterdir()}.items() >= before.items()
    cloudimage.verify(there, cloudimage.read(there, "web:1"))
    assert not list((there.root / "tmp").iterdir())


@pytest.mark.parametrize("volumes", [[], ["--volume-size", "10MB"]], ids=["one file", "volumes"])
def test_save_killed_at_any_moment_is_completed_by_next_save(
    slipway: Slipway, home: Path, store: Store, large: CloudImage, site: Path, tmp_path: Path, volumes: list[str]
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    words: tuple[str | Path, ...] = ("save", "web:1", "-f", stick / "web.tar", *volumes)
    every = events(*words, home=home)
    whole = {path.name: path.read_bytes() for path in stick.iterdir()}
    for path in stick.iterdir():
        path.unlink()
    chance = random.Random(9)
    killed = 0
    for _ in range(8):
        if killed_at(int(chance.uniform(0.1, 0.8) * every), *words, home=home):
            killed += 1
            named = {path.name for path in stick.iterdir() if not path.name.startswith(".")}
            assert not named or volumes or named == {"web.tar"}
            assert all((stick / name).read_bytes() == whole[name] for name in named)
    assert killed
    slipway("-q", *words, env=at(home))
    assert {path.name: path.read_bytes() for path in stick.iterdir()} == whole
    slipway("load", "-f", stick / "web.tar", env=at(site))
    assert cloudimage.read(Store(site / "store"), "web:1") == large


def test_load_two_at_once_give_same_image(home: Path, store: Store, large: CloudImage, site: Path, tmp_path: Path) -> None:
    save(store, ["web:1"], tmp_path / "web.tar", compress="zstd")
    argv = [sys.executable, "-m", "harness.cli", "-q", "load", "-f", str(tmp_path / "web.tar")]
    both = [subprocess.Popen(argv, env={**os.environ, **at(site)}, stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        said, _ = process.communicate(timeout=HANG)
        assert (process.returncode, said.decode()) == (0, f"web:1  {large.digest}\n")
    there = Store(site / "store")
    cloudimage.verify(there, cloudimage.read(there, "web:1"))


def test_save_and_load_large_image_take_little_memory(home: Path, store: Store, site: Path, tmp_path: Path) -> None:
    write_noise(store, "big", 400)
    for words, place in (
        (["save", "big", "-f", str(tmp_path / "big.tar"), "--volume-size", "100MB"], home),
        (["load", "-f", str(tmp_path / "big.tar")], site),
        (["save", "big", "-f", str(tmp_path / "big.zst"), "--compress", "zstd"], home),
        (["load", "-f", str(tmp_path / "big.zst")], tmp_path / "site2"),
    ):
        assert peak_memory(words, place) < 150, words


MEASURED = """
import re, sys
from harness.cli import app
code = app.execute(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)
"""


def peak_memory(words: list[str], home: Path) -> float:
    """MB that the command line held at most."""
    said = run([sys.executable, "-c", MEASURED, "-q", *words], env=at(home)).stderr
    return int(said.split()[-1]) / 1000
