"""Fuzzing: ``python -m tests.fuzz.run --seconds 10 [TARGET...]``. Prints a table; ends with 1 when anything was found.

Coverage-guided where atheris is installed (the dependency group ``fuzz``), else by mutation alone. What is found is written to
tests/fuzz/found and tried again by every run of the ring ``hostile``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.attempt import FOUND, keep, limit_memory, replay
from tests.fuzz.target import Target
from tests.fuzz.targets import ALL, BY_NAME

_DEATHS = 5
"""Inputs that end the process after which a target is given up."""


@dataclasses.dataclass
class Row:
    """How it went with one target. ``found`` has a line for each finding."""

    target: Target
    inputs: int = 0
    seconds: float = 0
    found: list[str] = dataclasses.field(default_factory=list)


def fuzz(target: Target, seconds: float, seed: int, how: str, found: Path = FOUND) -> Row:
    """Try inputs on one target in processes of its own, a new one when one dies of its input."""
    row = Row(target)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="slipway-fuzz-") as scratch:
        folder = Path(scratch)
        for death in range(_DEATHS):
            left = seconds - (time.monotonic() - begun)
            if left <= 0:
                break
            argv = [sys.executable, "-m", "tests.fuzz.worker", target.name, f"{left:.1f}", str(seed + death), str(folder), how]
            ended = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, env=_env()
            )
            if ended.returncode == 0:
                break
            current = folder / "current"
            data = current.read_bytes() if current.exists() else b""
            why = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit code {ended.returncode}"
            path = keep(target.name, data, found)
            said = ended.stdout.decode(errors="replace").strip().splitlines()[-1:]
            row.found.append(f"the process ended with {why}: {path.name} {' '.join(said)[:200]}")
        count = folder / "count"
        row.inputs = int.from_bytes(count.read_bytes(), "big") if count.exists() else 0
        lines = (folder / "found").read_text().splitlines() if (folder / "found").exists() else []
        for entry in map(json.loads, lines):
            path = keep(target.name, (folder / entry["input"]).read_bytes(), found)
            row.found.append(f"{entry['key'][0]} at {entry['key'][1]}: {entry['message']!a} ({path.name})")
    row.seconds = time.monotonic() - begun
    return row


def _env() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]), "PYTHONUTF8": "1"}


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'TARGET':<15}{'INPUTS':>10}{'SECONDS':>9}{'FOUND':>7}"]
    lines += [f"{row.target.name:<15}{row.inputs:>10}{row.seconds:>9.1f}{len(row.found):>7}" for row in rows]
    total = (
        f"{'all':<15}{sum(row.inputs for row in rows):>10}{sum(row.seconds for row in rows):>9.1f}{sum(len(row.found) for row in rows):>7}"
    )
    return "\n".join([*lines, total])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description="Fuzz what reads the texts and files of others.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all: {', '.join(BY_NAME)}")
    parser.add_argument("--seconds", type=float, default=10, help="for each target (default: 10)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to repeat it (only exact with --plain)")
    parser.add_argument("--inputs", type=int, default=0, help="at most, for each target, with --plain (default: no limit)")
    parser.add_argument("--plain", action="store_true", help="by mutation alone, also where atheris is installed")
    parser.add_argument("--replay", action="store_true", help="only try what was found before")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.targets if name not in BY_NAME]
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    if given.replay:
        limit_memory()
        return 1 if replay(dict(BY_NAME)) else 0
    os.environ["FUZZ_INPUTS"] = str(given.inputs)
    seed = random.SystemRandom().randrange(1 << 30) if given.seed is None else given.seed
    how = "plain" if given.plain or importlib.util.find_spec("atheris") is None else "guided"
    print(f"{how}, seed {seed}", flush=True)
    targets = [BY_NAME[name] for name in given.targets] or ALL
    rows = []
    # Each target works in a process of its own; the threads only wait for them.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for target, row in zip(targets, pool.map(lambda target: fuzz(target, given.seconds, seed, how), targets), strict=True):
            rows.append(row)
            for line in row.found:
                print(f"{target.name} ({target.area}): {line}", flush=True)
    print(table(rows))
    if any(row.found for row in rows):
        print(f"the inputs are in {FOUND.relative_to(Path(__file__).parents[2])}: commit them, each is a test from now on")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
