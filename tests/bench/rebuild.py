"""A second ``slipway build`` with nothing changed, and one with a comment in a manifest changed, against the first one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SMOKE = {"rounds": 1}
PROJECT = Path(__file__).parents[2]


def seconds(context: Path, *options: str) -> float:
    """How long one build takes as a whole process."""
    started = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "harness.cli", "--quiet", "build", "-t", "bench-web", *options, str(context)], check=True, cwd=PROJECT
    )
    return time.monotonic() - started


def measure(*, rounds: int = 3) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        context = Path(scratch, "web")
        shutil.copytree(PROJECT / "kubefiles" / "web", context)
        full = seconds(context, "--no-cache")
        unchanged = min(seconds(context) for _ in range(rounds))
        manifest = context / "manifests" / "web.yaml"
        manifest.write_text("# a comment\n" + manifest.read_text())
        comment = seconds(context)
    peer = {"peer": round(full, 2), "peer_name": "the same build without its cache", "unit": "s"}
    return [{"ours": round(unchanged, 2), **peer}, {"name": "rebuild, a comment changed", "ours": round(comment, 2), **peer}]
