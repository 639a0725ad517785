"""``slipway run`` on 1, 3, 6 and 12 booted machines: how time and what this machine sends grow with them.

The peer is what would be if every machine took as long, and were sent as much, as one alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from harness.build import container_images
from harness.cloudimage import read
from harness.nodes.container import IMAGE, ContainerProvider
from harness.oci.store import Store
from tests.bench.one_node import cli

SIZES = ((1, 0), (1, 2), (3, 3), (3, 9))
"""Control-plane nodes and workers."""
SMOKE = {"sizes": ((1, 0),)}


def measure(*, sizes: Sequence[tuple[int, int]] = SIZES) -> list[dict[str, Any]]:
    cli("build", "-t", "kubernetes", "kubefiles/kubernetes")
    provider = ContainerProvider()
    size = read(Store.default(), "kubernetes").size
    times: dict[int, float] = {}
    sent: dict[int, int] = {}
    for control_plane, workers in sizes:
        count = control_plane + workers
        times[count], sent[count] = _run(provider, f"bench-{os.getpid()}-{count}", control_plane, workers)
    rows = [
        {
            "name": f"growth: {count} nodes",
            "ours": round(taken, 1),
            "peer": round(count * times[1], 1),
            "peer_name": f"{count} times one node",
            "unit": "s",
        }
        for count, taken in reversed(times.items())
    ]
    rows += [
        {
            "name": f"growth: sent to {count} nodes",
            "ours": round(bytes_ / 1e6),
            "peer": round(size / 1e6),
            "peer_name": "size of the CloudImage",
            "unit": "MB",
        }
        for count, bytes_ in sent.items()
    ]
    return rows


def _run(provider: ContainerProvider, name: str, control_plane: int, workers: int) -> tuple[float, int]:
    """Seconds, and bytes that went to the machines."""
    group = provider.up(name, control_plane, workers, image=container_images.package_image(provider.client, IMAGE))
    try:
        words = [
            "--control-plane",
            ",".join(made.address for made in group.control_plane),
            "--key",
            str(group.login.key),
            "--cluster",
            name,
        ]
        words += ["--workers", ",".join(made.address for made in group.workers)] if workers else []
        started = time.monotonic()
        made = json.loads(cli("run", "kubernetes", *words, "--output", "json"))
        return time.monotonic() - started, int(made["sent"])
    finally:
        provider.down(name)
