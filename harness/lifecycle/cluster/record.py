"""The record that a cluster keeps of itself in a ConfigMap: its Clusterfile without secrets, its image, and the nodes that left uncleaned.

Everything that reads or writes it does so here. A field that is absent has its default: an earlier version may have written the record.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness import untrusted
from harness.clusterfile import ROLES, Clusterfile, write
from harness.clusterfile.parse import parse
from harness.errors import CheckError, CommandError, NodeError
from harness.lifecycle.kube import objects
from harness.nodes import Node
from harness.nodes.files import STATE
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes.kubeadm import KUBECTL

CONFIG_MAP = "slipway-clusterfile"
OWN, ELSEWHERE = "own", "elsewhere"
"""The registry that the nodes pull from: one on the control-plane nodes, or one of the site."""
_OBJECT = ("configmap", CONFIG_MAP, "--namespace=kube-system")
GET = ("get", *_OBJECT, "--output=json")
"""Arguments of kubectl that print the record; ``ClusterRecord.of`` reads the output."""
_LEFT, _UNREADY = "left", "ailing"


class NoRecordError(CheckError):
    """The cluster has no record: another tool made it, or slipway run did not finish."""


@dataclasses.dataclass(frozen=True)
class ClusterRecord:
    """The record of one cluster."""

    image: str = ""
    digest: str = ""
    """Of the image. Empty for a cluster that another tool made and slipway adopted."""
    text: str = ""
    """The stored Clusterfile: with a fingerprint in place of each value that is or may be a secret."""
    registry: str = OWN
    left: frozenset[str] = frozenset()
    """Addresses and names of nodes that were removed while they did not answer: they still hold what they held."""
    unready: str | None = None
    """JSON list of the workloads that were not ready before a change that is not finished; empty or None without one."""
    version: str = ""
    """resourceVersion of the ConfigMap."""

    @classmethod
    def of(cls, text: str, where: str) -> ClusterRecord:
        """Read the output of kubectl on the node ``where``. Raises NodeError for another output, CheckError for a text that is not YAML."""
        config_map = objects.config_map(text, where=where)
        data: Mapping[str, str] = config_map["data"]
        record = cls(
            image=data.get("image") or "",
            digest=data.get("digest") or "",
            text=data.get("Clusterfile") or "",
            registry=data.get("registry") or OWN,
            left=frozenset((data.get(_LEFT) or "").split()),
            unready=data.get(_UNREADY),
            version=str((config_map.get("metadata") or {}).get("resourceVersion") or ""),
        )
        _ = record.hosts
        return record

    @functools.cached_property
    def clusterfile(self) -> Clusterfile:
        """The stored Clusterfile. Raises InputError when this version does not understand it."""
        return parse(self.text, "the stored Clusterfile", stored=True)

    @functools.cached_property
    def hosts(self) -> tuple[Mapping[str, Any], ...]:
        """The hosts of the stored document Cluster as plain data: read even where this version does not understand all of the text."""
        for document in untrusted.yaml_documents(self.text, what="the stored Clusterfile", error=CheckError):
            if isinstance(document, Mapping) and document.get("kind", "Cluster") == "Cluster":
                spec = document.get("spec")
                return tuple(host for host in _list(spec, "hosts") if isinstance(host, Mapping)) if isinstance(spec, Mapping) else ()
        return ()

    def addresses(self, role: str) -> frozenset[str]:
        """Addresses of the hosts that have a role."""
        return frozenset(str(address) for host in self.hosts if role in _roles(host) for address in _list(host, "ips"))

    @property
    def control_plane(self) -> tuple[str, ...]:
        return self.clusterfile.cluster.control_plane if self.clusterfile.cluster else ()

    @property
    def workers(self) -> tuple[str, ...]:
        return self.clusterfile.cluster.workers if self.clusterfile.cluster else ()

    def unready_workloads(self) -> list[str] | None:
        """The titles in ``unready``; None when no change is unfinished. Raises NodeError for text that is not JSON."""
        if not self.unready:
            return None
        titles = untrusted.json_document(self.unready, what=f"{_UNREADY} in {CONFIG_MAP}", error=NodeError)
        return [str(title) for title in titles] if isinstance(titles, list) else []

    def with_clusterfile(self, clusterfile: Clusterfile) -> ClusterRecord:
        """This record with another Clusterfile, whose secrets are left out."""
        return dataclasses.replace(self, text=write.redacted(clusterfile))


def _roles(host: Mapping[str, Any]) -> Iterator[str]:
    return (ROLES.get(role, role) for role in map(str, _list(host, "roles")))


def _list(mapping: Mapping[str, Any], key: str) -> list[Any]:
    value = mapping.get(key)
    return value if isinstance(value, list) else []


def read(kubectl: NodeKubectl) -> ClusterRecord:
    """Return the record of a cluster. Raises NoRecordError without one, CheckError or NodeError for one that cannot be read."""
    try:
        return ClusterRecord.of(kubectl.run(*GET), kubectl.where)
    except CommandError as error:
        if "NotFound" not in (error.details or ""):
            raise
        raise NoRecordError(
            "this cluster has no record of slipway",
            hint="finish it first with the command that began it, slipway run, or adopt it: slipway generate --from-cluster --adopt",
        ) from error


def apply(node: Node, record: ClusterRecord, kubectl: str = KUBECTL) -> None:
    """Write a record whatever was there before. ``left`` stays as it is, and so does ``unready`` when it is None."""
    data = {"Clusterfile": record.text, "digest": record.digest, "image": record.image, "registry": record.registry}
    if record.unready is not None:
        data[_UNREADY] = record.unready
    metadata = {"name": CONFIG_MAP, "namespace": "kube-system"}
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    # JSON: kubectl refuses what a lost connection has cut off, where YAML may still be a document.
    node.run(f"{kubectl} apply --validate=false -f -", input=json.dumps(document), timeout=60)


def replace(node: Node, record: ClusterRecord) -> None:
    """Write ``text`` and ``left`` in place of the version that was read. Raises CommandError when the record has changed since."""
    patch = {"metadata": {"resourceVersion": record.version}, "data": {"Clusterfile": record.text, _LEFT: " ".join(sorted(record.left))}}
    # By a file: the text may be long, and is not for a list of processes.
    path = f"{STATE}/record.json"
    node.put(json.dumps(patch).encode(), path, 0o600)
    node.run(
        f'{KUBECTL} patch {" ".join(_OBJECT)} --type=merge -p "$(cat {path})" > /dev/null; code=$?; rm -f {path}; exit $code', timeout=60
    )


def note_unready(kubectl: NodeKubectl, titles: Iterable[str]) -> None:
    """Note which workloads are not ready before a change."""
    patch = json.dumps({"data": {_UNREADY: json.dumps(list(titles))}})
    kubectl.run("patch", *_OBJECT, "--type=merge", f"--patch={patch}")
