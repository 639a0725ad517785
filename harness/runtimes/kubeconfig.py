"""Kubeconfigs: those that slipway writes on nodes, and the administrator's access that is read from a control-plane node."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from harness import untrusted
from harness.errors import NodeError
from harness.nodes import Node
from harness.runtimes import API_NAME, API_PORT, bracketed, documents
from harness.runtimes.pki import fingerprints
from harness.untrusted import KubeIdentity

ADMIN = "/etc/kubernetes/admin.conf"
SUPER_ADMIN = "/etc/kubernetes/super-admin.conf"
"""Its user may do everything whatever the cluster says; ``ADMIN`` is of use once the cluster says that its group may."""


def kubeconfig(cluster: str, authority: bytes, user: str, credentials: Mapping[str, str]) -> str:
    """A kubeconfig with one context; ``credentials`` are the keys of its user."""
    context = f"{user}@{cluster}"
    return documents(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {
                        "certificate-authority-data": base64.b64encode(authority).decode(),
                        "server": f"https://{API_NAME}:{API_PORT}",
                    },
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
            "current-context": context,
            "users": [{"name": user, "user": dict(credentials)}],
        }
    )


def administrator(node: Node, server: str, cluster: str, authority: bytes | None = None) -> bytes:
    """Administrator's kubeconfig for other machines, with ``server``, the address of a control-plane node. See ``admin_identity``."""
    url = f"https://{bracketed(server)}:{API_PORT}"
    return admin_identity(node, cluster, authority).kubeconfig(server=url, cluster=cluster).encode()


def admin_identity(node: Node, cluster: str, authority: bytes | None = None) -> KubeIdentity:
    """Administrator's certificates and key from a control-plane node. The rest of its kubeconfig is not used: it may name programs.

    ``authority`` is the cluster's CA certificate, where it is known: the node must have the same.
    Raises NodeError when it has another, or when its file cannot be read.
    """
    identity = untrusted.kube_identity(node.get(ADMIN), what=f"{node.name}: {ADMIN}")
    if authority is not None and _fingerprints(identity.authority, node) != _fingerprints(authority, node):
        raise NodeError(
            f"{node.name}: the CA in its {ADMIN} is not the CA of cluster {cluster} that this machine knows",
            hint=f"replaced on purpose? then remove clusters/{cluster}/kubeconfig below SLIPWAY_HOME; if not, do not trust this machine",
        )
    return identity


def _fingerprints(authority: bytes, node: Node) -> frozenset[bytes]:
    try:
        return fingerprints(authority)
    except ValueError as wrong:
        raise NodeError(f"{node.name}: the CA in its {ADMIN} cannot be read: {wrong}") from wrong
