"""Taking secrets out of what is shown to others: logs, and objects of the cluster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.clusterfile.secrecy import is_secret_name

GONE = "***"

_KEY = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_TEXTS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Tokens of JSON, of kubeadm's bootstrap, and whatever stands behind a word for it.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"), GONE),
    (re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"), GONE),
    (re.compile(r"(?i)\b(authorization\s*[:=]\s*[\"']?(?:basic|bearer)\s+)[^\s\"',]+"), rf"\1{GONE}"),
    (re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{GONE}"),
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@\"']*:)[^\s/@\"']+(@)"), rf"\1{GONE}\2"),
    (re.compile(r"(?i)(--[\w-]*(?:passw|pwd|secret|token|api-?key)[\w-]*[ =])(?!/)[^\s\"',]+"), rf"\1{GONE}"),
    (
        re.compile(r"(?i)\b([\w.-]*(?:passw(?:or)?d|passwd|secret|token|api[_-]?key|access[_-]?key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}]+"),
        rf"\1{GONE}",
    ),
)
_DROPPED = ("kubectl.kubernetes.io/last-applied-configuration",)


def text(value: str) -> str:
    """A text without what looks like a password, a token or a private key. Rather too much goes than too little."""
    found = _KEY.sub(rf"\1 {GONE} \2", value)
    for pattern, instead in _TEXTS:
        found = pattern.sub(instead, found)
    return found


def resource(value: Any) -> Any:
    """An object of the cluster without secrets: values of environment and other fields whose names say so, and whatever looks like one.

    A Secret keeps its name only.
    """
    if isinstance(value, Mapping):
        if value.get("kind") == "Secret" and "metadata" in value:
            return {"kind": "Secret", "metadata": {"name": value["metadata"].get("name"), "namespace": value["metadata"].get("namespace")}}
        named = value.get("name")
        if isinstance(named, str) and is_secret_name(named) and isinstance(value.get("value"), str):
            value = {**value, "value": GONE}
        return {key: _field(str(key), item) for key, item in value.items() if key not in _DROPPED and key != "managedFields"}
    if isinstance(value, list):
        return [resource(item) for item in value]
    return text(value) if isinstance(value, str) else value


def _field(name: str, value: Any) -> Any:
    return GONE if isinstance(value, str) and value and is_secret_name(name) else resource(value)
