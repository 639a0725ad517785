"""The kubeconfig of a machine: of it only the identity is used."""

from __future__ import annotations

import base64
import dataclasses
import re
from typing import Any

import yaml

from harness.errors import NodeError
from harness.untrusted.display import message
from harness.untrusted.yaml_reader import YamlLimits, yaml_documents

KUBECONFIG_LIMITS = YamlLimits(size=1 << 20)


@dataclasses.dataclass(frozen=True)
class KubeIdentity:
    """Parts of a machine's kubeconfig that are used: three PEM texts. Commands, proxies, other users and files are dropped."""

    authority: bytes
    certificate: bytes
    key: bytes = dataclasses.field(repr=False)

    def kubeconfig(self, *, server: str, cluster: str) -> str:
        """YAML of a kubeconfig with this identity and nothing else. ``server`` is a URL that the caller vouches for."""

        def encoded(data: bytes) -> str:
            return base64.b64encode(data).decode()

        user = "kubernetes-admin"
        context = f"{user}@{cluster}"
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": cluster, "cluster": {"certificate-authority-data": encoded(self.authority), "server": server}}],
                "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
                "current-context": context,
                "preferences": {},
                "users": [
                    {"name": user, "user": {"client-certificate-data": encoded(self.certificate), "client-key-data": encoded(self.key)}}
                ],
            },
            sort_keys=False,
        )


def kube_identity(text: str | bytes, *, what: str) -> KubeIdentity:
    """The identity of the current context of a kubeconfig (the first of each kind without one), verified to be PEM."""
    documents = yaml_documents(text, what=what, limits=KUBECONFIG_LIMITS, error=NodeError)
    document = documents[0] if len(documents) == 1 and isinstance(documents[0], dict) else {}
    contexts = _entries(document, "contexts", "context")
    current = document.get("current-context")
    context = contexts.get(current) if isinstance(current, str) else next(iter(contexts.values()), {})
    cluster = _chosen(_entries(document, "clusters", "cluster"), (context or {}).get("cluster"))
    user = _chosen(_entries(document, "users", "user"), (context or {}).get("user"))

    def pem(holder: dict[str, Any], field: str, *kinds: bytes) -> bytes:
        try:
            data = base64.b64decode(str(holder[field]), validate=True)
        except (KeyError, ValueError) as wrong:
            raise NodeError(message(what, f"its {field} is missing or is not base64")) from wrong
        # Only what stands between the marks of the kinds that are asked for is kept.
        blocks = _PEM.findall(data)
        if not blocks or any(kind not in kinds for kind, _ in blocks) or len(data) > 1 << 16:
            raise NodeError(message(what, f"its {field} is not PEM"))
        return b"".join(b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (kind, body.strip(), kind) for kind, body in blocks)

    return KubeIdentity(
        pem(cluster, "certificate-authority-data", b"CERTIFICATE"),
        pem(user, "client-certificate-data", b"CERTIFICATE"),
        pem(user, "client-key-data", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"PRIVATE KEY"),
    )


_PEM = re.compile(rb"-----BEGIN ([A-Z ]{1,40})-----\r?\n([A-Za-z0-9+/=\r\n]{1,65536})-----END \1-----")


def _entries(document: dict[str, Any], key: str, inner: str) -> dict[str, dict[str, Any]]:
    entries = document.get(key)
    return {
        str(entry.get("name")): entry[inner]
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get(inner), dict)
    }


def _chosen(entries: dict[str, dict[str, Any]], wanted: object) -> dict[str, Any]:
    return entries.get(wanted, {}) if isinstance(wanted, str) else next(iter(entries.values()), {})
