"""Objects of the Kubernetes API as kubectl prints them, with their types checked once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from harness import process, untrusted
from harness.errors import NodeError, SlipwayError

_HINT = "kubectl get on that machine shows what its API answers"

_OBJECTS = {
    *("metadata", "spec", "status", "nodeInfo", "template", "state", "lastState", "waiting", "terminated", "running"),
    *("involvedObject", "regarding", "persistentVolumeClaim", "serverVersion", "selector", "updateStrategy", "rollingUpdate"),
}
_TEXTS_BY_NAME = {"labels", "annotations", "matchLabels", "nodeSelector"}
_LISTS = {
    *("conditions", "addresses", "containers", "initContainers", "ephemeralContainers", "containerStatuses", "initContainerStatuses"),
    *("ephemeralContainerStatuses", "ownerReferences", "volumes", "taints", "tolerations", "subsets", "ports", "podIPs"),
}
_TEXTS = {
    *("name", "namespace", "uid", "kind", "type", "reason", "message", "phase", "nodeName", "resourceVersion", "address", "effect"),
    *("creationTimestamp", "deletionTimestamp", "podIP", "claimName", "kubeletVersion", "containerRuntimeVersion", "gitVersion"),
    *("ip", "providerID", "storageClassName", "volumeBindingMode", "operatingSystem", "architecture"),
}
_NUMBERS = {
    *("replicas", "readyReplicas", "updatedReplicas", "availableReplicas", "generation", "observedGeneration", "restartCount", "exitCode"),
    *(
        "desiredNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "currentReplicas",
        "nodePort",
        "partition",
        "completions",
        "succeeded",
        "failed",
    ),
}


class ApiObject(dict[str, Any]):
    """An object in an answer. Reading a missing field raises the error of the answer, not KeyError."""

    __slots__ = ("_reader",)

    def __init__(self, fields: Mapping[str, Any], reader: _Reader) -> None:
        super().__init__(fields)
        self._reader = reader

    def __missing__(self, key: str) -> NoReturn:
        self._reader.fail(f"it has no {key}")


class _Reader:
    """Turns plain JSON into objects and rejects fields of another type than they have in the API."""

    def __init__(self, where: str, error: type[SlipwayError]) -> None:
        self._where, self._error = where, error

    def fail(self, problem: str) -> NoReturn:
        raise self._error(f"the API of {self._where} gave an answer that is not understood: {problem}", hint=_HINT)

    def document(self, text: str) -> Any:
        try:
            return untrusted.json_document(text, what="", limit=process.OUTPUT_LIMIT, error=self._error, structural=False)
        except SlipwayError as wrong:
            self.fail(f"it {wrong.message}" if text.strip() else "it is empty")

    def object(self, value: Any, what: str = "the answer", *, under: str = "") -> ApiObject:
        if not isinstance(value, dict):
            self.fail(f"{what} is not an object")
        return ApiObject({key: self._field(key, each, under) for key, each in value.items()}, self)

    def texts(self, value: Any, what: str) -> ApiObject:
        if value is None:
            return ApiObject({}, self)
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            self.fail(f"{what} does not hold text only")
        return ApiObject(value, self)

    def _field(self, key: str, value: Any, under: str) -> Any:
        if value is None or key in {"data", "binaryData", "managedFields"}:
            return value
        shown = untrusted.shown(key)[:80]
        if key in _TEXTS_BY_NAME:
            return self.texts(value, shown)
        if (under, key) == ("linux", "uid"):
            expected: type = int  # the user of a container, not an object's identity
        elif key in _TEXTS or (under, key) == ("conditions", "status"):
            expected = str
        elif key in _LISTS:
            expected = list
        elif key in _OBJECTS:
            expected = dict
        else:
            expected = int if key in _NUMBERS else type(value)
        # A boolean is an int in Python only.
        if type(value) is not expected:
            self.fail(f"{shown} has another type than this field has")
        return self._value(key, value, shown)

    def _value(self, key: str, value: Any, shown: str) -> Any:
        if isinstance(value, dict):
            return self.object(value, shown, under=key)
        if isinstance(value, list):
            return [self.object(each, shown, under=key) if isinstance(each, dict) or key in _LISTS else each for each in value]
        return value


def an_object(text: str, *, where: str) -> ApiObject:
    """The object that ``kubectl get KIND NAME --output=json`` prints on the machine ``where``. Raises NodeError for any other answer."""
    reader = _Reader(where, NodeError)
    return reader.object(reader.document(text))


def objects(text: str, *, where: str, error: type[SlipwayError] = NodeError) -> list[ApiObject]:
    """The objects that ``kubectl get KIND --output=json`` prints, as a list."""
    reader = _Reader(where, error)
    value = reader.document(text)
    items = value.get("items", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(items or [], list):
        reader.fail("it is not a list of objects")
    return [reader.object(item, "an item") for item in items or ()]


def internal_addresses(node: Mapping[str, Any]) -> tuple[str, ...]:
    """The internal addresses of a Node in the family of the first one, by which machines are known."""
    status = node.get("status") or {}
    internal = [str(entry["address"]) for entry in status.get("addresses") or () if entry["type"] == "InternalIP"]
    return tuple(address for address in internal if (":" in address) == (":" in internal[0]))


def daemonset_images(items: Iterable[Mapping[str, Any]]) -> set[str]:
    """The images of the DaemonSets among objects, each by the name that it is written with."""
    agents = [item for item in items if item.get("kind") == "DaemonSet"]
    return {str(each.get("image", "")) for agent in agents for each in agent["spec"]["template"]["spec"].get("containers") or ()}


def config_map(text: str, *, where: str, error: type[SlipwayError] = NodeError) -> ApiObject:
    """A ConfigMap; its ``data`` exists and contains text."""
    reader = _Reader(where, error)
    config = reader.object(reader.document(text))
    config["data"] = reader.texts(config.get("data"), "data")
    return config


def config_maps(text: str, *, where: str) -> list[ApiObject]:
    """``objects`` for ConfigMaps."""
    reader = _Reader(where, NodeError)
    configs = objects(text, where=where)
    for config in configs:
        config["data"] = reader.texts(config.get("data"), "data")
    return configs


def version(text: str, *, where: str, error: type[SlipwayError] = NodeError) -> str:
    """The version of Kubernetes in the answer to ``kubectl get --raw /version`` or ``kubectl version --output=json``."""
    reader = _Reader(where, error)
    answer = reader.object(reader.document(text))
    return str((answer.get("serverVersion") or answer)["gitVersion"])


def configuration(config: ApiObject, where: str, key: str = "ClusterConfiguration", error: type[SlipwayError] = NodeError) -> ApiObject:
    """A document of kubeadm's ConfigMap; empty where it is missing."""
    reader = _Reader(where, error)
    value = untrusted.yaml_document(config["data"].get(key) or "{}", what=f"the {key} of the cluster", error=error)
    # YAML has keys that JSON has not.
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        reader.fail(f"{key} is not an object")
    for name in ("networking", "apiServer", "apiEndpoints"):
        if not isinstance(value.get(name) or {}, Mapping):
            reader.fail(f"{name} of {key} is not an object")
    return ApiObject(value, reader)
