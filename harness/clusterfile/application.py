"""Documents Application -> their value; and whether the applications that a Clusterfile names are in the image."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from harness.clusterfile import ALL, AppConfig, AppFile, ApplicationDocument, Clusterfile, config, validators
from harness.clusterfile.cluster import apps, warn_of_capitals
from harness.clusterfile.shapes import ParsedMapping
from harness.clusterfile.yaml_nodes import FaultReport


def build(document: ParsedMapping, report: FaultReport) -> ApplicationDocument | None:
    metadata, spec = document.get("metadata"), document.get("spec")
    if metadata is None or spec is None:
        return None
    warn_of_capitals(spec, report)
    if spec.get("cmds") and spec.get("launchApps"):
        report.fault(spec.at("launchApps"), "cmds is given too", "commands replace the launch of applications: one of both")
    configs = tuple(_config(document_config, report) for document_config in spec.get("configs", ()))
    names = [app.name for app in configs]
    for document_config, app in zip(spec.get("configs", ()), configs, strict=True):
        if app.name == ALL and (app.files or app.commands):
            report.fault(document_config.at("name"), "ALL takes env only", "files and commands are of one application: name it")
        if app.name and names.index(app.name) != next(index for index, other in enumerate(configs) if other is app):
            report.fault(document_config.at("name"), f"{app.name} is listed twice", "join them into one")
    if "env" in spec and "image" not in spec:
        report.fault(
            spec.at("env"), "is for an application with an image of its own", "configs: [{name: NAME, env: ...}], or env of the Cluster"
        )
    if "image" in spec and not re.fullmatch(validators.CLUSTER_NAME, metadata.get("name", "")):
        report.fault(metadata.at("name"), "is not a name for an application", "lower-case letters, digits and hyphens")
    overrides = ApplicationDocument(
        name=metadata.get("name", ""),
        image=spec.get("image"),
        env=spec.get("env", {}),
        commands=spec.get("cmds") or None,
        launch=apps(spec.get("launchApps")),
        configs=configs,
        where=f"{report.file}:{document.node.line}",
    )
    _check_files(overrides, spec, report)
    return overrides


def _config(mapping: ParsedMapping, report: FaultReport) -> AppConfig:
    launch = mapping.get("launch")
    return AppConfig(
        name=mapping.get("name", ""),
        env=mapping.get("env", {}),
        files=tuple(_file(entry, report) for entry in mapping.get("files", ())),
        commands=(launch.get("cmds") or None) if launch else None,
        where=f"{report.file}:{mapping.node.line}",
    )


def _file(mapping: ParsedMapping, report: FaultReport) -> AppFile:
    return AppFile(
        mapping.get("path", ""), mapping.get("data", ""), mapping.get("strategy", "overwrite"), f"{report.file}:{mapping.node.line}"
    )


def for_all(clusterfile: Clusterfile, app_names: Sequence[str]) -> Clusterfile:
    """The Clusterfile with the applications of an image in place of ``ALL``; their own values win over those for all."""
    if ALL in app_names:
        return clusterfile

    def names(chosen: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return chosen and tuple(dict.fromkeys(app for name in chosen for app in (app_names if name == ALL else (name,))))

    cluster, application = clusterfile.cluster, clusterfile.application
    if cluster is not None:
        cluster = dataclasses.replace(cluster, app_names=names(cluster.app_names))
    if application is not None:
        shared = next((each.env for each in application.configs if each.name == ALL), {})
        own = {each.name: each for each in application.configs if each.name != ALL}
        if shared:
            own = {name: own.get(name, AppConfig(name)) for name in dict.fromkeys((*own, *app_names))}
            own = {name: dataclasses.replace(each, env={**shared, **each.env}) for name, each in own.items()}
        application = dataclasses.replace(application, launch=names(application.launch), configs=tuple(own.values()))
    return dataclasses.replace(clusterfile, cluster=cluster, application=application)


def env_of(env: Mapping[str, Mapping[str, str]], app: str) -> dict[str, str]:
    """Values of one application from those of single applications, by name: those for all, then its own."""
    return {**env.get(ALL, {}), **env.get(app, {})}


def _check_files(application: ApplicationDocument, spec: ParsedMapping, report: FaultReport) -> None:
    for mapping, app in zip(spec.get("configs", ()), application.configs, strict=True):
        for entry, file in zip(mapping.get("files", ()), app.files, strict=True):
            if file.strategy == "merge" and file.path and config.language(file.path) is None:
                message = f"{file.path} is a text of which slipway knows no structure: nothing can be merged into it"
                report.fault(entry.at("strategy"), message, "strategy: overwrite")
