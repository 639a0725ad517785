"""``slipway logs``: one file with all that somebody needs who is to find out what is wrong with a cluster, and no secret.

Layout: ``index.json`` says what is there, what was cut and what could not be had; ``status.json``; ``cluster/`` is what the API tells:
objects, events, versions; ``nodes/ADDRESS/`` what each machine tells: journals, disks, memory, addresses, facts, and below ``pods/`` the
logs of kube-system and of pods that are not ready, as they lie on the machine, so that they are there also when the API is not.

No machine decides where a file is written here: folders are named by the address that the user or the cluster's record gave, and paths
that a machine prints are taken only as paths below its own folder.
"""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import json
import re
import shlex
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import log, untrusted
from harness.errors import Fault, InputError, NodeError, SlipwayError, UsageError
from harness.host import cluster_cache, durable
from harness.lifecycle import status as lifecycle_status
from harness.lifecycle.checks.preflight import gather
from harness.lifecycle.cluster import access, redaction
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.kube import readiness
from harness.lifecycle.plan import JOURNAL
from harness.nodes import Machine, Node, each
from harness.nodes.files import STATE, add
from harness.runtimes import ROOTFS

MOST = 2 << 20
"""Bytes of one file in the bundle; of longer ones the end is kept, which tells more."""
_UNITS = ("kubelet", "containerd", "slipway-registry", "slipway-balancer")
_LONGEST = datetime.timedelta(days=3660)
_WAIT = 60
"""Seconds for one question to one machine."""
_MOST_LOGS = 1000
"""Logs of pods that are taken from one machine."""
_PODS = "/var/log/pods/"

# Everything by what every machine has; what is missing says so in its own file.
_QUESTIONS: Mapping[str, str] = {
    "versions.txt": f'uname -a; cat /etc/os-release; for name in kubelet kubeadm containerd runc; do echo "$name:"; '
    f"{ROOTFS}/bin/$name --version 2>&1 || {ROOTFS}/bin/$name version -o short 2>&1; done; uptime; date -u",
    "disk.txt": "df -h; echo; df -i",
    "memory.txt": "free -m 2>/dev/null || cat /proc/meminfo; echo; cat /proc/loadavg; cat /proc/pressure/* 2>/dev/null",
    "addresses.txt": "ip addr; echo; ip route; echo; cat /etc/hosts; echo; cat /etc/resolv.conf; echo; "
    f"{ROOTFS}/bin/ipvsadm -L -n 2>/dev/null; cat /run/slipway-balancer/servers 2>/dev/null",
    "units.txt": f"systemctl --no-pager --failed; systemctl --no-pager status {' '.join(_UNITS)} 2>&1",
    "containers.txt": f"{ROOTFS}/bin/ctr -n k8s.io tasks ls; echo; {ROOTFS}/bin/ctr -n k8s.io containers ls; echo; "
    f"{ROOTFS}/bin/ctr -n k8s.io images ls -q",
    "processes.txt": "ps -eo pid,ppid,etimes,rss,stat,comm --sort=-rss | head -n 100",
    "kernel.txt": "dmesg --time-format iso 2>/dev/null | tail -n 500 || dmesg | tail -n 500",
    "steps.txt": f"cat {JOURNAL}",
    "manifests.txt": f"ls -l /etc/kubernetes /etc/kubernetes/manifests /etc/kubernetes/pki {STATE} 2>&1",
}

_OBJECTS: Mapping[str, str] = {
    "nodes": "nodes",
    "workloads": "deployments,statefulsets,daemonsets,replicasets,jobs,cronjobs",
    "pods": "pods",
    "services": "services,endpoints,ingresses",
    "storage": "persistentvolumeclaims,persistentvolumes,storageclasses",
}


@dataclasses.dataclass(frozen=True)
class Bundled:
    """The outcome of a collection of logs."""

    name: str
    file: Path
    size: int
    files: int
    unreachable: Mapping[str, str]
    """The reason by address."""
    missing: Mapping[str, str]
    """The reason for each part that is missing, by the path that it would have had."""


