"""Run settings of an image, from sealer's extension and labels."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from harness.cloudimage import ImageApp, Info
from harness.kubefile import applications, instructions
from harness.sealer.annotations import TYPES, Extension, SealerApplication
from harness.sealer.image import KIND, ImageProblem, SealerPart

LABEL_RUNTIME = "cluster.alpha.sealer.io/cluster-runtime-type"
_RUNTIMES = {"kubernetes": "kubeadm"}


def run_info(part: SealerPart, extension: Extension, problems: list[ImageProblem]) -> Info:
    """Run settings of the image. Applications that cannot be launched are added to ``problems``."""
    apps = tuple(_app(application, part.labels) for application in extension.applications)
    by_name = {app.name: app for app in apps}
    for name in extension.launch_apps:
        if name not in by_name:
            problems.append(ImageProblem("launch", name, "the image launches this application, but does not have it"))
        elif not by_name[name].commands:
            problems.append(ImageProblem("launch", name, "the image launches this application, but nothing says how it starts"))
    started = [by_name[name] for name in extension.launch_apps if name in by_name]
    # As in sealer: applications first, raw commands only when no application has any.
    launch = tuple(applications.with_environment(command, app.env) for app in started for command in app.commands)
    return Info(
        type=TYPES[extension.type],
        kubernetes=part.kubernetes,
        runtime=_RUNTIMES.get(runtime := part.labels.get(LABEL_RUNTIME, "kubernetes"), runtime),
        env=extension.env,
        launch=launch or tuple(command for command in extension.launch_commands if command),
        apps=apps,
        labels=part.labels,
        kube_version=part.labels.get(instructions.LABEL_KUBE_VERSION) or None,
        cluster_apps=tuple(app.name for app in apps if app.labels),
        converted_from={"tool": KIND, "version": extension.sealer, "digest": part.digest},
    )


def _app(application: SealerApplication, labels: Mapping[str, str]) -> ImageApp:
    kind = application.kind if application.kind in (applications.HELM, applications.KUBE, applications.SHELL) else applications.MIXED
    commands: tuple[str, ...] = ()
    if application.commands:
        # APPCMDS is one command, written as a list of its words.
        commands = (f"cd {shlex.quote(f'application/apps/{application.name}')} && {' '.join(application.commands)}",)
    elif kind != applications.MIXED:
        commands = applications.default_commands(application.name, kind, application.files)
    role_labels = [f"{role}{application.name}" for role in (instructions.LABEL_CNI, instructions.LABEL_CSI)]
    roles = {label: "true" for label in role_labels if labels.get(label) == "true"}
    return ImageApp(application.name, kind, application.files, application.env, commands, roles)
