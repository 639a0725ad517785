"""Documents of kubeadm, kubelet and kube-proxy: plain data of three origins made one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Document = Mapping[str, Any]

VERSION = "kubeadm.k8s.io/v1beta4"
"""The API version of kubeadm's configuration; documents of an older one are converted to it."""

GONE: Mapping[str, tuple[tuple[str, ...], ...]] = {"ClusterConfiguration": (("dns", "type"), ("useHyperKubeImage",))}
"""Fields that older forms had and v1beta4 has not, by kind."""

_GROUP = "kubeadm.k8s.io/"
_ARGUMENTS = frozenset({"extraArgs", "kubeletExtraArgs"})
_BY_NAME = frozenset({"extraEnvs", "extraVolumes"})
_JOINED = frozenset({"certSANs", "serverCertSANs", "peerCertSANs"})


def modern(documents: Iterable[Document]) -> list[dict[str, Any]]:
    """Convert documents to v1beta4: arguments are lists of names and values, a timeout is at its new place, and what is
    ``GONE`` is left out.
    """
    return [converted for document in documents for converted in _modern(document)]


def gone(document: Document) -> list[str]:
    """The fields of a document that have no place in v1beta4 and are not used, as ``dns.type``."""
    return [".".join(path) for path in GONE.get(str(document.get("kind")), ()) if _at(document, path) is not None]


def merge_kubeadm(defaults: Iterable[Document], image: Iterable[Document], clusterfile: Iterable[Document]) -> list[dict[str, Any]]:
    """One document of each kind, in the order in which kinds first occur: what the Clusterfile says wins, then the image, then defaults.

    All are in the form of v1beta4. Mappings are joined at every depth; names for certificates are united; arguments, environments and
    volumes are joined by name. Other lists are replaced.
    """
    merged: dict[str, dict[str, Any]] = {}
    for document in modern((*defaults, *image, *clusterfile)):
        kind = str(document.get("kind"))
        version = merged[kind]["apiVersion"] if kind in merged else document.get("apiVersion")
        merged[kind] = {**_merged(merged.get(kind, {}), _arguments_as_mappings(document)), "apiVersion": version}
    return [_ordered(_arguments_as_lists(document)) for document in merged.values()]


def _modern(document: Document) -> Iterator[dict[str, Any]]:
    kind = str(document.get("kind"))
    if not str(document.get("apiVersion")).startswith(_GROUP):
        yield dict(document)
        return
    converted: dict[str, Any] = _arguments_as_lists(document)
    converted["apiVersion"] = VERSION
    for path in GONE.get(kind, ()):
        converted = without(converted, path)
    timeout = ("apiServer", "timeoutForControlPlane")
    if kind == "ClusterConfiguration" and _at(converted, timeout) is not None:
        timeouts = {"controlPlaneComponentHealthCheck": _at(converted, timeout)}
        yield {"apiVersion": VERSION, "kind": "InitConfiguration", "timeouts": timeouts}
        converted = without(converted, timeout)
    yield converted


def _at(document: Document, path: tuple[str, ...]) -> Any:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def without(document: Document, path: tuple[str, ...]) -> dict[str, Any]:
    """A copy without the value at a path, and without a mapping that held nothing else."""
    key, *rest = path
    copy = dict(document)
    below = without(copy[key], tuple(rest)) if rest and isinstance(copy.get(key), Mapping) else None
    if below:
        copy[key] = below
    elif below is not None or not rest:
        copy.pop(key, None)
    return copy


def _merged(existing: Any, new: Any, key: str = "") -> Any:
    if isinstance(existing, Mapping) and isinstance(new, Mapping):
        return {**existing, **{name: _merged(existing[name], value, name) if name in existing else value for name, value in new.items()}}
    if isinstance(existing, list) and isinstance(new, list):
        if key in _JOINED:
            return list(dict.fromkeys([*existing, *new]))
        if key in _BY_NAME:
            return list({**{entry.get("name"): entry for entry in existing}, **{entry.get("name"): entry for entry in new}}.values())
    return new


def _arguments_as_mappings(value: Any) -> Any:
    """A copy in which arguments are by name. One that is given several times keeps all its values, as a tuple."""
    if isinstance(value, list):
        return [_arguments_as_mappings(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    mappings = {}
    for key, item in value.items():
        mappings[key] = _by_name(item) if key in _ARGUMENTS and isinstance(item, list) else _arguments_as_mappings(item)
    return mappings


def _by_name(items: Iterable[Any]) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for item in items:
        name, value = str(item.get("name")), item.get("value")
        by_name[name] = (
            (*by_name[name], value) if isinstance(by_name.get(name), tuple) else (by_name[name], value) if name in by_name else value
        )
    return by_name


def _arguments_as_lists(value: Any) -> Any:
    """A copy in which arguments are a list of names and values."""
    if isinstance(value, list):
        return [_arguments_as_lists(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: _listed(item) if key in _ARGUMENTS and isinstance(item, Mapping) else _arguments_as_lists(item) for key, item in value.items()
    }


def _listed(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = {name: value if isinstance(value, tuple) else (value,) for name, value in arguments.items()}
    return [{"name": name, "value": value} for name, several in values.items() for value in several]


def _ordered(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": document["apiVersion"], "kind": document["kind"], **{k: v for k, v in document.items() if k != "apiVersion"}}