def since_of(text: str) -> datetime.timedelta:
    """``90s``, ``30m``, ``1h``, ``2d``. Raises InputError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})\s*([smhd])", text.strip())
    span = datetime.timedelta(**{{"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]: int(match[1])}) if match else None
    if not span or span > _LONGEST:
        raise InputError([Fault(f"--since {text}", "is no length of time up to ten years", "write it as 90s, 30m, 1h or 2d")])
    return span


def bundle(
    file: Path,
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    since: datetime.timedelta | None = None,
    home: Path | None = None,
) -> Bundled:
    """Gather everything of a cluster into ``file``, a tar compressed with gzip. What cannot be had is told in it and in the answer.

    Raises UsageError when the cluster is not known or the file cannot be written, NodeError when no machine at all answers.
    """
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file.parent}: no such folder")
    known_cluster = access.known(name, control_plane, workers, home=home)
    with access.opened(known_cluster) as cluster, tempfile.TemporaryDirectory(prefix="slipway-logs-") as scratch:
        reached = (*cluster.control_plane, *cluster.workers)
        if not reached:
            raise NodeError("\n".join(error.message for error in cluster.unreachable.values()), hint="no machine of the cluster answers")
        bundle_files = BundleFiles(Path(scratch))
        with log.step("ask the API"):
            waiting = _ask_api(cluster, bundle_files)
        with log.step(f"ask {len(reached)} machines"):
            each(reached, lambda node: _ask_node(node, bundle_files, since, waiting))
        bundle_files.names = {node.address: node.name for node in reached}
        unreachable = {address: error.message for address, error in cluster.unreachable.items()}
        index = bundle_files.index(name, since, unreachable)
        _pack(Path(scratch), index, file)
    return Bundled(name, file, file.stat().st_size, len(index["files"]) + 1, unreachable, dict(sorted(bundle_files.missing.items())))


class BundleFiles:
    """Files of the bundle while it is gathered; safe in threads. Secrets are taken out on the way in."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self.folder = folder
        self.most = most
        self.names: dict[str, str] = {}
        """Of machines, by address."""
        self.missing: dict[str, str] = {}
        self.cut: dict[str, int] = {}
        self._lock = threading.Lock()

    def put(self, path: str, text: str) -> None:
        """A file; of one that is too long the end is kept, from the beginning of a line."""
        clean = redaction.text(text)
        data = clean.encode(errors="replace")
        if len(data) > self.most:
            kept = data[-self.most :]
            kept = kept[kept.find(b"\n") + 1 :]
            with self._lock:
                self.cut[path] = len(data) - len(kept)
            data = kept
        self._write(path, data)

    def put_json(self, path: str, value: Any) -> None:
        """Plain data, never cut: half of it could not be read."""
        self._write(path, (json.dumps(redaction.resource(value), indent=1, sort_keys=True) + "\n").encode())

    def _write(self, path: str, data: bytes) -> None:
        """A new file below the folder. Raises NodeError for a path that is not one, or that is taken."""
        try:
            with untrusted.UntrustedTree(self.folder, what="a file of the bundle", error=NodeError).create(path) as file:
                file.write(data)
        except OSError as wrong:
            raise NodeError(f"{untrusted.shown(path)}: {wrong.strerror or wrong}") from wrong

    def attempt(self, path: str, action: Callable[[], None]) -> None:
        """Whatever goes wrong is told in the index, and the rest is gathered all the same."""
        try:
            action()
        except SlipwayError as error:
            with self._lock:
                self.missing[untrusted.shown(path)] = redaction.text(" ".join(error.message.split())[:500])

    def index(self, name: str, since: datetime.timedelta | None, unreachable: Mapping[str, str]) -> dict[str, Any]:
        paths = sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())
        files: list[dict[str, Any]] = [{"path": path, "size": (self.folder / path).stat().st_size} for path in paths]
        for entry in files:
            if entry["path"] in self.cut:
                entry["cutAtTheBeginning"] = self.cut[entry["path"]]
        return {
            "cluster": name,
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "sinceSeconds": int(since.total_seconds()) if since else None,
            "nodes": dict(sorted(self.names.items())),
            "files": files,
            "missing": dict(sorted(self.missing.items())),
            "unreachable": dict(sorted(unreachable.items())),
        }


# ---- what the API tells -----------------------------------------------------------------------------------------------


def _ask_api(cluster: Access, bundle_files: BundleFiles) -> tuple[str, ...]:
    """Collect what the API reports; the pods that are not ready, as ``namespace_name``."""
    bundle_files.attempt("status.json", lambda: bundle_files.put_json("status.json", lifecycle_status.gather(cluster)))
    waiting: list[str] = []

    def pods() -> None:
        resources = readiness.get(cluster.kubectl, "pods")
        bundle_files.put_json("cluster/pods.json", list(resources))
        waiting.extend(not_ready(resources))

    def objects(path: str, kinds: str) -> None:
        bundle_files.put_json(path, list(readiness.get(cluster.kubectl, kinds)))

    for title, kinds in _OBJECTS.items():
        path = f"cluster/{title}.json"
        bundle_files.attempt(path, pods if title == "pods" else lambda path=path, kinds=kinds: objects(path, kinds))  # type: ignore[misc]
    for path, words in {
        "cluster/events.txt": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
        "cluster/nodes.txt": ("get", "nodes", "--output=wide"),
        "cluster/pods.txt": ("get", "pods", "--all-namespaces", "--output=wide"),
        "cluster/version.txt": ("version",),
        "cluster/readyz.txt": ("get", "--raw", "/readyz?verbose"),
    }.items():
        bundle_files.attempt(path, lambda path=path, words=words: bundle_files.put(path, cluster.kubectl.run(*words)))  # type: ignore[misc]
    return tuple(waiting)


