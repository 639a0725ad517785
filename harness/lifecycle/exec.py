"""``slipway exec``: one command on many machines at once, each line with the name of its machine in front."""

from __future__ import annotations

import dataclasses
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import process
from harness.clusterfile import CONTROL_PLANE, ROLES, WORKER
from harness.errors import CommandError, NodeError, SlipwayError, UsageError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, record
from harness.lifecycle.cluster.access import Known
from harness.lifecycle.kube import objects
from harness.nodes import Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode

JOBS = 16
"""Machines at a time: each costs an ssh process of some megabytes, and a login some milliseconds of processor at both ends."""

_MANY = 32
"""From so many machines on, what a login costs is felt."""

_ROLE_LABEL = "node-role.kubernetes.io/"

Show = Callable[[str, str, str], None]
"""Called for each line, never twice at once: the machine's name, ``stdout`` or ``stderr``, the line."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a command on one machine."""

    name: str
    address: str
    role: str
    code: int | None
    """The command's exit code; None when the machine could not be reached."""
    seconds: float
    stdout: tuple[str, ...] = ()
    stderr: tuple[str, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {"name": self.name, "address": self.address, "role": self.role, "exitCode": self.code}
        document |= {"stdout": "\n".join(self.stdout), "stderr": "\n".join(self.stderr), "seconds": round(self.seconds, 3)}
        return {**document, "error": self.error}


@dataclasses.dataclass(frozen=True)
class ExecTarget:
    """A machine on which the command will run."""

    node: SshNode
    name: str
    role: str


def shell_text(words: Sequence[str]) -> str:
    """One word is shell text, as for ssh; several are a program and its arguments. Raises UsageError when there are none."""
    if not words or not "".join(words).strip():
        raise UsageError("no command is given", hint="slipway exec -- uptime, or with shell text: slipway exec -- 'df -h | tail -1'")
    return words[0] if len(words) == 1 else shlex.join(words)


def execute(
    command: str,
    *,
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    role: str | None = None,
    on: Sequence[str] = (),
    jobs: int = JOBS,
    show: Show | None = None,
    home: Path | None = None,
) -> tuple[Outcome, ...]:
    """Run shell text as root on the machines of a cluster, ``jobs`` at a time; the outcomes in the order of the machines.

    ``role`` and ``on`` (addresses or names) choose among them. With ``show`` lines are handed on as they come, and not kept.
    Raises UsageError when that leaves nobody.
    """
    if jobs < 1:
        raise UsageError(f"--jobs {jobs}: at least one machine at a time")
    known_cluster = access.known(name, control_plane, workers, home=home)
    # The configuration is of all machines, also when few are asked: other commands on the cluster read it too.
    ssh = SshConnections(known_cluster.state.folder, (*known_cluster.control_plane, *known_cluster.workers))
    ssh.prepare()
    chosen = select(targets(known_cluster, ssh), on, role, lambda: _labelled(ssh, known_cluster, role or ""))
    if len(chosen) > _MANY:
        ssh.hasten()
    return on_each(chosen, command, jobs, show)


def targets(known_cluster: Known, ssh: SshConnections) -> tuple[ExecTarget, ...]:
    """All machines with their names, as far as those are remembered here."""
    facts = known_cluster.state.read()
    names = {entry["address"]: entry.get("name") for kind in ("controlPlane", "workers") for entry in facts.get(kind) or ()}
    count = len(known_cluster.control_plane)
    return tuple(
        ExecTarget(node, str(names.get(node.address) or node.address), CONTROL_PLANE if index < count else WORKER)
        for index, node in enumerate(ssh.nodes)
    )


def select(
    all_targets: Sequence[ExecTarget], on: Sequence[str], role: str | None, labelled: Callable[[], frozenset[str]]
) -> tuple[ExecTarget, ...]:
    """The machines that are asked for; ``labelled`` gives the addresses of a role that only the cluster knows."""
    chosen = list(all_targets)
    if on:
        words = {target: {target.name, target.node.address, target.node.machine.target} for target in chosen}
        absent = [word for word in on if not any(word in own for own in words.values())]
        if absent:
            listed = ", ".join(target.node.address for target in all_targets[:8])
            raise UsageError(f"{', '.join(absent)}: no machine of this cluster", hint=f"it has {listed}")
        chosen = [target for target in chosen if words[target] & set(on)]
    if role is not None:
        role = ROLES.get(role, role)
        if role in (CONTROL_PLANE, WORKER):
            chosen = [target for target in chosen if target.role == role]
        else:
            addresses = labelled()
            chosen = [target for target in chosen if target.node.address in addresses]
    if not chosen:
        raise UsageError(f"no machine has the role {role}" if role else "the cluster has no machine", hint="slipway status shows the roles")
    return tuple(chosen)


def _labelled(ssh: SshConnections, known_cluster: Known, role: str) -> frozenset[str]:
    """The addresses of the nodes with a role, by their labels and by the Clusterfile that the cluster keeps."""
    failure: SlipwayError | None = None
    for node in ssh.nodes[: len(known_cluster.control_plane)]:
        kubectl = NodeKubectl(node)
        try:
            listed = objects.objects(kubectl.run("get", "nodes", "--output=json"), where=kubectl.where)
            return frozenset(addresses_with(listed, role)) | _recorded(kubectl, role)
        except SlipwayError as error:
            failure = error
    raise failure or NodeError(f"only a control-plane node knows which nodes have the role {role}", hint="name one with --via")


def addresses_with(nodes: Iterable[Mapping[str, Any]], role: str) -> Iterable[str]:
    """The internal addresses of the nodes whose labels give them a role."""
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        if f"{_ROLE_LABEL}{role}" in labels or labels.get("kubernetes.io/role") == role:
            yield from objects.internal_addresses(node)


def _recorded(kubectl: NodeKubectl, role: str) -> frozenset[str]:
    try:
        return record.read(kubectl).addresses(role)
    except SlipwayError:
        return frozenset()


def on_each(chosen: Sequence[ExecTarget], command: str, jobs: int = JOBS, show: Show | None = None) -> tuple[Outcome, ...]:
    """Run shell text on machines, ``jobs`` at a time."""
    lock, stop = threading.Lock(), threading.Event()

    def shown(name: str, stream: str, line: str) -> None:
        if show is not None:
            with lock:
                show(name, stream, line)

    take = shown if show else None
    return process.parallel(lambda target: _one(target, command, take, stop), chosen, min(jobs, len(chosen)), stop.set)


def _one(target: ExecTarget, command: str, show: Show | None, stop: threading.Event) -> Outcome:
    kept: dict[str, list[str]] = {"stdout": [], "stderr": []}

    remaining = process.OUTPUT_LIMIT

    def take(stream: str, line: str) -> None:
        nonlocal remaining
        if show is None:
            remaining -= len(line) + 1
            if remaining < 0:
                raise NodeError(
                    f"{target.name}: ended, since it printed more than {process.OUTPUT_LIMIT >> 20} MiB",
                    hint="without -o json lines are shown as they come, and not kept",
                )
            kept[stream].append(line)
        else:
            show(target.name, stream, line)

    began = time.monotonic()
    code: int | None = None
    error: str | None = None
    try:
        code = target.node.stream(command, take, stop=stop)
    except NodeError as failure:
        error = failure.message
    lines = {stream: tuple(stream_lines) for stream, stream_lines in kept.items()}
    return Outcome(target.name, target.node.address, target.role, code, time.monotonic() - began, lines["stdout"], lines["stderr"], error)


def judge(outcomes: Sequence[Outcome]) -> None:
    """Raises NodeError when machines could not be reached, else CommandError when the command failed on some; both with a summary."""
    lost = [outcome for outcome in outcomes if outcome.code is None]
    failed = [outcome for outcome in outcomes if outcome.code]
    if not lost and not failed:
        return
    parts = [f"failed on {len(failed)}"] if failed else []
    parts += [f"did not reach {len(lost)}"] if lost else []
    lines = [f"{outcome.name}: exit code {outcome.code}" for outcome in failed]
    lines += [outcome.error or f"{outcome.name}: not reached" for outcome in lost]
    kind = NodeError if lost else CommandError
    raise kind(f"the command {' and '.join(parts)} of {len(outcomes)} machines", details="\n".join(lines))
