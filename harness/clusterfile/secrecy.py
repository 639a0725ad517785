"""What must not be kept with a Clusterfile, and what stands in its place: a mark that tells, later, whether it is still the same."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from harness.clusterfile import REDACTED, formats, is_redacted

_KEYS = frozenset({"bootstrapTokens", "certificateKey", "token", "tlsBootstrapToken"})
_WORDS = r"passw|pwd|secret|token|credential|private[_-]?key|access[_-]?key|api[_-]?key"
_NAME = re.compile(_WORDS, re.IGNORECASE)
_REFERENCE = re.compile(r"(?:name|ref|file|path|env|ttl)s?$", re.IGNORECASE)
"""``secretName`` and ``passwordFile`` say where a secret is, not what it is."""
_ASSIGNED = re.compile(rf"""([\w.-]*(?:{_WORDS})[\w.-]*)["']?[ \t]*([:=])[ \t]*["']?(?![\s"'{{\[$#]|$)\S""", re.IGNORECASE | re.MULTILINE)
_OPTION = re.compile(r"--?[\w-]*(?:passw|pwd|secret|token)[\w-]*[ =](?![\s$])\S", re.IGNORECASE)
_KIND = re.compile(r"""^\s*["']?kind["']?\s*:\s*["']?Secret\b|-----BEGIN [A-Z ]*PRIVATE KEY""", re.MULTILINE)


def is_secret_name(name: str) -> bool:
    """Whether a name says that its value is a secret: ``MysqlPassword``."""
    return _NAME.search(name) is not None and _REFERENCE.search(name) is None


def holds_secret(text: str) -> bool:
    """Whether a text gives a value to such a name, or holds a private key or a Secret of Kubernetes. In doubt it does."""
    if _KIND.search(text) or _OPTION.search(text):
        return True
    try:
        found = formats.read_documents(text)
    except ValueError:
        found = []
    structured = any(isinstance(document, Mapping | list) for document in found)
    return any(_gives_secret(document, "") for document in found) or _assigns(text, "=" if structured else ":=")


def _gives_secret(value: Any, name: str) -> bool:
    if isinstance(value, Mapping):
        return any(_gives_secret(item, key) for key, item in value.items())
    if isinstance(value, list):
        return any(_gives_secret(item, name) for item in value)
    if isinstance(value, str) and "\n" in value and _assigns(value, ":="):
        return True
    empty = value is None or isinstance(value, bool) or (isinstance(value, str) and (not value or value.startswith(("$", "{{"))))
    return is_secret_name(name) and not empty


def _assigns(text: str, signs: str) -> bool:
    return any(match[2] in signs and is_secret_name(match[1]) for match in _ASSIGNED.finditer(text))


def without_keys(document: Any) -> Any:
    """A document of kubeadm without what lets nodes in."""
    if isinstance(document, Mapping):
        return {key: without_keys(value) for key, value in document.items() if key not in _KEYS}
    return [without_keys(item) for item in document] if isinstance(document, list) else document


@functools.lru_cache(maxsize=1024)
def mark(value: str, place: str) -> str:
    """What stands for a secret. Made so that trying out likely passwords takes long; the same value at the same place gives the same."""
    found = hashlib.scrypt(value.encode(), salt=f"slipway {place}".encode(), n=2**14, r=8, p=1, dklen=18)
    return f"{REDACTED}{base64.b64encode(found).decode()}>"


def same(before: str, after: str, place: str) -> bool:
    """Whether two values are equal, where either may be a mark."""
    if is_redacted(before) == is_redacted(after):
        return before == after
    secret, marked = (after, before) if is_redacted(before) else (before, after)
    return mark(secret, place) == marked
