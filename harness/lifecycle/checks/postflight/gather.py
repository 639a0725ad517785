"""The facts about a running cluster, asked of its API and its nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness import assets, cloudimage, log, untrusted
from harness.errors import SlipwayError
from harness.lifecycle.checks.postflight import pods
from harness.lifecycle.checks.postflight.core import EtcdHealth, Health, NodeAnswer, Unit
from harness.lifecycle.checks.preflight import gather as preflight_gather
from harness.lifecycle.cluster import certificates, change, record
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.cluster.record import ClusterRecord
from harness.lifecycle.kube import etcd, objects, readiness
from harness.lifecycle.kube.drain import names
from harness.lifecycle.provision import node_files, registry
from harness.nodes import Node, each
from harness.nodes.files import STATE
from harness.oci.store import Store
from harness.runtimes import API_PORT, REGISTRY_PORT, ROOTFS, ClusterNetwork


def gather(cluster: Access, store: Store) -> Health:
    """Gather all facts that can be determined. Raises NodeError when no control-plane node answers."""
    cluster.first  # noqa: B018 -- raises
    with log.step("ask the API"):
        health, recorded = _of_api(cluster)
    reached = (*cluster.control_plane, *cluster.workers)
    images = _images(store, health.items, recorded)
    with log.step("ask the machines"):
        own_registry = health.own_registry
        questions: list[Callable[[], dict[str, Any]]] = [
            lambda: {"machines": _by_address(reached, preflight_gather.ask)},
            lambda: {"certificates": _by_address(reached, certificates.certificates_of)},
            lambda: _etcd(cluster.control_plane),
            lambda: {"answers": _answers(reached, own_registry, images)},
        ]
        parts = each(questions, lambda ask: ask())
    for part in parts:
        health = dataclasses.replace(health, **part)
    if health.silent is None:
        with log.step("try connections of pods and Services"):
            health = pods.probed(cluster, health)
    return health


# ---- the API ----------------------------------------------------------------------------------------------------------


def _of_api(cluster: Access) -> tuple[Health, ClusterRecord | None]:
    """Facts of the API, and the record of the cluster if it can be read."""
    roles = {machine.address: "control-plane" for machine in cluster.known.control_plane}
    roles |= {machine.address: "worker" for machine in cluster.known.workers}
    health = Health(
        cluster.known.state.name,
        roles,
        names={node.address: node.name for node in (*cluster.control_plane, *cluster.workers)},
        unreachable={address: error.message for address, error in cluster.unreachable.items()},
    )
    try:
        # Objects that a killed check has left are not the cluster's.
        kinds = f"{readiness.KINDS},networkpolicies.networking.k8s.io"
        items = tuple(item for item in readiness.get(cluster.kubectl, kinds) if pods.LABEL not in (item["metadata"].get("labels") or {}))
        problems = readiness.explain(cluster.kubectl, items, static=False)
        version = objects.version(cluster.kubectl.run("get", "--raw", "/version"), where=cluster.kubectl.where)
    except SlipwayError as error:
        return dataclasses.replace(health, silent=error.message), None
    recorded, move = None, None
    unreadable: dict[str, str] = {}
    try:
        recorded = record.read(cluster.kubectl)
    except SlipwayError as error:
        # Without a record: a run that did not finish, or a cluster of another tool.
        unreadable |= {} if isinstance(error, record.NoRecordError) else {"record": error.message}
    try:
        move = change.unfinished(cluster.kubectl)
    except SlipwayError as error:
        unreadable["change"] = error.message
    health = dataclasses.replace(
        health,
        names={**health.names, **names(readiness.of_kind(items, "Node"))},
        items=items,
        problems=problems,
        version=version,
        record=recorded is not None,
        unreadable=unreadable,
        change=move,
        own_registry=recorded is None or recorded.registry == record.OWN,
        network=_network(cluster),
    )
    return health, recorded


def _network(cluster: Access) -> ClusterNetwork | None:
    """The networks that kubeadm recorded; None when it did not."""
    try:
        text = cluster.kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json")
        where = cluster.kubectl.where
        networking = objects.configuration(objects.config_map(text, where=where), where)["networking"]
        return ClusterNetwork(
            str(networking.get("podSubnet", "100.64.0.0/10")).split(",")[0], str(networking["serviceSubnet"]).split(",")[0]
        )
    except (SlipwayError, LookupError, ValueError, TypeError, AttributeError):
        return None


@dataclasses.dataclass(frozen=True)
class _Images:
    """The images that the registries of a cluster should have."""

    names: tuple[str, ...]
    layout: registry.Layout | None = None
    """All blobs of the image, when it is in the local store."""


def _images(store: Store, items: Sequence[readiness.Resource], recorded: ClusterRecord | None) -> _Images:
    used = {
        str(container["image"])
        for pod in readiness.of_kind(items, "Pod")
        for container in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ()))
    }
    try:
        image = cloudimage.read(store, recorded.digest if recorded else "")
        images = image.platforms[0].images
        layout = registry.layout(store, images) if len(image.platforms) == 1 else None
        return _Images(tuple(sorted(each.name for each in images.images)), layout)
    except SlipwayError:
        # Only names with a registry can be asked for.
        return _Images(tuple(sorted(name for name in used if "/" in name)))


# ---- the machines -----------------------------------------------------------------------------------------------------


def _by_address(nodes: Sequence[Node], ask: Callable[[Any], Any]) -> dict[str, Any]:
    """The answers of nodes by address, without those that fail."""

    def answer(node: Node) -> Any:
        try:
            return ask(node)
        except SlipwayError as error:
            log.debug(f"{node.address}: {error.message}")
            return None

    answers = each(nodes, answer)
    return {node.address: answer for node, answer in zip(nodes, answers, strict=True) if answer is not None}


def _etcd(control_plane: Sequence[Node]) -> dict[str, Any]:
    client = etcd.Etcd(control_plane)
    try:
        members = client.members()
        sick = client.sick(members)
        status = client.status(members)
        health = tuple(
            EtcdHealth(
                member.name or str(member.id),
                sick.get(member.id),
                status[member.id].size if member.id in status else None,
                member.id in status and status[member.id].leads,
                member.learner,
            )
            for member in members
        )
        return {"etcd": health, "alarms": client.alarms()}
    except (SlipwayError, ValueError, LookupError) as error:
        return {"etcd_trouble": error.message if isinstance(error, SlipwayError) else repr(error)}


def _answers(nodes: Sequence[Node], own_registry: bool, images: _Images) -> dict[str, Any]:
    script = assets.script(
        "health",
        api_port=API_PORT,
        images=" ".join(images.names),
        registry_port=REGISTRY_PORT,
        rootfs=ROOTFS,
        state=STATE,
        unsure=node_files.UNSURE,
    )

    def ask(node: Node) -> NodeAnswer:
        answer = parse(node.run(script, check=False, timeout=300).stdout)
        if answer.holds and images.layout is not None and own_registry:
            sizes = registry.held(node)
            lost = tuple(path for path, blob in images.layout.blobs.items() if sizes.get(path) != blob.size)
            answer = dataclasses.replace(answer, lost=lost)
        return answer

    return _by_address(nodes, ask)


def parse(text: str) -> NodeAnswer:
    """Read the output of a node; lines that are not understood are left out."""
    lines = [line.partition(" ") for line in text.splitlines()]
    by_key: dict[str, list[str]] = {}
    for key, _, value in lines:
        by_key.setdefault(key, []).append(value)
    up = (untrusted.decimal(by_key["up"][0]) if by_key.get("up") else None) or 0.0
    images = [value.split(" ", maxsplit=1) for value in by_key.get("image", ())]
    servers = [value.split() for value in by_key.get("server", ())]
    syncs = [tuple(map(untrusted.decimal, words)) for value in by_key.get("sync", ()) if len(words := value.split()) == 2]
    return NodeAnswer(
        units=dict(_units(by_key.get("unit", ()), up)),
        holds="holds" in by_key,
        public="public" in by_key,
        api=by_key["api"][0] if by_key.get("api") else None,
        images={words[0]: words[1] for words in images if len(words) == 2 and words[1]},
        servers={(words[0], words[1]): " ".join(words[2:]) for words in servers if len(words) > 2},
        syncs={seconds: int(count) for seconds, count in syncs if seconds is not None and count is not None},
    )


def _units(lines: Sequence[str], up: float) -> Iterator[tuple[str, Unit]]:
    """The services of a node, from blocks of ``Name=value`` with an empty line between them."""
    block: dict[str, str] = {}
    for line in (*lines, ""):
        name, _, value = line.partition("=")
        if line:
            block[name] = value
            continue
        if block.get("Id") and block.get("LoadState") == "loaded":
            since = (untrusted.number(block.get("ActiveEnterTimestampMonotonic")) or 0) / 1e6
            active = block.get("ActiveState", "unknown")
            state = active if active == "active" else f"{active} ({block.get('SubState', '')})"
            yield (
                block["Id"].removesuffix(".service"),
                Unit(state, untrusted.number(block.get("NRestarts")) or 0, up - since if since else None),
            )
        block = {}
