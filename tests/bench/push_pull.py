"""Push and pull of a CloudImage of 1 GiB in 60 blobs, beside ``crane`` to and from the same registry (distribution 3) on loopback.

Each round begins with a new registry and empty stores, and the two tools take turns in being first; medians count. Then what is
cheap because most is there already: a push after one changed file, a pull of that with the image before it present, a pull of what
has not changed. Bytes are counted on the wire, heads of requests and answers included.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage
from harness.cloudimage import Blob, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.oci.graph import closure
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, digest_of
from harness.oci.store import CHUNK, Store
from tests.integration import gotool
from tests.integration.registry import registry
from tests.integration.wire import wire

BLOBS = 60
SIZE = 1 << 30
ROUNDS = 3
SMOKE = {"blobs": 12, "size": 12 << 16, "rounds": 1}
PROJECT = Path(__file__).parents[2]
PLATFORM = Platform.parse("linux/amd64")
PEER = f"crane {gotool.version('crane')}"


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run of a program cost: seconds, and MB of memory at its peak."""

    seconds: float
    memory: float


def measure(*, blobs: int = BLOBS, size: int = SIZE, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        work = Path(scratch)
        images(Store(work / "home/store"), blobs, size)
        whole = [row for number in range(rounds) for row in (_round(work, number),)]
        again = _again(work)
    rows = [
        _row("push-pull", whole, ("push", "pull"), size),
        _row("push", whole, ("push",), size),
        _row("pull", whole, ("pull",), size),
    ]
    return [*rows, *again]


def images(store: Store, blobs: int, size: int) -> None:
    """``big:1`` of random blobs, and ``big:2`` in which one small file of the rootfs is another."""
    source = random.Random("push-pull")
    with store.shared_lease():
        random_blobs = [_random(store, source, size // blobs) for _ in range(blobs - 1)]
        layers = [Descriptor(OCI_LAYER_GZIP, digest, length) for digest, length in random_blobs[:9]]
        embedded = tuple(Blob(digest, OCI_LAYER_GZIP, length) for digest, length in random_blobs[9:])
        first = EmbeddedImage("docker.io/library/app:1", embedded[0].digest, OCI_MANIFEST, embedded[0].size)
        for name in ("big:1", "big:2"):
            file = write_layer([LayerEntry("etc/version", "file", 0o644, f"{name}\n".encode() * 100)], store)
            ids = (*(layer.digest for layer in layers), file.diff_id)
            image = PlatformImage(PLATFORM, (*layers, file.descriptor), ids, (), Info(), ImageSet((first,), embedded))
            image_index = cloudimage.write(store, [image])
            store.tag(name, image_index)
            _layout(store, image_index, name)


def _layout(store: Store, image: Descriptor, name: str) -> None:
    """The image as an OCI layout of its own beside the store, with the same blobs: crane pushes all that a layout lists."""
    folder = store.root.parents[1] / name.replace(":", "-")
    folder.mkdir()
    (folder / "blobs").symlink_to(store.root / "blobs")
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}\n')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [image.to_json()]}) + "\n")


def _random(store: Store, source: random.Random, size: int) -> tuple[str, int]:
    with store.writer() as writer:
        for begin in range(0, size, CHUNK):
            writer.write(source.randbytes(min(CHUNK, size - begin)))
    return writer.digest, writer.size


# Whole images


def _round(work: Path, number: int) -> dict[str, dict[str, Run]]:
    """Push and pull by both, in turns."""
    found: dict[str, dict[str, Run]] = {"push": {}, "pull": {}}
    turns = ("ours", "peer") if number % 2 == 0 else ("peer", "ours")
    for turn in turns:
        with _folder(work / "round") as folder, registry(folder / "registry", program=gotool.distribution()) as running:
            found["push"][turn] = push(turn, work, running.host)
            found["pull"][turn] = pull(turn, folder, running.host)
            check(turn, work, folder)
    return found


def push(who: str, work: Path, host: str, name: str = "big:1") -> Run:
    if who == "ours":
        return _ours(work / "home", "push", name, f"{host}/bench/big:1", "--plain-http")
    return run([gotool.crane(), "push", "--insecure", "--index", work / name.replace(":", "-"), f"{host}/bench/big:1"], {})


def pull(who: str, folder: Path, host: str) -> Run:
    """Into ``folder``, where there may be something already."""
    if who == "ours":
        return _ours(folder / "pulled", "pull", f"{host}/bench/big:1", "--plain-http")
    return run([gotool.crane(), "pull", "--insecure", "--format", "oci", f"{host}/bench/big:1", folder / "copied"], {})


def check(who: str, work: Path, folder: Path) -> None:
    """What was pulled into ``folder`` is all of the image that was pushed, or the times say nothing."""
    source = Store(work / "home/store")
    place = folder / ("pulled/store" if who == "ours" else "copied")
    for blob in closure(source, source.resolve("big:1")):
        assert digest_of((place / "blobs/sha256" / blob.digest.removeprefix("sha256:")).read_bytes()) == blob.digest, (who, blob)


def _ours(home: Path, *words: str) -> Run:
    return run([sys.executable, "-m", "harness.cli", "--quiet", *words], {"SLIPWAY_HOME": str(home)})


def run(argv: Sequence[str | Path], environment: dict[str, str]) -> Run:
    """A program of which nothing waits to be written to the disk when it begins. Raises CalledProcessError."""
    os.sync()
    memory = 0
    started = time.monotonic()
    process = subprocess.Popen(argv, cwd=PROJECT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    # What the kernel tells of it at its end counts our own memory too, from before it became another program.
    while process.poll() is None:
        memory = max(memory, _peak(process.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    seconds = time.monotonic() - started
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return Run(seconds, memory / 1000)


def _peak(pid: int) -> int:
    """kB that a process has held at most; 0 when it has ended."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) if found else 0
    return 0


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[Path]:
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _row(name: str, rounds: Sequence[dict[str, dict[str, Run]]], verbs: Sequence[str], size: int) -> dict[str, Any]:
    def seconds(who: str) -> list[float]:
        return [sum(one[verb][who].seconds for verb in verbs) for one in rounds]

    mine, theirs = seconds("ours"), seconds("peer")
    return {
        "name": f"{name} of {size >> 20} MiB",
        "ours": round(statistics.median(mine), 2),
        "peer": round(statistics.median(theirs), 2),
        "peer_name": PEER,
        "unit": "s",
        "peak_memory_mb": round(max(one[verb]["ours"].memory for one in rounds for verb in verbs), 1),
        "rounds": {"ours": [round(value, 2) for value in mine], "peer": [round(value, 2) for value in theirs]},
        "load": round(os.getloadavg()[0], 1),
    }


# What is there already


def _again(work: Path) -> list[dict[str, Any]]:
    store = Store(work / "home/store")
    before = {blob.digest for blob in closure(store, store.resolve("big:1"))}
    changed = sum(blob.size for blob in closure(store, store.resolve("big:2")) if blob.digest not in before)
    sent, received = {}, {}
    unchanged = {}
    for who in ("ours", "peer"):
        with (
            _folder(work / "again") as folder,
            registry(folder / "registry", program=gotool.distribution()) as running,
            wire(running.host) as line,
        ):
            push(who, work, line.host)
            pull(who, folder, line.host)
            unchanged[who] = [pull(who, folder, line.host).seconds for _ in range(3)]
            line.clear()
            push(who, work, line.host, "big:2")
            sent[who] = line.up
            line.clear()
            pull(who, folder, line.host)
            received[who] = line.down
    times = {who: round(statistics.median(values), 2) for who, values in unchanged.items()}
    return [
        {"name": f"push after a change of {changed} bytes", **sent, "peer_name": PEER, "unit": "bytes sent"},
        {"name": f"pull after a change of {changed} bytes", **received, "peer_name": PEER, "unit": "bytes received"},
        {"name": "pull of what has not changed", **times, "peer_name": PEER, "unit": "s"},
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
