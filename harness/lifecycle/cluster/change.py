"""The last upgrade or rollback of a cluster, in a ConfigMap of its own."""

from __future__ import annotations

import dataclasses
import datetime
import json
import secrets

from harness import untrusted
from harness.errors import NodeError
from harness.lifecycle.kube import objects
from harness.nodes.kubectl import NodeKubectl

UPGRADE, ROLLBACK = "upgrade", "rollback"
RUNNING, DONE = "running", "done"
CONFIG_MAP = "slipway-upgrade"


@dataclasses.dataclass(frozen=True)
class Version:
    """An image, and its version of Kubernetes (``v1.36.3``)."""

    image: str
    digest: str
    kubernetes: str

    def __str__(self) -> str:
        return f"{self.image} (Kubernetes {self.kubernetes})"


@dataclasses.dataclass(frozen=True)
class Move:
    """A change from one version to another."""

    id: str
    kind: str
    """``upgrade`` or ``rollback``."""
    before: Version
    after: Version
    state: str = RUNNING
    """``running`` until the last step is done, then ``done``."""
    since: str = ""

    @classmethod
    def new(cls, kind: str, before: Version, after: Version) -> Move:
        return cls(secrets.token_hex(4), kind, before, after, since=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def read(kubectl: NodeKubectl) -> Move | None:
    """Return the last change of the cluster; None when there was none. Raises NodeError for a record that is not valid."""
    text = kubectl.run("get", "configmap", CONFIG_MAP, "--namespace=kube-system", "--ignore-not-found", "--output=json")
    if not text.strip():
        return None
    stored = objects.config_map(text, where=kubectl.where)["data"].get("move") or ""
    data = untrusted.json_object(stored, what="the record of the last change of the cluster", error=NodeError)
    try:
        return Move(**{**data, "before": Version(**data["before"]), "after": Version(**data["after"])})
    except (KeyError, TypeError) as wrong:
        raise NodeError("the record of the last change of the cluster is not understood", hint="was it made by another version?") from wrong


def unfinished(kubectl: NodeKubectl) -> Move | None:
    """Return the last change when it is not finished."""
    last = read(kubectl)
    return last if last is not None and last.state == RUNNING else None


def write(kubectl: NodeKubectl, move: Move) -> None:
    """Replace the record of the last change."""
    document = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG_MAP, "namespace": "kube-system"},
        "data": {"move": json.dumps(dataclasses.asdict(move))},
    }
    kubectl.run("apply", "--validate=false", "--filename=-", input=json.dumps(document))
