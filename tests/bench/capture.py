"""Cold pull of 1 GiB in 8 layers through the capture proxy, beside distribution 3 as pull-through cache of the same upstream.

Both are measured in one run by the same client, which throws the bytes away as fast as they come; the upstream is a
registry on loopback whose data is in the page cache. Rounds alternate and begin with an empty store; medians count.
"""

from __future__ import annotations

import contextlib
import http.client
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
import urllib.parse
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import urllib3

from harness.build.capture import Proxy
from harness.oci.model import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, canonical_json, digest_of
from harness.oci.registry import config as registry_config
from harness.oci.registry.client import Client
from harness.oci.registry.credentials import CredentialStore
from harness.oci.registry.guarded import GuardedSource, Permits
from harness.oci.store import Store
from harness.trust.policy import Gate
from tests.integration import gotool
from tests.integration.registry import Registry, registry
from tests.waiting import HANG

LAYERS = 8
LAYER_SIZE = 128 << 20
CONNECTIONS = 4
"""What container runtimes open at once: containerd and Docker 3, skopeo 6."""
ROUNDS = 3
REPOSITORY = "bench/image"
SMOKE = {"layers": 2, "layer_size": 1 << 20, "rounds": 1}
PROJECT = Path(__file__).parents[2]


def measure(*, layers: int = LAYERS, layer_size: int = LAYER_SIZE, rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds for the whole image, and the proxy's peak memory in MB beside it."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as scratch:
        work = Path(scratch)
        ours: list[float] = []
        peer: list[float] = []
        memory: list[float] = []
        program = gotool.distribution()
        with registry(work / "upstream", program=program) as upstream:
            digests = _push(upstream, layers, layer_size)
            _pull(upstream.host, REPOSITORY, digests)  # the page cache is warm for both
            for number in range(rounds):
                with _proxy(work / f"proxy{number}", upstream) as (host, pid):
                    ours.append(_timed_pull(host, f"upstream.test/{REPOSITORY}", digests))
                    _check(host, f"upstream.test/{REPOSITORY}", digests)
                    memory.append(_peak_memory(pid))
                with registry(work / f"peer{number}", proxy=upstream.url, program=program) as cache:
                    peer.append(_timed_pull(cache.host, REPOSITORY, digests))
                    _check(cache.host, REPOSITORY, digests)
                for name in ("proxy", "peer"):
                    shutil.rmtree(work / f"{name}{number}")
    mine, theirs = statistics.median(ours), statistics.median(peer)
    return {
        "name": "capture",
        "ours": round(mine, 3),
        "peer": round(theirs, 3),
        "peer_name": "distribution 3 as pull-through cache",
        "ratio": round(mine / theirs, 3),
        "unit": "s",
        "peak_memory_mb": round(max(memory), 1),
        "rounds": {"ours": [round(value, 3) for value in ours], "peer": [round(value, 3) for value in peer]},
    }


def _push(upstream: Registry, layers: int, layer_size: int) -> list[str]:
    """Push an image of random layers; the digests of its blobs."""
    source = random.Random("bench")
    config = canonical_json({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
    descriptors = [_push_blob(upstream, OCI_CONFIG, config)]
    for _ in range(layers):
        data = b"".join(source.randbytes(1 << 20) for _ in range(layer_size >> 20))
        descriptors.append(_push_blob(upstream, OCI_LAYER_GZIP, data))
    manifest = canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptors[0], "layers": descriptors[1:]})
    url = f"{upstream.url}/v2/{REPOSITORY}/manifests/1"
    answer = urllib3.request("PUT", url, body=manifest, headers={"Content-Type": OCI_MANIFEST})
    assert answer.status == 201, answer.data
    return [str(descriptor["digest"]) for descriptor in descriptors]


def _push_blob(upstream: Registry, media_type: str, data: bytes) -> dict[str, Any]:
    digest = digest_of(data)
    started = urllib3.request("POST", f"{upstream.url}/v2/{REPOSITORY}/blobs/uploads/")
    location = urllib.parse.urljoin(upstream.url, started.headers["Location"])
    answer = urllib3.request("PUT", f"{location}&digest={digest}", body=data, headers={"Content-Type": "application/octet-stream"})
    assert answer.status == 201, answer.data
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


@contextlib.contextmanager
def _proxy(folder: Path, upstream: Registry) -> Iterator[tuple[str, int]]:
    """The capture proxy in a process of its own: its memory is its own then. Host and process id."""
    folder.mkdir()
    (folder / "registries.conf").write_text(f'[[registry]]\nprefix = "upstream.test"\nlocation = "{upstream.host}"\ninsecure = true\n')
    argv = [sys.executable, "-m", "tests.bench.capture", "serve", str(folder)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT) as process:
        assert process.stdout
        assert process.stdin
        yield process.stdout.readline().decode().strip(), process.pid
        process.stdin.close()  # which ends it
        process.wait(HANG)


def _serve(folder: Path) -> None:
    rules = registry_config.load(folder / "registries.conf")
    with (
        Client(rules, CredentialStore(folder)) as client,
        Proxy([GuardedSource(client, client, Permits(["*"]), Gate().admit_remote)], Store(folder / "store"), secret="") as proxy,
    ):
        sys.stdout.write(f"127.0.0.1:{proxy.port}\n")
        sys.stdout.flush()
        sys.stdin.read()


def _timed_pull(host: str, repository: str, digests: Sequence[str]) -> float:
    """Seconds, in a client process of its own that does nothing else; what earlier rounds left for the disk is written first."""
    os.sync()
    argv = [sys.executable, "-m", "tests.bench.capture", "pull", host, repository, *digests]
    return float(subprocess.run(argv, check=True, capture_output=True, text=True, cwd=PROJECT).stdout)


def _pull(host: str, repository: str, digests: Sequence[str]) -> float:
    """Pull an image as a runtime does: manifest by tag, then all blobs over a few connections. Seconds."""
    started = time.monotonic()
    _read(host, f"/v2/{repository}/manifests/1")
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda digest: _read(host, f"/v2/{repository}/blobs/{digest}"), digests))
    return time.monotonic() - started


def _check(host: str, repository: str, digests: Sequence[str]) -> None:
    """What is served has its digest, or the times say nothing."""
    for digest in digests:
        answer = urllib3.request("GET", f"http://{host}/v2/{repository}/blobs/{digest}")
        assert digest_of(answer.data) == digest, f"{host} serves something else as {digest}"


def _read(host: str, path: str) -> None:
    connection = http.client.HTTPConnection(host, timeout=HANG)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Accept": OCI_MANIFEST})
        answer = connection.getresponse()
        assert answer.status == 200, (path, answer.status)
        expected = int(answer.headers["Content-Length"])
        buffer = bytearray(1 << 20)
        got = 0
        while count := answer.readinto(buffer):
            got += count
        assert got == expected, f"{path}: {got} of {expected} bytes"


def _peak_memory(pid: int) -> float:
    """MB that the process held at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1000


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", folder]:
            _serve(Path(folder))
        case ["pull", host, repository, *digests]:
            sys.stdout.write(str(_pull(host, repository, digests)))
        case _:
            sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
