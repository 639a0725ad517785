"""Clusterfile text -> Clusterfile: every document as a frozen value, every fault at once with its line and path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness import log, templates
from harness.clusterfile import (
    ApplicationDocument,
    ClusterDocument,
    Clusterfile,
    Config,
    Hook,
    application,
    cluster,
    config,
    foreign,
    hooks,
    secrets,
    validators,
)
from harness.clusterfile.schema import read_document
from harness.clusterfile.validators import FieldError
from harness.clusterfile.yaml_nodes import FaultReport, YamlNode, documents
from harness.errors import Fault, InputError
from harness.templates.job import StandIn

_SHIMS = ("dockershim", "cri-dockerd", "docker.sock")


def parse(text: str, path: str, *, env: Mapping[str, str] | None = None, stored: bool = False) -> Clusterfile:
    """Read a Clusterfile; ``path`` is how faults call it. ``stored``: a cluster keeps it, where machines may have come and gone.

    With ``env`` (what ``-e`` says) its ``{{ Name }}`` are replaced first. A name that ``env`` does not have stays, for it may be meant for
    the file of the rootfs that a Config writes. Raises InputError with all faults, by line.
    """
    if env is not None and "{{" in text:
        text = templates.render(text, env, path, missing=StandIn("{{ ", " }}"))
    report = FaultReport(path, stored=stored)
    reader = _DocumentReader(report)
    nodes = documents(text, report)
    other = foreign.tool_of(nodes)
    if other is not None:
        # Each of its keys would be a fault of its own.
        tool, first = other
        raise InputError([Fault(f"{path}:{first.line}", f"this is a file of {tool.name}, not a Clusterfile", f"write {tool.instead}")])
    for node in nodes:
        reader.read(node)
    if not nodes and not report.faults:
        report.fault_at(1, "contains no document", "apiVersion: slipway.dev/v1, kind: Cluster ...; slipway generate writes one")
    return reader.finish(path)


def parse_hooks(text: str, path: str) -> tuple[Hook, ...]:
    """The hooks of one file of an image's ``plugins/``. Raises InputError, also for documents of other kinds."""
    report = FaultReport(path)
    parsed: list[Hook] = []
    for node in documents(text, report):
        read = read_document(node, report)
        if read is None or read[1] is None:
            continue
        kind, document = read
        if kind not in ("Plugin", "Hook"):
            report.fault(node, f"{kind} is not a hook", "plugins/ holds documents of kind Plugin or Hook; the Clusterfile takes the others")
        elif (hook := hooks.build(kind, document, report)) is not None:
            parsed.append(hook)
    report.finish()
    return tuple(parsed)


def image_hooks(files: Mapping[str, bytes]) -> tuple[Hook, ...]:
    """The hooks of an image: its files by path, of which those right below ``plugins/`` are read. Raises InputError with all faults."""
    hooks: list[Hook] = []
    faults: list[Fault] = []
    for path in sorted(files):
        folder, _, name = path.rpartition("/")
        if folder != "plugins":
            continue
        if name.endswith(".so"):
            faults.append(Fault(path, "is a plugin in Go's machine code, which only sealer can load", "write it as a hook of type SHELL"))
        elif name.endswith((".yaml", ".yml")):
            try:
                hooks += parse_hooks(files[path].decode(), path)
            except InputError as wrong:
                faults += wrong.faults
            except UnicodeDecodeError:
                faults.append(Fault(path, "is not text"))
    if faults:
        raise InputError(faults)
    return tuple(hooks)


