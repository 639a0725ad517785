"""Run settings of an image: environment, labels, applications and launch, of the base and of the Kubefile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from harness import log, untrusted
from harness.build import expected_values, sandbox_plan
from harness.build.base_image import base_digest
from harness.build.expected_values import FORMAT, ImageValues, TemplateFile
from harness.build.layers import BuildStep, LayerBuilder
from harness.cloudimage import ImageApp, Info, PlatformImage
from harness.clusterfile import secrets
from harness.errors import BuildError
from harness.kubefile import Kubefile, applications, instructions, version_range
from harness.kubefile.launch_commands import with_releases
from harness.oci.model import canonical_json
from harness.templates.tree import SCHEMA, is_template, templates

_KIND_LABELS = {"cni": instructions.LABEL_CNI, "csi": instructions.LABEL_CSI}


def exposed(parsed: Kubefile, info: Info, steps: Sequence[BuildStep]) -> list[str]:
    """Return a warning for each build argument that looks like a secret and whose value the image holds in clear."""
    written = json.dumps([info.to_json(), [step.text for step in steps]], ensure_ascii=False)
    return [
        f"{parsed.where(instruction)}: the value of ARG {name} looks like a secret and is written into the image in clear: "
        "use {{ " + name + " }} in a file or ${" + name + "} in ENV, and give the value to `slipway run -e`"
        for instruction in parsed.of(instructions.Arg)
        for name, value in instruction.values.items()
        if value and secrets.is_secret(name, value) and json.dumps(value, ensure_ascii=False)[1:-1] in written
    ]


def image_info(parsed: Kubefile, apps: Sequence[applications.KubefileApp], base: PlatformImage | None, work: LayerBuilder) -> Info:
    """Run settings of the image. Environment, labels and applications of the base are inherited; its launch unless it is replaced."""
    inherited = base.info if base else Info(type="app")
    own = tuple(ImageApp(app.name, app.kind, app.files, dict(app.env), app.commands, _role_labels(app)) for app in apps)
    names = {app.name for app in own}
    kept = tuple(_overridden(parsed, app) for app in inherited.apps if app.name not in names)
    every = (*kept, *own)
    started = applications.launch(parsed, {app.name: app.commands for app in every}, {app.name: dict(app.env) for app in every})
    launch, lone = with_releases(started, work.files())
    own_launch = bool(parsed.launch or parsed.commands)
    arguments = parsed.command_arguments if own_launch else inherited.launch_arguments
    template = with_releases(parsed.written_commands, work.files())[0] if own_launch else inherited.launch_template
    for chart in lone:
        log.warning(f"{parsed.path}: {chart}")
    labels = {**inherited.labels, **parsed.labels, **{key: value for app in own for key, value in app.labels.items()}}
    cluster_apps = (*inherited.cluster_apps, *(app.name for app in own if app.labels and app.name not in inherited.cluster_apps))
    version = _kubernetes(work) or inherited.kubernetes
    if parsed.kube_version and version and not version_range.satisfies(version, parsed.kube_version):
        raise BuildError(f"{parsed.path}: KUBEVERSION {parsed.kube_version} does not admit Kubernetes {version} of the base image")
    reference = {"reference": parsed.base.image, "digest": base_digest(parsed, work.store, base)} if base else None
    return Info(
        type="kube" if version or inherited.type == "kube" else "app", kubernetes=version, env={**inherited.env, **parsed.environment},
        launch=launch if own_launch else inherited.launch,
        launch_template=template if arguments else (), launch_arguments=arguments,
        apps=every, labels=labels, base=reference, kube_version=parsed.kube_version or inherited.kube_version, cluster_apps=cluster_apps,
        converted_from=None if "etc/slipway.yaml" in work.files() else inherited.converted_from,
    )  # fmt: skip


def image_values(info: Info, base: PlatformImage | None, work: LayerBuilder) -> ImageValues:
    """Values that the files of the image expect. The tree is read only when something that they depend on has changed.

    Raises InputError for a schema that is not valid, and for an ENV that it refuses.
    """
    inherited = base.info.values if base else ()
    read = {
        path: list(facts) for path, facts in work.files().items() if path == SCHEMA or is_template(path) or path.endswith("/Chart.yaml")
    }
    described = [FORMAT, read, dict(info.env), [app.to_json() for app in info.apps], [value.to_json() for value in inherited]]
    record_key = hashlib.sha256(canonical_json(described)).hexdigest()
    record = work.store.record("values", record_key)
    if record is not None:
        return ImageValues.from_json(record)
    tree = work.tree()
    files = [TemplateFile(path, text, path) for path, text in templates(tree)] if read else []
    reader = untrusted.UntrustedTree(tree, what="the rootfs of the image", error=BuildError)
    schema = (reader.read_text(SCHEMA), SCHEMA) if SCHEMA in read and reader.is_file(SCHEMA) else None
    values = expected_values.find(files, info.env, info.apps, schema, inherited)
    work.store.keep("values", record_key, values.to_json())
    return values


def _role_labels(app: applications.KubefileApp) -> dict[str, str]:
    return {f"{_KIND_LABELS[app.role]}{app.name}": "true"} if app.role in _KIND_LABELS else {}


def _overridden(parsed: Kubefile, app: ImageApp) -> ImageApp:
    """An application of the base, with APPCMDS and APPENV of this Kubefile applied."""
    commands, env = applications.overrides(parsed, app.name)
    return dataclasses.replace(app, commands=app.commands if commands is None else commands, env={**app.env, **env})


def _kubernetes(work: LayerBuilder) -> str | None:
    """Kubernetes version according to the rootfs."""
    if "etc/slipway.yaml" not in work.files():
        return None
    record_key = hashlib.sha256(canonical_json([list(work.files()["etc/slipway.yaml"])])).hexdigest()
    record = work.store.record("facts", record_key)
    if record is None:
        facts = sandbox_plan.facts(work.tree())
        record = {"kubernetes": facts.kubernetes if facts else ""}
        work.store.keep("facts", record_key, record)
    return str(record["kubernetes"]) or None