def not_ready(pods: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The pods that are not ready, as ``namespace_name``."""
    return tuple(f"{pod['metadata']['namespace']}_{pod['metadata']['name']}" for pod in pods if readiness.pod_problem(pod) is not None)


# ---- what a machine tells ---------------------------------------------------------------------------------------------


def _ask_node(node: Node, bundle_files: BundleFiles, since: datetime.timedelta | None, waiting: Sequence[str]) -> None:
    place = _place(node)
    span = f" --since=-{int(since.total_seconds())}s" if since else ""
    questions = dict(_QUESTIONS)
    for unit in _UNITS:
        questions[f"journal-{unit}.log"] = f"journalctl --no-pager -o short-iso{span} -u {unit}"
    for name, command in questions.items():
        path = f"{place}/{name}"
        bundle_files.attempt(path, lambda path=path, command=command: bundle_files.put(path, _tail(node, command)))  # type: ignore[misc]
    facts = f"{place}/facts.json"
    bundle_files.attempt(
        facts, lambda: bundle_files.put_json(facts, json.loads(json.dumps(dataclasses.asdict(gather.ask(node)), default=str)))
    )
    bundle_files.attempt(f"{place}/pods", lambda: _pod_logs(node, bundle_files, since, waiting))


def _place(node: Node) -> str:
    """By its address: the name is what the machine says of itself."""
    return f"nodes/{node.address}"


def _tail(node: Node, command: str) -> str:
    # A little more than is kept: it is cut at a line, and what is taken out makes it shorter.
    return node.run(f"{{ {command}\n}} 2>&1 | tail -c {MOST + (64 << 10)}", check=False, timeout=_WAIT).stdout


def _pod_logs(node: Node, bundle_files: BundleFiles, since: datetime.timedelta | None, waiting: Sequence[str]) -> None:
    patterns = ["/var/log/pods/kube-system_*"] + [f"/var/log/pods/{shlex.quote(pod)}_*" for pod in waiting]
    newer = f"-mmin -{max(1, int(since.total_seconds() // 60) + 1)}" if since else ""
    listed = node.run(f"find {' '.join(patterns)} -name '*.log' -type f {newer} 2>/dev/null || true", timeout=_WAIT).stdout.splitlines()
    paths = sorted(set(listed))
    if len(paths) > _MOST_LOGS:
        bundle_files.attempt(f"{_place(node)}/pods", lambda: _too_many(node, len(paths)))
    for path in paths[:_MOST_LOGS]:
        target = f"{_place(node)}/pods/{path.removeprefix(_PODS)}"
        if not path.startswith(_PODS):
            bundle_files.attempt(target, lambda path=path: _elsewhere(node, path))  # type: ignore[misc]
            continue

        def one(path: str = path, target: str = target) -> None:
            # Before it is asked for: what cannot be kept need not be sent.
            untrusted.relative_path(path.removeprefix(_PODS), what=node.address, error=NodeError)
            text = node.run(f"tail -c {MOST + (64 << 10)} -- {shlex.quote(path)}", check=False, timeout=_WAIT).stdout
            bundle_files.put(target, recent(text, since))

        bundle_files.attempt(target, one)


def _elsewhere(node: Node, path: str) -> None:
    raise NodeError(f"{node.address}: {untrusted.shown(path)!r} is no log of a pod")


def _too_many(node: Node, count: int) -> None:
    raise NodeError(f"{node.address}: of {count} logs of pods the first {_MOST_LOGS} are here")


def recent(text: str, since: datetime.timedelta | None, now: datetime.datetime | None = None) -> str:
    """The lines of a container's log from ``since`` on; their times stand in front. A line without one goes with the one before it."""
    if since is None:
        return text
    begin = (now or datetime.datetime.now(datetime.UTC)) - since
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            when = datetime.datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", line.split(" ", maxsplit=1)[0]))
            if when >= begin:
                return "".join(lines[number:])
        except (ValueError, TypeError):
            continue
    return ""


# ---- one file ---------------------------------------------------------------------------------------------------------


def _pack(folder: Path, index: Mapping[str, Any], file: Path) -> None:
    """Everything in a fixed order, readable by its owner only, in one move."""
    with (
        durable.replacing(file) as target,
        gzip.GzipFile(fileobj=target, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.GNU_FORMAT) as tar,
    ):
        add(tar, "index.json", json.dumps(index, indent=1).encode())
        for entry in index["files"]:
            add(tar, entry["path"], (folder / entry["path"]).read_bytes())
