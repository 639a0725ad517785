"""Push and pull of 200 MiB in 60 blobs over a line on which every byte takes 50 ms, beside ``crane`` over the same line.

The line is a proxy of ours, for netem is not in every kernel: it holds what it gets for 50 ms, each way, and as much at a time as
there is, so that only waiting counts and not bandwidth. Connections themselves are made without delay, for both.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from harness.oci.store import Store
from tests.bench.push_pull import BLOBS, PEER, ROUNDS, check, images, pull, push
from tests.integration import gotool
from tests.integration.registry import registry
from tests.integration.wire import wire

SIZE = 200 << 20
DELAY = 0.05
SMOKE = {"blobs": 12, "size": 12 << 12, "rounds": 1}


def measure(*, blobs: int = BLOBS, size: int = SIZE, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        work = Path(scratch)
        images(Store(work / "home/store"), blobs, size)
        slow = [_round(work, number, DELAY) for number in range(rounds)]
        quick = [_round(work, number, 0.0) for number in range(rounds)]
    return [
        _row("slow-link", slow, ("push", "pull")),
        _row("slow-link: push", slow, ("push",)),
        _row("slow-link: pull", slow, ("pull",)),
        *(_row(f"slow-link: {' and '.join(verbs)} without delay", quick, verbs) for verbs in (("push", "pull"), ("push",), ("pull",))),
    ]


def _round(work: Path, number: int, delay: float) -> dict[str, dict[str, float]]:
    """Push and pull by both, in turns; seconds."""
    found: dict[str, dict[str, float]] = {"push": {}, "pull": {}}
    for who in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
        folder = work / "round"
        with registry(folder / "registry", program=gotool.distribution()) as running, wire(running.host, delay=delay) as line:
            found["push"][who] = push(who, work, line.host).seconds
            found["pull"][who] = pull(who, folder, line.host).seconds
        check(who, work, folder)
        shutil.rmtree(folder)
    return found


def _row(name: str, rounds: list[dict[str, dict[str, float]]], verbs: tuple[str, ...]) -> dict[str, Any]:
    seconds = {who: [sum(one[verb][who] for verb in verbs) for one in rounds] for who in ("ours", "peer")}
    medians = {who: round(statistics.median(values), 2) for who, values in seconds.items()}
    shown = {who: [round(value, 2) for value in values] for who, values in seconds.items()}
    return {"name": name, **medians, "peer_name": PEER, "unit": "s", "rounds": shown, "load": round(os.getloadavg()[0], 1)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
