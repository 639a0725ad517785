"""Documents of kubeadm, kubelet and kube-proxy: plain data of three origins made one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Document = Mapping[str, Any]

_ARGUMENTS = frozenset({"extraArgs", "kubeletExtraArgs"})
_BY_NAME = frozenset({"extraEnvs"})
_JOINED = frozenset({"certSANs", "serverCertSANs", "peerCertSANs"})


def merge_kubeadm(defaults: Iterable[Document], image: Iterable[Document], clusterfile: Iterable[Document]) -> list[dict[str, Any]]:
    """One document of each kind, in the order in which kinds first occur: what the Clusterfile says wins, then the image, then defaults.

    Mappings are joined at every depth; names for certificates are united; arguments and environments are joined by name, in the form of
    the version that the result has: that of the first document of the kind, since it is chosen by what the cluster's Kubernetes reads.
    Other lists are replaced.
    """
    found: dict[str, dict[str, Any]] = {}
    for document in (*defaults, *image, *clusterfile):
        kind = str(document.get("kind"))
        values = _arguments_as_mappings(document)
        version = found[kind]["apiVersion"] if kind in found else document.get("apiVersion")
        found[kind] = {**_merged(found.get(kind, {}), values), "apiVersion": version}
    return [_ordered(_arguments_as_written(document, _has_lists(str(document["apiVersion"])))) for document in found.values()]


def _has_lists(version: str) -> bool:
    """Whether arguments are a list of names and values in this version, from v1beta4 on."""
    match = re.fullmatch(r"kubeadm\.k8s\.io/v(\d+)(?:(alpha|beta)(\d+))?", version)
    return match is not None and (int(match[1]) > 1 or match[2] is None or (match[2] == "beta" and int(match[3]) >= 4))


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
    found = {}
    for key, item in value.items():
        found[key] = _by_name(item) if key in _ARGUMENTS and isinstance(item, list) else _arguments_as_mappings(item)
    return found


def _by_name(items: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        name, value = str(item.get("name")), item.get("value")
        found[name] = (*found[name], value) if isinstance(found.get(name), tuple) else (found[name], value) if name in found else value
    return found


def _arguments_as_written(value: Any, lists: bool) -> Any:
    if isinstance(value, list):
        return [_arguments_as_written(item, lists) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {}
    for key, item in value.items():
        arguments = key in _ARGUMENTS and isinstance(item, Mapping)
        found[key] = _written(item, lists) if arguments else _arguments_as_written(item, lists)
    return found


def _written(arguments: Mapping[str, Any], lists: bool) -> Any:
    if lists:
        values = {name: value if isinstance(value, tuple) else (value,) for name, value in arguments.items()}
        return [{"name": name, "value": value} for name, several in values.items() for value in several]
    return {name: value[-1] if isinstance(value, tuple) else value for name, value in arguments.items()}


def _ordered(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": document["apiVersion"], "kind": document["kind"], **{k: v for k, v in document.items() if k != "apiVersion"}}
