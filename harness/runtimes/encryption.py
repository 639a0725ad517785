"""The key by which the API server encrypts Secrets in etcd: an EncryptionConfiguration that all control-plane nodes share."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import secrets
from collections.abc import Iterable

import yaml

from harness import untrusted
from harness.errors import StoreError

_BYTES = 32
"""Length in bytes of a secretbox key."""
_NAME = re.compile(r"slipway-(\d{1,6})")


@dataclasses.dataclass(frozen=True)
class SecretsKey:
    """A key and the name by which etcd's data refers to it: ``slipway-1``, and one more with each rotation."""

    number: int
    secret: bytes = dataclasses.field(repr=False)

    @classmethod
    def make(cls, number: int = 1) -> SecretsKey:
        return cls(number, secrets.token_bytes(_BYTES))

    @property
    def name(self) -> str:
        return f"slipway-{self.number}"


def configuration(keys: Iterable[SecretsKey]) -> bytes:
    """The file: the first key encrypts, each of them decrypts. What was stored before there was a key is read as it is."""
    listed = [{"name": key.name, "secret": base64.b64encode(key.secret).decode()} for key in keys]
    providers = [{"secretbox": {"keys": listed}}, {"identity": {}}]
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    }
    return yaml.safe_dump(document, sort_keys=False).encode()


def keys(data: bytes, where: str) -> tuple[SecretsKey, ...]:
    """Keys in slipway's EncryptionConfiguration, in its order. Raises StoreError for another file; ``where`` names it."""
    document = untrusted.yaml_document(data, what=where, error=StoreError)
    try:
        listed = document["resources"][0]["providers"][0]["secretbox"]["keys"]
        return tuple(_key(str(entry["name"]), str(entry["secret"])) for entry in listed)
    except (LookupError, TypeError, ValueError) as wrong:
        raise StoreError(f"{where} is not an EncryptionConfiguration of slipway", hint="restore it from a backup") from wrong


def _key(name: str, secret: str) -> SecretsKey:
    match = _NAME.fullmatch(name)
    data = base64.b64decode(secret, validate=True)
    if match is None or len(data) != _BYTES:
        raise binascii.Error(f"{name} is not a secretbox key")
    return SecretsKey(int(match[1]), data)