class _DocumentReader:
    """Collects the documents of a text."""

    def __init__(self, report: FaultReport) -> None:
        self.report = report
        self.found: dict[str, list[tuple[YamlNode, Any]]] = {}
        self.first: dict[str, YamlNode] = {}

    def read(self, node: YamlNode) -> None:
        read = read_document(node, self.report)
        if read is None:
            return
        kind, document = read
        # Of applications only those of the cluster's own image are one document.
        single = kind in _ONE and not (kind == "Application" and _has_image(node))
        if single and kind in self.first:
            message = f"a second {kind}; the first is in line {self.first[kind].line}"
            self.report.fault(node, message, "join them into one" if kind == "Application" else "one Clusterfile is one cluster")
        if single:
            self.first.setdefault(kind, node)
        if document is None:
            return
        value = _BUILDERS[kind](kind, document, self.report)
        if value is not None:
            self.found.setdefault(kind, []).append((node, value))

    def values(self, *kinds: str) -> list[Any]:
        """In the order of the text."""
        entries = [entry for kind in kinds for entry in self.found.get(kind, ())]
        return [value for _, value in sorted(entries, key=lambda entry: entry[0].line)]

    def finish(self, path: str) -> Clusterfile:
        clusters: Sequence[ClusterDocument] = self.values("Cluster")
        documents: Sequence[ApplicationDocument] = self.values("Application")
        applications = [document for document in documents if document.image is None]
        apps = tuple(document for document in documents if document.image is not None)
        self._check_apps(apps)
        self._check_snapshots()
        configurations: list[Config] = self.values("Config")
        cluster.network_fault(clusters[0] if clusters else None, self.found.get("ClusterConfiguration", ()), self.report)
        self.report.finish()
        clusterfile = Clusterfile(
            path=path,
            cluster=clusters[0] if clusters else None,
            configs=tuple(configurations),
            hooks=tuple(dataclasses.replace(hook, given=not self.report.stored) for hook in self.values("Plugin", "Hook")),
            application=applications[0] if applications else None,
            apps=apps,
            kubeadm=tuple(self.values(*_PLAIN)),
            warnings=self.report.warnings,
        )
        log.hide(*secrets.literals(clusterfile))
        return clusterfile

    def _check_apps(self, apps: Sequence[ApplicationDocument]) -> None:
        nodes = {id(value): node for node, value in self.found.get("Application", ())}
        for index, app in enumerate(apps):
            if app.name in [other.name for other in apps[:index]]:
                self.report.fault(nodes[id(app)], f"a second application {app.name}", "metadata: {name: ...} distinguishes them")

    def _check_snapshots(self) -> None:
        """Report files of ETCD that this machine cannot have. Hooks that the user has not given name a file below the cluster's folder."""
        for node, hook in (entry for kind in ("Plugin", "Hook") for entry in self.found.get(kind, ())):
            if hook.output is None or self.report.stored:
                continue
            try:
                validators.path(hook.output)
            except FieldError as wrong:
                spec = _below(node, "spec")
                self.report.fault(_below(spec, "on" if "on" in spec.content else "scope"), wrong.message, wrong.hint)


def _has_image(node: YamlNode) -> bool:
    spec = node.content.get("spec") if isinstance(node.content, dict) else None
    return spec is not None and isinstance(spec.content, dict) and "image" in spec.content


def _plain(node: YamlNode, report: FaultReport) -> dict[str, Any]:
    """kubeadm's own documents: only what cannot work with any of them is looked at."""
    plain: dict[str, Any] = node.plain()
    registration = plain.get("nodeRegistration")
    socket = registration.get("criSocket") if isinstance(registration, dict) else None
    if isinstance(socket, str) and any(shim in socket for shim in _SHIMS):
        report.fault(
            _below(node, "nodeRegistration", "criSocket"),
            f"{socket} is docker's, which is not a container runtime here",
            "leave criSocket out: containerd's is known",
        )
    return plain


def _below(node: YamlNode, *keys: str) -> YamlNode:
    for key in keys:
        node = node.content[key] if isinstance(node.content, dict) else node
    return node


_ONE = ("Cluster", "Application")
_PLAIN = ("InitConfiguration", "JoinConfiguration", "ClusterConfiguration", "KubeletConfiguration", "KubeProxyConfiguration")
_BUILDERS: Mapping[str, Callable[[str, Any, FaultReport], Any]] = {
    "Cluster": lambda _, document, report: cluster.build(document, report),
    "Config": lambda _, document, report: config.build(document, report),
    "Application": lambda _, document, report: application.build(document, report),
    "Plugin": hooks.build,
    "Hook": hooks.build,
    **dict.fromkeys(_PLAIN, lambda _, document, report: _plain(document, report)),
}
