"""``slipway exec -- true`` on 200 machines beside plain ``xargs -P`` with ssh, and the memory that each of them takes.

The machines are 200 sshd, each on an address of its own on the loopback, in one container of the node image. Both sides start with empty
known_hosts, so every host key is pinned on the way. Memory is that of the whole tree of processes at its highest, in two ways: resident
pages, where what processes share counts for each of them, and proportional ones, where it counts once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import process
from harness.build import container_images
from harness.host import docker
from harness.lifecycle.exec import JOBS
from harness.nodes.container import IMAGE

COUNT = 200
ROUNDS = 3
SMOKE = {"count": 3, "rounds": 1}
PORT = 2022
PROJECT = Path(__file__).parents[2]
_EVERY = 0.1
"""Seconds between two looks at the memory."""


@dataclasses.dataclass(frozen=True)
class Run:
    """How long a command took, and the most that it and all its children held, in MB."""

    seconds: float
    resident: float
    proportional: float


def measure(*, count: int = COUNT, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        work = Path(scratch)
        with machines(work, count) as addresses:
            found: dict[str, list[Run]] = {"ours": [], "peer": []}
            for number in range(rounds):
                for who in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
                    found[who].append(_ours(work, addresses) if who == "ours" else _peer(work, addresses))
    return [
        _row("fan-out", found, "seconds", "s"),
        _row("fan-out: memory, shared pages counted for each process", found, "resident", "MB"),
        _row("fan-out: memory, shared pages counted once", found, "proportional", "MB"),
    ]


def _row(name: str, found: Mapping[str, Sequence[Run]], what: str, unit: str) -> dict[str, Any]:
    values = {who: [round(getattr(run, what), 1 if unit == "MB" else 2) for run in runs] for who, runs in found.items()}
    medians = {who: statistics.median(those) for who, those in values.items()}
    peer = f"xargs -P {JOBS} with ssh"
    return {"name": name, **medians, "peer_name": peer, "unit": unit, "rounds": values, "load": round(os.getloadavg()[0], 1)}


@contextlib.contextmanager
def machines(work: Path, count: int) -> Iterator[list[str]]:
    """``count`` sshd on the loopback, which let in who has ``work/key``; their addresses."""
    addresses = [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "key"])
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", work / "host"])
    (work / "sshd_config").write_text(
        "HostKey /bench/host\nAuthorizedKeysFile /bench/key.pub\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        "UsePAM no\nStrictModes no\nPrintMotd no\nPidFile none\n"
    )
    name = f"slipway-bench-{os.getpid()}"
    image = container_images.package_image(docker.connect(), IMAGE)
    process.run(["docker", "run", "-d", "--rm", "--network", "host", "--name", name, "--entrypoint", "sleep", image, "infinity"])
    try:
        process.run(["docker", "exec", name, "mkdir", "-p", "/bench", "/run/sshd"])
        for file in ("host", "key.pub", "sshd_config"):
            process.run(["docker", "cp", work / file, f"{name}:/bench/{file}"])
        start = f"for address in {' '.join(addresses)}; do /usr/sbin/sshd -f /bench/sshd_config -o ListenAddress=$address -p {PORT}; done"
        process.run(["docker", "exec", name, "sh", "-ec", f"chown root:root /bench/*; chmod 600 /bench/host; {start}"])
        yield addresses
    finally:
        process.run(["docker", "rm", "-f", name], check=False)


def _ours(work: Path, addresses: Sequence[str]) -> Run:
    shutil.rmtree(work / "home", ignore_errors=True)
    words = ["exec", "--workers", ",".join(addresses), "--port", str(PORT), "--key", str(work / "key"), "--", "true"]
    return _watched([sys.executable, "-m", "harness.cli", *words], {"SLIPWAY_HOME": str(work / "home")})


def _peer(work: Path, addresses: Sequence[str]) -> Run:
    known = work / "known_hosts"
    known.unlink(missing_ok=True)
    options = ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new", "-o", f"UserKnownHostsFile={known}"]
    options += [
        "-o",
        "GlobalKnownHostsFile=none",
        "-o",
        "LogLevel=ERROR",
        "-o",
        "IdentitiesOnly=yes",
        "-i",
        str(work / "key"),
        "-p",
        str(PORT),
    ]
    # The same thing is run there: our commands go through a shell, so that they may be shell text.
    ssh = shlex.join(["xargs", "-P", str(JOBS), "-I", "HOST", "ssh", *options, "root@HOST", "sh -c true"])
    return _watched(["sh", "-c", f"printf '%s\\n' {' '.join(addresses)} | {ssh}"], {})


def _watched(argv: Sequence[str], env: Mapping[str, str]) -> Run:
    """Run a command to its good end while its memory is looked at."""
    peaks = {"Rss": 0, "Pss": 0}
    ended = threading.Event()
    began = time.monotonic()
    with subprocess.Popen(argv, env={**os.environ, **env}, cwd=PROJECT, stdin=subprocess.DEVNULL) as running:

        def look() -> None:
            while not ended.wait(_EVERY):
                for kind, size in _memory(running.pid).items():
                    peaks[kind] = max(peaks[kind], size)

        watcher = threading.Thread(target=look)
        watcher.start()
        code = running.wait()
        seconds = time.monotonic() - began
        ended.set()
        watcher.join()
    assert code == 0, f"{argv[:4]} ended with {code}"
    return Run(seconds, peaks["Rss"] / 1000, peaks["Pss"] / 1000)


def _memory(root: int) -> dict[str, int]:
    """kB of a process and all below it."""
    found = {"Rss": 0, "Pss": 0}
    todo = [(root, b"")]
    while todo:
        pid, parent = todo.pop()
        line = b""
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += [(int(child), line) for child in (task / "children").read_text().split()]
        if line == parent:
            # Between vfork and exec: what it holds is its parent's, which is counted already.
            continue
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            for kind in found:
                if match := re.search(rf"^{kind}:\s+(\d+)", text, re.MULTILINE):
                    found[kind] += int(match[1])
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
