"""``slipway kubeconfig``: the administrator's kubeconfig of a cluster, alone or merged into a file with other clusters."""

from __future__ import annotations

import base64
import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import log
from harness.errors import CheckError, Fault, InputError, SlipwayError, UsageError
from harness.host import cluster_cache, durable, paths
from harness.lifecycle.cluster import access
from harness.lifecycle.cluster.access import Access
from harness.nodes import Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.runtimes import API_PORT, bracketed
from harness.runtimes.kubeconfig import admin_identity
from harness.runtimes.pki import FOLDER, alternative_names, certificate_of, general_name
from harness.untrusted import KubeIdentity

_MARK = "slipway"
"""Name of the extension in entries that slipway wrote: only those may be replaced."""


def fetch(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    server: str | None = None,
    home: Path | None = None,
) -> dict[str, Any]:
    """Return the administrator's kubeconfig for the API at ``server``, by default a control-plane node whose API answers.

    Raises UsageError when the cluster is not known, NodeError when no control-plane node is reachable, CheckError when no API answers.
    """
    with access.opened(access.known(name, control_plane, workers, home=home), workers=False) as cluster:
        node = answering(cluster)
        if server is not None:
            _warn_of_name(node, server)
        return named(admin_identity(node, name, cluster.known.state.authority()), name, server or node.address)


def answering(cluster: Access) -> SshNode:
    """Return the first control-plane node whose API is ready. Raises CheckError, with the reason of each, when none is."""
    _ = cluster.first
    reasons = []
    for node in cluster.control_plane:
        try:
            NodeKubectl(node).run("get", "--raw", "/readyz", "--request-timeout=5s")
            return node
        except SlipwayError as error:
            reasons.append(f"{node.name}: {(error.details or error.message).strip().splitlines()[-1]}")
    raise CheckError(
        "the API of no control-plane node answers",
        hint=f"slipway logs {cluster.known.state.name} gathers what happened",
        details="\n".join(reasons),
    )


def _warn_of_name(node: SshNode, server: str) -> None:
    if general_name(server) not in alternative_names(certificate_of(node, f"{FOLDER}/apiserver.crt")):
        log.warning(f"the API's certificate does not hold for {server}: slipway certs add-names {server}")


def named(identity: KubeIdentity, name: str, server: str) -> dict[str, Any]:
    """Return the kubeconfig of one cluster; its entries have the name of the cluster, so that several fit into one file."""
    user = f"{name}-admin"
    cluster = {
        "certificate-authority-data": _base64(identity.authority),
        "server": f"https://{bracketed(server)}:{API_PORT}",
        "extensions": [{"name": _MARK, "extension": {"cluster": name}}],
    }
    credentials = {"client-certificate-data": _base64(identity.certificate), "client-key-data": _base64(identity.key)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": cluster}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
        "current-context": name,
        "users": [{"name": user, "user": credentials}],
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def text(config: Mapping[str, Any]) -> str:
    """Return a kubeconfig as YAML."""
    return yaml.safe_dump(dict(config), sort_keys=False)


def write(config: Mapping[str, Any], path: Path) -> None:
    """Replace a file, readable by its owner only. The target of a link is replaced, not the link."""
    target = paths.expanded(path).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    durable.write(target, text(config))


def merge(config: Mapping[str, Any], path: Path) -> None:
    """Add the entries of ``config`` to the file at ``path``, which need not exist, and make its context the current one.

    Other entries stay. Raises InputError when the file is not a kubeconfig, UsageError when an entry of another tool has the same name.
    """
    path = paths.expanded(path)
    before: Any = {}
    if path.exists():
        try:
            before = yaml.safe_load(path.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as wrong:
            raise InputError([Fault(str(path), f"is not YAML: {' '.join(str(wrong).split())}", "nothing has been changed")]) from wrong
    write(merged(before, config, str(path)), path)


def merged(before: Any, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return both in one; see ``merge``."""
    lists = ("clusters", "contexts", "users")
    if not isinstance(before, Mapping) or any(not isinstance(before.get(kind) or [], list) for kind in lists):
        raise InputError([Fault(where, "is not a kubeconfig", "nothing has been changed; write to another file with --to")])
    name = config["clusters"][0]["name"]
    for entry in before.get("clusters") or ():
        if entry.get("name") == name and not _is_marked(entry):
            raise UsageError(
                f"{where} has a cluster {name} that slipway did not put there",
                hint=f"write a file of its own: slipway kubeconfig {name} --to FILE",
            )
    both: dict[str, Any] = copy.deepcopy(dict(before))
    both.setdefault("apiVersion", "v1")
    both.setdefault("kind", "Config")
    for kind in lists:
        names = {entry["name"] for entry in config[kind]}
        both[kind] = [entry for entry in both.get(kind) or () if entry.get("name") not in names] + list(config[kind])
    both["current-context"] = config["current-context"]
    return both


def _is_marked(entry: Mapping[str, Any]) -> bool:
    return any(extension.get("name") == _MARK for extension in (entry.get("cluster") or {}).get("extensions") or ())


def default_path() -> Path:
    """Return kubectl's file: the first one of ``$KUBECONFIG``, else ``~/.kube/config``."""
    first = (os.environ.get("KUBECONFIG") or "").split(":")[0]
    return Path(first) if first else paths.user_home() / ".kube/config"
