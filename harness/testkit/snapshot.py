"""A cluster as the report of a run shows it: machines, images that ran with their digests, logs. Read before the cluster is removed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import cloudimage, untrusted
from harness.errors import SlipwayError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.kube import readiness
from harness.log import timings
from harness.nodes import Machine, Node, each
from harness.nodes.ssh import SshConnections
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.report import text
from harness.report.model import BootStep, ReportedCluster, ReportedMachine, RunningImage, TextBlock

if TYPE_CHECKING:
    from harness.testkit.cluster import Cluster

UNITS = ("kubelet", "containerd")
FAILED_LINES, PASSED_LINES = 400, 30
"""Lines of each log after a failed test, and when all have passed."""
_LOG = 64 << 10
"""Characters of one log."""
_FIELD = 200
"""Characters of a name or a version that a machine reports."""
_MOST_IMAGES = 300
_SUFFIX = " steps"


def take(cluster: Cluster, spans: Iterable[timings.KeptSpan], *, failed: bool) -> ReportedCluster:
    """Read a running cluster. Never raises SlipwayError: what cannot be read is named in ``missing``."""
    missing: list[str] = []
    lines = FAILED_LINES if failed else PASSED_LINES
    machines: tuple[ReportedMachine, ...] = tuple(_plain_machines(cluster))
    images: tuple[RunningImage, ...] = ()
    logs: list[TextBlock] = []
    with _noted("nodes", missing):
        machines = tuple(_machines(machines, readiness.get(cluster.kubectl, "nodes")))
    origins: dict[str, str] = {}
    with _noted("the image in the store", missing):
        origins = _origins(cluster.digest)
    with _noted("pods", missing):
        images = tuple(_images(readiness.get(cluster.kubectl, "pods"), origins))
    with _noted("events", missing):
        logs.append(_events(readiness.get(cluster.kubectl, "events"), lines))
    logs += _journals(cluster.machines, lines, missing)
    return ReportedCluster(
        name=cluster.name,
        image=cluster.image,
        digest=cluster.digest,
        kubernetes=next((machine.kubernetes for machine in machines if machine.kubernetes), ""),
        given=cluster.group is None,
        embedded=cluster.embedded,
        boot_seconds=round(cluster.boot_seconds, 1),
        machines=machines,
        steps=tuple(steps(spans, {machine.address: machine.name for machine in machines})),
        images=images[:_MOST_IMAGES],
        logs=tuple(logs),
        missing=tuple(missing),
    )


def of_failed_boot(
    name: str, image: str, control_plane: Sequence[Machine], workers: Sequence[Machine], spans: Iterable[timings.KeptSpan]
) -> ReportedCluster:
    """Read the machines of a cluster that did not start: their journals. Never raises SlipwayError."""
    missing: list[str] = []
    machines: list[ReportedMachine] = []
    logs: list[TextBlock] = []
    with _noted("machines", missing), SshConnections(ClusterState.of(name).folder, (*control_plane, *workers)) as ssh:
        nodes, errors = ssh.reachable()
        missing += [text.clean(error.message, _FIELD) for error in errors.values()]
        first = {machine.address for machine in control_plane}
        machines = [ReportedMachine(node.name, node.address, "control-plane" if node.address in first else "worker") for node in nodes]
        logs = _journals(nodes, FAILED_LINES, missing)
    kept = tuple(steps(spans, {machine.address: machine.name for machine in machines}))
    return ReportedCluster(name, image, machines=tuple(machines), steps=kept, logs=tuple(logs), missing=tuple(missing))


def steps(spans: Iterable[timings.KeptSpan], names: Mapping[str, str]) -> Iterator[BootStep]:
    """The steps among the spans of a timeline, from its first one on. ``names`` are of machines, by address."""
    kept = [span for span in spans if span.kind == timings.STEP]
    begin = min((span.started for span in kept), default=0.0)
    for span in kept:
        where = span.lane.removesuffix(_SUFFIX) if span.lane.endswith(_SUFFIX) else ""
        started, seconds = round(span.started - begin, 3), round(span.seconds, 3)
        yield BootStep(text.clean(span.title, _FIELD), names.get(where, where), started, seconds, span.failed)


@contextlib.contextmanager
def _noted(what: str, missing: list[str]) -> Iterator[None]:
    """Name what the block cannot read. Objects of an API that lies may lack any field."""
    try:
        yield
    except SlipwayError as error:
        missing.append(text.clean(f"{what}: {error.message}", 2 * _FIELD))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        missing.append(text.clean(f"{what}: not as Kubernetes answers: {error!r}", 2 * _FIELD))


# ---- machines and images --------------------------------------------------------------------------------------------


def _plain_machines(cluster: Cluster) -> Iterator[ReportedMachine]:
    """The machines as they are known without the API."""
    count = len(cluster.control_plane)
    for index, machine in enumerate(cluster.machines):
        yield ReportedMachine(machine.name, machine.address, "control-plane" if index < count else "worker")


def _machines(machines: Sequence[ReportedMachine], nodes: Sequence[readiness.Resource]) -> Iterator[ReportedMachine]:
    """The machines with what their kubelets report of them, by their addresses."""
    info: dict[str, Mapping[str, Any]] = {}
    for node in nodes:
        for address in node["status"].get("addresses") or ():
            info[str(address.get("address"))] = node["status"].get("nodeInfo") or {}
    for machine in machines:
        facts = info.get(machine.address) or info.get(machine.name) or {}
        names = ("architecture", "osImage", "kernelVersion", "kubeletVersion", "containerRuntimeVersion")
        yield ReportedMachine(
            machine.name, machine.address, machine.role, *(text.clean(str(facts.get(name) or ""), _FIELD) for name in names)
        )


def _images(pods: Sequence[readiness.Resource], origins: Mapping[str, str]) -> Iterator[RunningImage]:
    """The images of containers that run or have run, by name. ``origins`` are words by digest."""
    found: dict[tuple[str, str], list[str]] = {}
    for pod in pods:
        place = f"{pod['metadata'].get('namespace')}/{pod['metadata']['name']}"
        status = pod.get("status") or {}
        names = {
            each["name"]: each.get("image")
            for group in ("initContainers", "containers")
            for each in (pod.get("spec") or {}).get(group) or ()
        }
        for group in ("initContainerStatuses", "containerStatuses"):
            for container in status.get(group) or ():
                digest = str(container.get("imageID") or "").rpartition("@")[2]
                if digest:
                    key = (text.clean(str(names.get(container["name"]) or container.get("image")), 2 * _FIELD), text.clean(digest, _FIELD))
                    found.setdefault(key, []).append(text.clean(place, 2 * _FIELD))
    for (name, digest), places in sorted(found.items()):
        yield RunningImage(name, digest, tuple(dict.fromkeys(places)), origins.get(digest, ""))


def _origins(digest: str) -> dict[str, str]:
    """``embedded`` or ``built`` by the digests of the container images that a CloudImage brings: of the name, and of its manifests."""
    store = Store.default()
    image = cloudimage.read(store, digest)
    origins: dict[str, str] = {}
    for embedded in image.platform(Platform.host()).images.images:
        word = "built" if embedded.built else "embedded"
        origins[embedded.digest] = word
        # Of an index containerd reports the index or the manifest of its platform, depending on how it was asked for.
        value = untrusted.json_object(store.read(embedded.digest), what=embedded.name)
        manifests = value.get("manifests")
        parts = [value]
        for entry in manifests if isinstance(manifests, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("digest"), str):
                origins.setdefault(entry["digest"], word)
                if store.has(entry["digest"]):
                    parts.append(untrusted.json_object(store.read(entry["digest"]), what=embedded.name))
        # Of an image that was imported it reports the config.
        configs = (part.get("config") for part in parts)
        origins |= {str(config["digest"]): word for config in configs if isinstance(config, dict) and "digest" in config}
    return origins


# ---- logs -------------------------------------------------------------------------------------------------------------


def _events(events: Sequence[readiness.Resource], lines: int) -> TextBlock:
    """The last events of a cluster, one a line."""
    return text.last_lines("events of the cluster", "\n".join(readiness.event_lines(events)), lines, _LOG)


def _journals(nodes: Sequence[Node], lines: int, missing: list[str]) -> list[TextBlock]:
    """The end of the journal of each unit on each node."""

    def ask(node: Node) -> list[tuple[str, str]]:
        return [(unit, node.run(_question(unit, lines), check=False, timeout=60).stdout) for unit in UNITS]

    blocks = []
    for node, answer in zip(nodes, _answers(nodes, ask), strict=True):
        if isinstance(answer, str):
            missing.append(text.clean(f"logs of {node.name}: {answer}", 2 * _FIELD))
            continue
        blocks += [_journal(node, unit, output, lines) for unit, output in answer]
    return blocks


def _question(unit: str, lines: int) -> str:
    # One line more shows that there are earlier ones.
    return f"journalctl --no-pager --output=short-iso --unit={unit} --lines={lines} 2>&1 | tail -c {4 * _LOG}"


def _journal(node: Node, unit: str, output: str, lines: int) -> TextBlock:
    return text.last_lines(f"{unit} on {node.name}", output, lines, _LOG)


def _answers(nodes: Sequence[Node], ask: Callable[[Node], list[tuple[str, str]]]) -> list[list[tuple[str, str]] | str]:
    """The answers of nodes; the reason for one that does not answer."""

    def answer(node: Node) -> list[tuple[str, str]] | str:
        try:
            return ask(node)
        except SlipwayError as error:
            return error.message

    return each(nodes, answer)
