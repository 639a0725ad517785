"""Several clusters at once, each with a Clusterfile of its own: one process of slipway for each, so that none can stop another."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import process, untrusted
from harness.clusterfile import Clusterfile
from harness.errors import Fault, FaultCollector, InputError, SlipwayError
from harness.lifecycle.cluster import request

AT_ONCE = 8
"""Clusters that are worked on at the same time: each needs a process and connections to its machines."""
_LAST_LINES = 200


@dataclasses.dataclass(frozen=True)
class SiteCluster:
    """A Clusterfile and the cluster that it describes."""

    file: str
    cluster: str


@dataclasses.dataclass(frozen=True)
class SiteResult:
    """The outcome of a command for one site. ``answer`` is what it printed, None when it failed; ``error`` says why."""

    file: str
    cluster: str
    code: int
    seconds: float
    answer: Any = None
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.code == 0


Take = Callable[[SiteCluster, str], object]
"""Is given each line of progress of a site."""


def read(files: Sequence[str]) -> tuple[SiteCluster, ...]:
    """Read the Clusterfiles. Raises InputError with the faults of all of them, and for two that describe the same cluster."""
    collector, sites = FaultCollector(), list[SiteCluster]()
    for file in files:
        with collector.of(file):
            name = _cluster(request.read(file, {}), file)
            twin = next((site.file for site in sites if site.cluster == name), None)
            if twin is not None:
                collector.add(Fault(file, f"describes the cluster {name}, as {twin} does", "give each cluster its own metadata.name"))
            sites.append(SiteCluster(file, name))
    collector.finish()
    return tuple(sites)


def _cluster(clusterfile: Clusterfile, file: str) -> str:
    if clusterfile.cluster is None:
        raise InputError([Fault(file, "has no document of kind Cluster", "each site has one")])
    return clusterfile.cluster.name


def each(
    sites: Sequence[SiteCluster], words: Callable[[SiteCluster], Sequence[str]], take: Take, *, env: Mapping[str, str] | None = None
) -> tuple[SiteResult, ...]:
    """Run a command of slipway for each site, eight at a time; a failure of one stops no other. ``words`` are without ``--output``.

    An interrupt ends all of them: each is finished by the same command.
    """
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE, thread_name_prefix="site") as pool:
        futures = [pool.submit(_run, site, words(site), take, env, stop) for site in sites]
        try:
            return process.results(futures)
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _run(site: SiteCluster, words: Sequence[str], take: Take, env: Mapping[str, str] | None, stop: threading.Event) -> SiteResult:
    started, output, progress = time.monotonic(), list[str](), deque[str](maxlen=_LAST_LINES)

    def hand_on(stream: str, line: str) -> None:
        if stream == "stdout":
            output.append(line)
            return
        progress.append(line)
        if not line.startswith('{"error"'):
            take(site, line)

    argv = [sys.executable, "-m", "harness.cli", *words, "--output", "json"]
    code = process.stream(argv, hand_on, env=env, stop=stop)
    seconds = time.monotonic() - started
    if code != 0:
        return SiteResult(site.file, site.cluster, code, seconds, error=_reason(progress))
    answer = untrusted.json_document("\n".join(output), what=f"the answer for {site.file}", error=SlipwayError)
    return SiteResult(site.file, site.cluster, code, seconds, answer)


def _reason(lines: Sequence[str]) -> str:
    """The message of an error as JSON, which is the last line of a command that failed, with its first fault."""
    for line in reversed(lines):
        try:
            error = json.loads(line)["error"]
            faults = error.get("faults") or ()
            first = f": {faults[0]['where']}: {faults[0]['message']}" if faults else ""
            return f"{error['message']}{first}"
        except (ValueError, LookupError, TypeError, AttributeError):
            continue
    return lines[-1] if lines else "no reason is given"


# ---- differences ------------------------------------------------------------------------------------------------------


def facts(status: Mapping[str, Any], apps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The facts that are compared between sites, of the answers of ``slipway status`` and ``slipway apps list``."""
    nodes = status.get("nodes") or ()
    workers = sum("control-plane" not in node["roles"] for node in nodes)
    found = {
        "Kubernetes": str(status.get("kubernetes") or "does not answer"),
        "image": f"{status.get('image') or '-'} {str(status.get('digest') or '')[7:19]}".strip(),
        "control-plane nodes": str(len(nodes) - workers),
        "workers": str(workers),
    }
    for app in apps:
        found[f"application {app['name']}"] = f"{app['image']} {str(app['digest'])[7:19]}"
    return found


def between(sites: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """The facts that are not the same at all sites: by fact, the value of each site, ``-`` for none."""
    names = list(dict.fromkeys(name for known in sites.values() for name in known))
    compared = {name: {site: known.get(name, "-") for site, known in sites.items()} for name in names}
    return {name: values for name, values in compared.items() if len(set(values.values())) > 1}
