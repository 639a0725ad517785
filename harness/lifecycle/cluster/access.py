"""How verbs find a cluster that runs: by what this machine remembers, else by the machines that the user names."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import untrusted
from harness.errors import CheckError, CommandError, NodeError, UsageError
from harness.host import cluster_cache
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster.record import CONFIG_MAP
from harness.lifecycle.kube import objects
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode


@dataclasses.dataclass(frozen=True)
class Known:
    """The machines of a cluster."""

    state: ClusterState
    masters: tuple[Machine, ...]
    nodes: tuple[Machine, ...]


@dataclasses.dataclass(frozen=True)
class Access:
    """Open connections to a cluster, and who could not be reached."""

    known: Known
    ssh: SshConnections
    masters: tuple[SshNode, ...]
    """Those that answer, in their order."""
    nodes: tuple[SshNode, ...]
    unreachable: Mapping[str, NodeError]
    """By address."""

    @property
    def first(self) -> SshNode:
        """A master that answers. Raises NodeError, with all reasons, when none does."""
        if not self.masters:
            raise NodeError(
                "\n".join(error.message for error in self.unreachable.values()) or f"the cluster {self.known.state.name} has no master",
                hint="a cluster is reached through one of its masters",
            )
        return self.masters[0]

    @property
    def kubectl(self) -> NodeKubectl:
        """By way of any master whose API answers."""
        return NodeKubectl(self.first, self.masters[1:])


def known(
    name: str = cluster_cache.DEFAULT_NAME, masters: Sequence[Machine] = (), nodes: Sequence[Machine] = (), *, home: Path | None = None
) -> Known:
    """The cluster ``name``: of the machines given, or else as remembered here.

    Raises UsageError when nothing is given and nothing remembered, with the names that are.
    """
    state = ClusterState.of(name, home)
    if masters or nodes:
        return Known(state, tuple(masters), tuple(nodes))
    facts = state.read()
    if not facts.get("masters"):
        names = [other.name for other in cluster_cache.known(home)]
        near = difflib.get_close_matches(name, names, n=1)
        known_names = f"known here: {', '.join(names)}" if names else "no cluster is known here"
        hint = f"did you mean {near[0]}?" if near else f"{known_names}; name one of its control-plane nodes with --via"
        raise UsageError(f"nothing is known of a cluster {name}", hint=hint)
    return Known(state, tuple(_machine(entry) for entry in facts["masters"]), tuple(_machine(entry) for entry in facts.get("nodes", ())))


def _machine(entry: Mapping[str, Any]) -> Machine:
    key, jump = entry.get("key"), entry.get("jump")
    way = JumpHost(jump["host"], jump.get("user"), jump.get("port"), Path(jump["key"]) if jump.get("key") else None) if jump else None
    login = Login(str(entry.get("user", "root")), int(entry.get("port", 22)), Path(key) if key else None, jump=way)
    return Machine(str(entry["address"]), login)


@contextmanager
def opened(found: Known) -> Iterator[Access]:
    """Connect to every machine of a cluster at once; those that do not answer are told, not fatal."""
    ssh = SshConnections(found.state.folder, (*found.masters, *found.nodes))
    with ssh:
        good, errors = ssh.reachable()
        masters = ssh.nodes[: len(found.masters)]
        unreachable = {node.address: error for node, error in errors.items()}
        yield Access(
            found, ssh, tuple(node for node in masters if node in good), tuple(node for node in good if node not in masters), unreachable
        )


def recorded(kubectl: NodeKubectl) -> dict[str, Any]:
    """What the cluster keeps about itself: ``{"image", "digest", "registry", "text", "Clusterfile"}``: ``text`` is the whole stored
    Clusterfile, ``Clusterfile`` its document Cluster as plain data. Raises CheckError when it was not made by us.
    """
    try:
        text = kubectl.run("get", "configmap", CONFIG_MAP, "--namespace=kube-system", "--output=json")
    except CommandError as error:
        if "NotFound" in (error.details or ""):
            raise CheckError("this cluster has no record of slipway", hint="was it made by another tool?") from error
        raise
    return record(objects.config_map(text, where=kubectl.where)["data"])


def record(data: Mapping[str, str]) -> dict[str, Any]:
    """The data of the ConfigMap as ``recorded`` has it."""
    text = data.get("Clusterfile") or ""
    documents = [
        document
        for document in untrusted.yaml_documents(text, what="the stored Clusterfile", error=CheckError)
        if isinstance(document, Mapping)
    ]
    cluster = next((dict(document) for document in documents if document.get("kind", "Cluster") == "Cluster"), {})
    return {
        "image": data.get("image"),
        "digest": data.get("digest"),
        "registry": data.get("registry", "own"),
        "text": text,
        "Clusterfile": cluster,
    }


def members(record: Mapping[str, Any], login: Login) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
    """Masters and workers as the stored Clusterfile has them, all reached with ``login``: for when this machine's memory was lost."""
    hosts = (record.get("Clusterfile") or {}).get("spec", {}).get("hosts") or ()
    by_role: dict[bool, list[Machine]] = {True: [], False: []}
    for host in hosts:
        by_role["master" in (host.get("roles") or ())] += [Machine(str(address), login) for address in host.get("ips") or ()]
    return tuple(by_role[True]), tuple(by_role[False])
