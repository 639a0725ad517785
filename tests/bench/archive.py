"""Save and load of a 1 GiB CloudImage of 60 blobs, beside ``skopeo copy`` from an OCI layout to an oci-archive and back.

Both read the same store and write to the same disk, in alternating rounds that begin with nothing there and nothing left to be
written; skopeo copies all platforms and keeps every digest, as we do. Ours are processes of the command line: their start counts.
"""

from __future__ import annotations

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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage
from harness.cloudimage import Blob, EmbeddedImage, ImageSet, PlatformImage
from harness.host import apt
from harness.oci.model import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json
from harness.oci.store import Store

BLOBS = 60
SIZE = 1 << 30
ROUNDS = 3
SMOKE = {"blobs": 4, "size": 4 << 20, "rounds": 1}
NAME = "bench:1"
SKOPEO = ("skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests")
PROJECT = Path(__file__).parents[2]


def measure(*, blobs: int = BLOBS, size: int = SIZE, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Seconds: for both ways together, for save, for load; and the peak memory of our process in MB."""
    apt.ensure("skopeo", "skopeo")
    times: dict[str, list[float]] = {"save": [], "skopeo save": [], "load": [], "skopeo load": []}
    memory: dict[str, float] = {"save": 0.0, "load": 0.0}
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        work = Path(scratch)
        make(Store(work / "home/store"), blobs, size)
        for _ in range(rounds):
            for verb, home in (("save", work / "home"), ("load", work / "loaded")):
                seconds, peak = _ours(home, verb, "-f", str(work / "ours.tar"), *([NAME] if verb == "save" else []))
                times[verb].append(seconds)
                memory[verb] = max(memory[verb], peak)
            times["skopeo save"].append(_timed([*SKOPEO, f"oci:{work}/home/store:{NAME}", f"oci-archive:{work}/peer.tar:{NAME}"], {}))
            times["skopeo load"].append(_timed([*SKOPEO, f"oci-archive:{work}/peer.tar:{NAME}", f"oci:{work}/copied:{NAME}"], {}))
            _same(work / "loaded/store", work / "copied")
            for name in ("ours.tar", "peer.tar"):
                (work / name).unlink()
            for name in ("loaded", "copied"):
                shutil.rmtree(work / name)
    rows = [_row(f"archive-{verb}", times[verb], times[f"skopeo {verb}"], memory[verb]) for verb in ("save", "load")]
    both = [[sum(pair) for pair in zip(times[f"{who}save"], times[f"{who}load"], strict=True)] for who in ("", "skopeo ")]
    return [_row("archive", both[0], both[1], max(memory.values())), *rows]


def _row(name: str, ours: Sequence[float], peer: Sequence[float], memory: float) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(statistics.median(ours), 2),
        "peer": round(statistics.median(peer), 2),
        "peer_name": "skopeo copy, oci to oci-archive" + (" and back" if name == "archive" else ", back" if name.endswith("load") else ""),
        "unit": "s",
        "peak_memory_mb": round(memory, 1),
        "rounds": {"ours": [round(value, 2) for value in ours], "peer": [round(value, 2) for value in peer]},
    }


def make(store: Store, blobs: int, size: int) -> None:
    """A CloudImage of ``blobs`` layers and ``size`` bytes of noise: half rootfs, half one embedded image."""
    source = random.Random("bench")
    with store.shared_lease():
        layers = []
        for _ in range(blobs):
            with store.writer() as blob:
                left = size // blobs
                while left:
                    left -= blob.write(source.randbytes(min(left, 1 << 20)))
            layers.append(Descriptor(OCI_LAYER_GZIP, blob.digest, blob.size))
        rootfs, embedded = tuple(layers[: blobs // 2]), layers[blobs // 2 :]
        config = Descriptor(OCI_CONFIG, *store.put(b"{}"))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in embedded],
        }
        image = Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest)))
        images = ImageSet(
            (EmbeddedImage("docker.io/library/bench:1", image.digest, image.media_type, image.size),),
            tuple(Blob(part.digest, part.media_type, part.size) for part in (image, config, *embedded)),
        )
        part = PlatformImage(Platform.host(), rootfs, tuple(layer.digest for layer in rootfs), images=images)
        store.tag(NAME, cloudimage.write(store, [part]))


def _ours(home: Path, *words: str) -> tuple[float, float]:
    """Seconds, and the most memory in MB, which the process itself says at its end."""
    note = home.with_name("memory")
    argv = [sys.executable, "-m", "tests.bench.archive", "run", str(note), *words]
    seconds = _timed(argv, {"SLIPWAY_HOME": str(home)})
    return seconds, float(note.read_text())


def _run(note: Path, words: Sequence[str]) -> int:
    from harness.cli import app

    code = app.execute(["-q", *words])
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    note.write_text(str(int(found[1]) / 1000))
    return code


def _timed(argv: Sequence[str], env: Mapping[str, str]) -> float:
    os.sync()
    started = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd=PROJECT, env={**os.environ, **env})
    return time.monotonic() - started


def _same(ours: Path, theirs: Path) -> None:
    """Both have every blob, or the times say nothing."""
    found = [{path.name for path in (folder / "blobs/sha256").iterdir()} for folder in (ours, theirs)]
    assert found[0] == found[1]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", note, *words]:
            sys.exit(_run(Path(note), words))
        case _:
            sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
