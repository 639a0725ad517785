"""Manifests of a folder etc/addons: the objects that they make, and the label by which these are known as an image's in a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError

LABEL = "slipway.dev/addon"
"""On each object that slipway applies from there. Who takes it off an object takes the object over: slipway never removes it then."""


def documents(texts: Iterable[str]) -> Iterator[Mapping[str, Any]]:
    """Objects of manifests, with those of a List one by one. Other documents are skipped. Raises StoreError for invalid YAML."""
    for text in texts:
        for document in untrusted.yaml_documents(text, what="a manifest of etc/addons"):
            items = document.get("items") if isinstance(document, Mapping) and document.get("kind") == "List" else [document]
            yield from (item for item in (items if isinstance(items, list) else ()) if _is_object(item))


def _is_object(value: object) -> bool:
    metadata = value.get("metadata") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(metadata, Mapping):
        return False
    texts = (value.get("apiVersion"), value.get("kind"), metadata.get("name"), metadata.get("namespace", ""))
    # generateName has no name; a word with a blank in it is not a name.
    return all(isinstance(text, str) and not re.search(r"\s", text) for text in texts) and bool(metadata["name"])


def namespaces(texts: Iterable[str]) -> frozenset[str]:
    """The namespaces that manifests make or put something into, but for ``default``. Raises StoreError for what is not YAML."""
    kept = ((document["kind"], document["metadata"]) for document in documents(texts))
    names = {metadata["name"] if kind == "Namespace" else metadata.get("namespace", "") for kind, metadata in kept}
    return frozenset(names - {"", "default"})


def has_label(document: Mapping[str, Any]) -> bool:
    labels = document["metadata"].get("labels")
    return isinstance(labels, Mapping) and LABEL in labels


def labelled(text: str) -> bool:
    """Return True when every object of a manifest carries the label itself; False also for a manifest that is not YAML."""
    try:
        return all(map(has_label, documents([text])))
    except StoreError:
        return False


def value(name: str) -> str:
    """The label's value for the objects of a file: ``network`` of ``network.yaml``."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", name.removesuffix(".yaml"))[:63].strip("-.") or "addon"
