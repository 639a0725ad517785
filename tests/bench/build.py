"""What ``slipway build`` of web costs, split by step. There is no peer that does the same; the steps are compared with the whole."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

SMOKE: dict[str, Any] = {}
"""One build is the smallest size."""
PROJECT = Path(__file__).parents[2]
STEP = re.compile(r"^(?P<indent> *)\+ (?P<title>.*?)(?: \((?P<note>[^()]*)\))? (?:(?P<minutes>\d+) min )?(?P<seconds>[\d.]+) s$")


def steps(text: str) -> list[tuple[str, float]]:
    """The outermost steps of a log and their seconds."""
    found = [STEP.match(line) for line in text.splitlines()]
    return [(one["title"], 60 * int(one["minutes"] or 0) + float(one["seconds"])) for one in found if one and not one["indent"]]


def measure() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "harness.cli", "build", "--no-cache", "-t", "bench-web", "kubefiles/web"]
    done = subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    found = steps(done.stderr)
    total = round(sum(seconds for _, seconds in found), 1)
    none = {"peer": None, "peer_name": "no peer finds images by running them", "unit": "s"}
    return [{"ours": total, **none}, *({"name": f"build: {title}", "ours": seconds, **none} for title, seconds in found)]
