"""Clauses about the run information: the annotation ``dev.slipway.cloudimage`` of a rootfs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.cloudimage.conformance import launch
from harness.cloudimage.conformance.clauses import Checked, Clause, fault_of
from harness.cloudimage.conformance.examined import ExaminedImage, ExaminedManifest
from harness.cloudimage.model import INFO, SCHEMA_VERSION, Info, ProvingRun
from harness.cloudimage.values import ExpectedValue
from harness.kubefile.applications import HELM, KUBE, MIXED, SHELL
from harness.oci.reference import Reference, is_digest

TYPES = ("kube", "app")
KINDS = (HELM, KUBE, SHELL, MIXED)


def _infos(image: ExaminedImage) -> Iterator[tuple[ExaminedManifest, Mapping[str, Any]]]:
    for root in image.roots:
        info = image.info(root)
        if info is not None:
            yield root, info


def _objects(info: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    values = info.get(key)
    return [value for value in values if isinstance(value, Mapping)] if isinstance(values, list) else []


def _texts(values: object) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _annotation(image: ExaminedImage) -> Checked:
    for root in image.roots:
        if root.read:
            document = image.info_document(root)
            missing = document.value is None and document.problem is None
            yield f"{root.where}: has no annotation {INFO}" if missing else document.problem


def _version(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        version = info.get("schemaVersion")
        same = version == SCHEMA_VERSION and not isinstance(version, bool)
        yield None if same else f"{root.where}: schemaVersion is {version!r}, not {SCHEMA_VERSION}"


def _fields(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        # These have clauses of their own.
        plain = {key: value for key, value in info.items() if key not in ("values", "proven")}
        yield fault_of(root.where, Info.from_json, plain)
        # What is empty reads as if it were not there.
        wrong = [key for key in ("runtime", "kubernetes", "kubeVersion") if not isinstance(info.get(key), str | None)]
        yield f"{root.where}: {wrong[0]} is not text" if wrong else None


def _type(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        kind = info.get("type")
        if isinstance(kind, str):
            yield None if kind in TYPES else f"{root.where}: type is {kind!r}, not {' or '.join(TYPES)}"


def _origins(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        base = info.get("base")
        named = [("base", base)] if isinstance(base, Mapping) and base else []
        for key, value in (*named, *(("mergedFrom", source) for source in _objects(info, "mergedFrom"))):
            yield fault_of(f"{root.where}: {key}", _origin, value)
        if isinstance(info.get("convertedFrom"), Mapping) and info["convertedFrom"]:
            yield fault_of(f"{root.where}: convertedFrom", _tool, info["convertedFrom"])
        if info.get("proven"):
            yield fault_of(f"{root.where}: proven", ProvingRun.from_json, info["proven"])


def _origin(value: Mapping[str, Any]) -> None:
    Reference.parse(value["reference"])
    _require_digest(value)


def _tool(value: Mapping[str, Any]) -> None:
    for key in ("tool", "version"):
        if not isinstance(value[key], str):
            raise TypeError(f"{key} is not text")
    _require_digest(value)


def _require_digest(value: Mapping[str, Any]) -> None:
    if not is_digest(value["digest"]):
        raise ValueError(f"{value['digest'][:80]!r} is not a digest")


def _templates(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        if info.get("launchTemplate"):
            yield None if info.get("launchArguments") else f"{root.where}: launchTemplate without launchArguments"


def _labels(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        if root.config_document.value is not None:
            config = root.config_document.get("config")
            labels = config.get("Labels") if isinstance(config, Mapping) else None
            same = (labels or {}) == (info.get("labels") or {})
            yield None if same else f"{root.config_document.where}: config.Labels differ from labels of the annotation"


def _apps(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        names: list[str] = []
        for app in _objects(info, "apps"):
            name, kind = app.get("name"), app.get("kind")
            if not isinstance(name, str) or not isinstance(kind, str):
                continue  # CI-INFO-3
            wrong = f"the application {name} stands twice" if name in names else f"{name}: kind is {kind!r}" if kind not in KINDS else ""
            yield f"{root.where}: {wrong}" if wrong else None
            names.append(name)
        for name in _texts(info.get("clusterApps")):
            yield None if name in names else f"{root.where}: clusterApps names {name}, which is not among apps"


def _values(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        values = info.get("values")
        if values is not None and not isinstance(values, list):
            yield f"{root.where}: values is not a list"
            continue
        names: set[str] = set()
        for number, value in enumerate(values or ()):
            where = f"{root.where}: values[{number}]"
            fault = fault_of(where, _value, value)
            if fault is None and value["name"] in names:
                fault = f"{where}: {value['name']} stands twice"
            yield fault
            if fault is None:
                names.add(value["name"])


def _value(value: Mapping[str, Any]) -> None:
    ExpectedValue.from_json(value)
    for key in ("required", "secret"):
        if not isinstance(value.get(key, False), bool):
            raise TypeError(f"{key} is not true or false")


def _secrets(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        for value in _objects(info, "values"):
            if value.get("secret") is True:
                yield None if value.get("default") is None else f"{root.where}: the secret {value.get('name')} has a default"


# Without a network


def _launch_files(info: Mapping[str, Any]) -> Iterator[launch.LaunchFile]:
    """Files of launch commands, then of the commands of each application."""
    yield from launch.named_files(_texts(info.get("launch")))
    for app in _objects(info, "apps"):
        yield from launch.named_files(_texts(app.get("commands")))


def _local(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        for file in _launch_files(info):
            yield f"{root.where}: {file.command!r} fetches {file.word}" if file.is_remote else None


def _inside(image: ExaminedImage) -> Checked:
    for root, info in _infos(image):
        tree = image.tree(root)
        if tree is None or tree.problem:
            continue
        for file in _launch_files(info):
            if file.path is not None:
                yield None if tree.holds(file.path) else f"{root.where}: {file.command!r} names {file.path}, which is not in the rootfs"


CLAUSES = (
    Clause("CI-INFO-1", f"a rootfs has the annotation {INFO}, a JSON object", "annotations", _annotation),
    Clause("CI-INFO-2", f"its schemaVersion is {SCHEMA_VERSION}", "annotations", _version),
    Clause("CI-INFO-3", "its fields have their types", "annotations", _fields),
    Clause("CI-INFO-4", "its type is kube or app", "annotations", _type),
    Clause("CI-INFO-5", "images that it names have a reference and a digest", "origins", _origins),
    Clause("CI-INFO-6", "launchTemplate stands with launchArguments only", "launch templates", _templates),
    Clause("CI-INFO-7", "its labels are those of the config", "annotations", _labels),
    Clause("CI-APP-1", "applications have one name and a known kind; clusterApps names some of them", "applications", _apps),
    Clause("CI-VALUE-1", "expected values have their fields, each once", "values", _values),
    Clause("CI-VALUE-2", "a secret has no default", "secrets", _secrets),
)
OFFLINE = (
    Clause("CI-OFFLINE-2", "launch commands fetch no manifest or chart", "files of launch commands", _local),
    Clause("CI-OFFLINE-3", "files that launch commands name are in the rootfs", "files of launch commands", _inside),
)
