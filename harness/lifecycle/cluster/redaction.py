"""Removes secrets from logs and from objects of the cluster before others see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness import log
from harness.clusterfile import secrets
from harness.clusterfile.secrets import is_secret_name

GONE = log.GONE

_DROPPED = ("kubectl.kubernetes.io/last-applied-configuration",)


def text(value: str) -> str:
    """Replace what looks like a password, a token or a private key, and each secret given to ``log.hide``. In doubt, text is replaced."""
    return secrets.hidden(log.hidden(value), GONE)


def resource(value: Any) -> Any:
    """Replace secrets in an object of the cluster: fields and environment values with the name of a secret, and text that looks like one.

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
        before = ["", *value]
        return [GONE if _is_argument(word, item) else resource(item) for word, item in zip(before, value, strict=False)]
    return text(value) if isinstance(value, str) else value


def _is_argument(option: Any, value: Any) -> bool:
    """Return True for the value of an option that takes a secret: ``["--password", "..."]``."""
    return isinstance(option, str) and isinstance(value, str) and secrets.is_secret_option(option) and not value.startswith("-")


def _field(name: str, value: Any) -> Any:
    if is_secret_name(name):
        if isinstance(value, str) and value:
            return GONE
        if isinstance(value, list):
            return [GONE if isinstance(item, str) and item else resource(item) for item in value]
    return resource(value)
