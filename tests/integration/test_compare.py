"""What changed, and what may go, with the real thing: a registry, other processes at work, SIGKILL at any moment."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Info, PlatformImage, prune, unpacked
from harness.oci.graph import attached_to, closure
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import Platform
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.integration import dying
from tests.integration.registry import Registry, registry
from tests.waiting import HANG, until

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
KILLS = 20
MEETINGS = 30
"""Rounds of each process that unpacks or removes beside the others."""
processes = multiprocessing.get_context("spawn")


class Site:
    """One user's machine: a store, a cache, and the command line for both."""

    def __init__(self, folder: Path, slipway: Slipway) -> None:
        self.store = Store(folder / "home/store")
        self.cache = folder / "cache"
        self.env = {"SLIPWAY_HOME": str(folder / "home"), "SLIPWAY_CACHE": str(self.cache), "HOME": str(folder)}
        # The engine of this machine is not theirs to prune.
        self.env["DOCKER_HOST"] = f"unix://{folder}/none"
        self._slipway = slipway

    def run(self, *words: str | Path, check: bool = True) -> Any:
        return self._slipway(*words, check=check, env=self.env, timeout=HANG)

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "harness.cli", *map(str, words)]
        return subprocess.Popen(argv, env={**os.environ, **self.env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def verify(self, *names: str) -> None:
        """Every byte of every image that has a name, and of ``names`` that they are there."""
        known = self.store.names()
        assert set(names) <= set(known)
        for descriptor in known.values():
            for blob in closure(self.store, descriptor):
                self.store.verify(blob.digest)


@pytest.fixture
def here(tmp_path: Path, slipway: Slipway, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "here/cache"))
    return Site(tmp_path / "here", slipway)


@pytest.fixture
def there(tmp_path: Path, slipway: Slipway) -> Site:
    return Site(tmp_path / "there", slipway)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def make(
    store: Store, name: str, version: str, *, size: int = 200_000, platforms: tuple[Platform, ...] = (AMD64,)
) -> cloudimage.CloudImage:
    """A CloudImage of a large layer that depends on nothing and a small one that depends on ``version``."""
    with store.shared_lease():
        layers = [
            write_layer([LayerEntry("bin/program", "file", 0o755, random.Random(size).randbytes(size))], store),
            write_layer([LayerEntry("etc/version", "file", 0o644, f"version: {version}\n".encode())], store),
        ]
        parts = [
            PlatformImage(
                platform,
                tuple(layer.descriptor for layer in layers),
                tuple(layer.diff_id for layer in layers),
                info=Info(env={"VERSION": version}),
            )
            for platform in platforms
        ]
        store.tag(name, cloudimage.write(store, parts))
    return cloudimage.read(store, name)


# Diff


def test_diff_predicts_pull_size_from_manifests_without_fetching_layers(here: Site, there: Site, running: Registry) -> None:
    make(there.store, "web:1", "1", platforms=(AMD64, ARM64))
    new = make(there.store, "web:2", "2", platforms=(AMD64, ARM64))
    name = f"{running.host}/diff/web"
    there.run("push", "--plain-http", "web:1", f"{name}:1")
    there.run("push", "--plain-http", "web:2", f"{name}:2")
    here.run("pull", "--plain-http", f"{name}:1")
    before = len(running.requests("GET", "/blobs/"))
    found = here.run("diff", "--plain-http", f"{name}:1", f"{name}:2", "-o", "json", "--exit-code", check=False)
    assert found.returncode == 1
    said = json.loads(found.stdout)
    assert (said["old"]["where"], said["new"]["where"], said["new"]["digest"]) == ("store", running.host, new.digest)
    (env, *layers) = said["platforms"][0]["changes"]
    assert (env["kind"], env["old"], env["new"]) == ("env", "1", "2")
    assert sorted((layer["kind"], layer["change"]) for layer in layers) == [("layer", "added"), ("layer", "removed")]
    assert not said["platforms"][0]["filesCompared"]
    fetched = {path.rpartition("/")[2] for path in running.requests("GET", "/blobs/")[before:]}
    large = {layer.digest for part in new.platforms for layer in part.layers}
    assert not fetched & large
    pulled = json.loads(here.run("pull", "--plain-http", f"{name}:2", "-o", "json").stdout)
    assert pulled["received"] == said["transfer"]["send"]["bytes"]
    again = here.run("diff", f"{name}:1", f"{name}:2", "--content", "--platform", "arm64")
    assert "+version: 2" in again.stdout
    assert "~ file        etc/version  11 B -> 11 B" in again.stdout


def test_diff_against_registry_predicts_push_size(here: Site, running: Registry) -> None:
    name = f"{running.host}/diff/mine:latest"
    make(here.store, name, "1")
    here.run("push", "--plain-http", name)
    make(here.store, name, "2")
    words = ("diff", "--plain-http", f"docker://{name}", name)
    said = json.loads(here.run(*words, "-o", "json").stdout)
    assert (said["old"]["where"], said["new"]["where"], said["equal"]) == (running.host, "store", False)
    # The layers of both are here: files can be compared.
    assert [change["name"] for change in said["platforms"][0]["changes"]] == ["VERSION", "etc/version"]
    pushed = json.loads(here.run("push", "--plain-http", name, "-o", "json").stdout)
    assert pushed["sent"] == said["transfer"]["send"]["bytes"]
    assert here.run(*words, "--exit-code").stdout.splitlines()[-1] == "they are the same"


def test_diff_image_missing_in_registry_reports_404(here: Site, running: Registry) -> None:
    make(here.store, "web", "1")
    found = here.run("diff", "--plain-http", "web", f"{running.host}/diff/nothing:1", check=False)
    assert found.returncode == 4
    assert "404" in found.stderr


# Prune


def test_prune_killed_at_any_moment_leaves_named_images_intact(here: Site, tmp_path: Path) -> None:
    chance = random.Random(7)
    kept = [f"kept-{number}:latest" for number in range(3)]
    for name in kept:
        make(here.store, name, name)
    every, midway, tally = 0, 0, tmp_path / "events"
    for number in range(KILLS):
        # Much to remove, so that there are many moments to be killed in.
        strays = [here.store.put(f"{number} {stray}".encode())[0] for stray in range(200)]
        gone = make(here.store, "gone", f"gone {number}")
        here.store.keep("step", f"{number:064x}", {"layer": gone.platforms[0].layers[0].digest})
        os.close(unpacked._locks.pop(unpacked.unpacked_rootfs(here.store, gone.platforms[0].layers)))
        here.store.untag("gone")
        # The first one is not killed, and counts: anywhere in the work of the others is the point.
        moment = chance.randint(1, every) if every else 0
        pruner = processes.Process(target=prune_once, args=(here.store.root, here.cache, moment, tally))
        pruner.start()
        pruner.join()
        assert pruner.exitcode in (0, -signal.SIGKILL)
        every = every or dying.counted(tally)
        midway += 0 < sum(here.store.has(digest) for digest in strays) < len(strays)
        here.verify(*kept)
        for tree in (path for path in unpacked.folder().iterdir() if not path.name.startswith(".")):
            assert (tree / "etc/version").is_file()
            assert (tree / "bin/program").is_file()
    assert midway
    assert not json.loads(here.run("prune", "--cache", "-o", "json").stdout)["busy"]
    assert json.loads(here.run("prune", "--cache", "--dry-run", "-o", "json").stdout)["bytes"] == 0
    needed = {blob.digest for name in kept for blob in cloudimage.read(here.store, name).blobs}
    assert {f"sha256:{path.name}" for path in (here.store.root / "blobs/sha256").iterdir()} == needed
    assert not list(unpacked.folder().iterdir())
    here.verify(*kept)


def prune_once(root: Path, cache: Path, moment: int, tally: Path) -> None:
    os.environ["SLIPWAY_CACHE"] = str(cache)
    store = Store(root)
    dying.arm(moment, tally)
    prune.prune(store, cache=True)


def test_prune_beside_build_pull_push_and_load_removes_nothing_in_use(here: Site, there: Site, running: Registry, tmp_path: Path) -> None:
    names = [f"{running.host}/busy/web:{number}" for number in range(4)]
    for number, name in enumerate(names):
        make(there.store, name, f"busy {number}", size=3_000_000 + number)
        there.run("push", "--plain-http", name)
    there.run("save", *names[:2], "-f", tmp_path / "some.tar")
    for name in names[:2]:
        make(here.store, f"{name}-mine", f"mine {name}", size=2_000_000)
    stop, rounds = processes.Event(), processes.Value("i")
    pruner = processes.Process(target=prune_until, args=(here.store.root, here.cache, stop, rounds))
    builder = processes.Process(target=build, args=(here.store.root, stop))
    pruner.start()
    builder.start()
    work = [
        *(here.start("pull", "--plain-http", name) for name in names[2:]),
        here.start("load", "-f", tmp_path / "some.tar"),
        *(here.start("push", "--plain-http", f"{name}-mine") for name in names[:2]),
    ]
    said = [process.communicate(timeout=HANG)[1].decode() for process in work]
    until(lambda: rounds.value > 0 or pruner.exitcode is not None, "prune")
    stop.set()
    for process in (pruner, builder):
        process.join(HANG)
    assert [process.returncode for process in work] == [0] * len(work), said
    assert (pruner.exitcode, builder.exitcode) == (0, 0)
    assert rounds.value > 0
    here.verify(*names, "built:latest")
    here.run("prune")
    here.verify(*names, "built:latest")
    there.run("rmi", *names)
    for name in names[:2]:
        there.run("pull", "--plain-http", f"{name}-mine")
    there.verify(*(f"{name}-mine" for name in names[:2]))


def prune_until(root: Path, cache: Path, stop: Any, rounds: Any) -> None:
    os.environ["SLIPWAY_CACHE"] = str(cache)
    store = Store(root)
    while not stop.wait(0.002):
        prune.prune(store, cache=True)
        rounds.value += 1


def build(root: Path, stop: Any) -> None:
    """Build and remove for as long as the others work; the last image stays."""
    store = Store(root)
    number = 0
    while not stop.is_set() or number == 0:
        make(store, "built", f"build {number}")
        number += 1


def test_prune_keeps_unpacked_tree_until_other_process_ends(here: Site) -> None:
    make(here.store, "web", "1")
    ready = processes.Event()
    user = processes.Process(target=use, args=(here.store.root, here.cache, ready))
    user.start()
    assert ready.wait(HANG)
    here.store.untag("web")
    said = json.loads(here.run("prune", "-o", "json").stdout)
    assert (said["treesInUse"], said["kinds"]["trees"]["count"]) == (1, 0)
    (tree,) = (path for path in unpacked.folder().iterdir())
    assert (tree / "etc/version").read_text() == "version: 1\n"
    user.kill()
    user.join()
    said = json.loads(here.run("prune", "-o", "json").stdout)
    assert (said["treesInUse"], said["kinds"]["trees"]["count"]) == (0, 1)
    assert not list(unpacked.folder().iterdir())


def use(root: Path, cache: Path, ready: Any) -> None:
    os.environ["SLIPWAY_CACHE"] = str(cache)
    store = Store(root)
    unpacked.unpacked_rootfs(store, cloudimage.read(store, "web").platforms[0].layers)
    ready.set()
    time.sleep(600)


def test_unpacked_rootfs_beside_concurrent_removal_stays_readable(here: Site) -> None:
    for number in range(3):
        make(here.store, f"web-{number}", str(number))
    stop = processes.Event()
    rounds = [processes.Value("i") for _ in range(4)]
    users = [
        processes.Process(target=unpack_until, args=(here.store.root, here.cache, number, stop, rounds[number])) for number in range(3)
    ]
    remover = processes.Process(target=remove_until, args=(here.cache, stop, rounds[3]))
    everybody = (*users, remover)
    for process in everybody:
        process.start()
    until(lambda: all(one.value >= MEETINGS for one in rounds) or any(process.exitcode for process in everybody), "meet")
    stop.set()
    for process in everybody:
        process.join(HANG)
    assert [process.exitcode for process in everybody] == [0, 0, 0, 0]


def unpack_until(root: Path, cache: Path, number: int, stop: Any, rounds: Any) -> None:
    os.environ["SLIPWAY_CACHE"] = str(cache)
    store = Store(root)
    layers = cloudimage.read(store, f"web-{number}").platforms[0].layers
    while not stop.is_set():
        place = unpacked.unpacked_rootfs(store, layers)
        for _ in range(5):
            assert (place / "etc/version").read_text() == f"version: {number}\n"
        os.close(unpacked._locks.pop(place))  # as if the process had ended
        rounds.value += 1


def remove_until(cache: Path, stop: Any, rounds: Any) -> None:
    os.environ["SLIPWAY_CACHE"] = str(cache)
    while not stop.is_set():
        unpacked.remove(())
        rounds.value += 1


# Names


def test_rmi_last_name_removes_signature_that_was_pulled_with_image(here: Site, there: Site, running: Registry, tmp_path: Path) -> None:
    name = f"{running.host}/names/web:1"
    make(there.store, name, "1")
    prefix = tmp_path / "key"
    password = {"SLIPWAY_KEY_PASSWORD": "secret words"}
    there.env.update(password)
    there.run("keys", "create", "-f", prefix)
    there.run("sign", "--key", f"{prefix}.key", name)
    there.run("push", "--plain-http", name)
    here.run("pull", "--plain-http", name)
    attached = [known for known in here.store.names() if attached_to(known)]
    assert len(attached) == 1
    listed = json.loads(here.run("images", "-o", "json").stdout)
    assert [row["name"] for row in listed] == [name]
    everything = json.loads(here.run("images", "--all", "-o", "json").stdout)
    assert {row["name"]: row["kind"] for row in everything} == {name: "cloudimage", attached[0]: "signature"}
    here.run("prune")
    assert attached[0] in here.store.names()
    said = json.loads(here.run("rmi", name, "-o", "json").stdout)
    assert said["names"] == [name, *attached]
    assert here.store.names() == {}
    here.run("prune")
    assert not list((here.store.root / "blobs/sha256").iterdir())
