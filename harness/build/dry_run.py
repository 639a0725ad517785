"""Plan of a build, without building: the steps, the applications, the launch commands and the declared images.

Needs the Kubefile and its context only; neither the base image nor an engine. Charts are read where helm is present.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.build import discover, expected_values
from harness.build.charts import CHART, chart_folders
from harness.build.declared_images import REPORT, DeclaredImage, RootfsFile, ScanResult, with_possible
from harness.build.expected_values import ImageValues, TemplateFile
from harness.build.image_archives import find_archives
from harness.build.image_lists import images_with_auth, with_shim_lists
from harness.build.launch_commands import launch_commands
from harness.build.yaml_documents import read_text
from harness.cloudimage import ImageApp
from harness.errors import Fault, InputError
from harness.kubefile import Kubefile, version_range
from harness.kubefile import applications as kubefile_applications
from harness.kubefile import context as kubefile_context
from harness.kubefile.checks import context_faults
from harness.kubefile.instructions import AppInstruction, Copy, Instruction, Run, local_sources
from harness.kubefile.launch_commands import LoneChart, with_releases
from harness.oci.reference import Reference
from harness.templates.tree import SCHEMA, is_template

_VENDORS = re.compile(r"\bhelm\s+dep")


def plan(
    kubefile: Kubefile,
    context: Path,
    *,
    helm: Path | None = None,
    kubectl: Path | None = None,
    image_list: Path | None = None,
    possible: str = REPORT,
) -> dict[str, Any]:
    """Return what ``slipway build --check`` prints, ready for JSON.

    ``{"base", "platform", "kubeVersion", "env", "labels", "steps": [{"line", "instruction", "text"}],
    "apps": [{"name", "kind", "role", "files", "env", "commands"}], "launch": [shell command],
    "images": [{"name", "foundBy": [], "where": []}], "possibleImages": [the same], "values": [those of the files, as in an image],
    "fromBase": [application], "warnings": [text]}``

    ``fromBase`` are applications that only the base image can have, so their commands are not in ``launch``. Raises InputError with every
    fault of the context and of the manifests.
    """
    faults = [*context_faults(kubefile.path, kubefile.instructions, context), *_references(kubefile)]
    applications: tuple[kubefile_applications.KubefileApp, ...] = ()
    launch: Sequence[str] = ()
    lone: Sequence[LoneChart] = ()
    placed = rootfs_files(kubefile, context)
    try:
        applications = kubefile_applications.applications(kubefile, context)
        launch, lone = with_releases(_launch(kubefile, applications), [file.path for file in placed])
    except InputError as wrong:
        faults += wrong.faults
    settings = discover.ScanSettings(helm=helm, kubectl=kubectl, image_list=image_list)
    discovery = with_possible(scan(kubefile, context, placed, [*launch, *_idle(kubefile, applications)], settings), possible)
    faults += discovery.faults
    values = ImageValues()
    try:
        values = _values(kubefile, placed)
    except InputError as wrong:
        faults += wrong.faults
    if faults:
        raise InputError(dict.fromkeys(faults))
    app_names = [app.name for app in applications]
    shown = {file.path: file.shown for file in placed}
    return {
        "base": kubefile.base.image,
        "platform": kubefile.platform,
        "kubeVersion": kubefile.kube_version,
        "env": dict(kubefile.environment),
        "labels": dict(kubefile.labels),
        "steps": [{"line": step.line, "instruction": step.name, "text": step.text} for step in kubefile.instructions],
        "apps": [_app(app) for app in applications],
        "launch": list(launch),
        "images": images_json(discovery.images),
        "possibleImages": images_json(discovery.possible),
        "values": [value.to_json() for value in values.values],
        "fromBase": sorted({item.app for item in kubefile.deferred if item.app not in app_names}),
        "warnings": [
            *(str(warning) for warning in (*kubefile.warnings, *_advice(kubefile, context), *discovery.warnings)),
            *(str(warning) for warning in (*_asked(values, shown), *values.warnings)),
            *(f"{kubefile.path}: {chart}" for chart in lone),
        ],
    }


def rootfs_files(kubefile: Kubefile, context: Path) -> tuple[RootfsFile, ...]:
    """The files of the context as they will be in the rootfs, each called by its name in the context; later instructions win.

    What RUN makes, archives hold and URLs or other images give is not among them, nor what an instruction takes that ``context_faults``
    finds fault with.
    """
    by_path: dict[str, RootfsFile] = {}
    folders: set[str] = set()

    def is_folder(path: str) -> bool:
        return kubefile_context.known_folder(path) or path in folders or any(name.startswith(f"{path}/") for name in by_path)

    for instruction in kubefile.instructions:
        if isinstance(instruction, Run):
            folders.update(_made_folders(instruction))
        for entry in _placed(instruction, context, is_folder):
            if entry.source.is_file() and not entry.source.is_symlink() and not entry.archive:
                by_path[entry.path] = RootfsFile(entry.path, entry.source, _shown(context, entry.source))
    return tuple(by_path[path] for path in sorted(by_path))


def _placed(instruction: Instruction, context: Path, is_folder: Callable[[str], bool]) -> tuple[kubefile_context.PlacedFile, ...]:
    if not isinstance(instruction, AppInstruction | Copy):
        return ()
    with contextlib.suppress(kubefile_context.ContextError):
        if isinstance(instruction, AppInstruction):
            return kubefile_context.place(context, local_sources(instruction), instruction.folder, is_folder=is_folder)
        return kubefile_context.place(
            context, local_sources(instruction), instruction.destination, is_folder=is_folder, extract=instruction.add,
            parents=instruction.parents, exclude=instruction.exclude,
        )  # fmt: skip
    return ()


def _made_folders(instruction: Run) -> Iterator[str]:
    """Folders that a RUN makes with mkdir, as far as its words say so."""
    command = instruction.command if isinstance(instruction.command, str) else shlex.join(instruction.command)
    for words in re.findall(r"(?:^|[;&|\n(])\s*mkdir\s+([^;&|\n)]+)", command):
        yield from (word.strip("'\"").removeprefix("./").rstrip("/") for word in words.split() if not word.startswith("-"))


def scan(
    kubefile: Kubefile, context: Path, placed: Sequence[RootfsFile], commands: Iterable[str], settings: discover.ScanSettings
) -> ScanResult:
    """The images that files of the context name, as the Kubefile places them and ``commands`` launch them; faults are returned."""
    lowest = version_range.lowest(kubefile.kube_version) if kubefile.kube_version else None
    settings = dataclasses.replace(
        settings,
        env=kubefile.environment,
        app_env={item.app: kubefile_applications.overrides(kubefile, item.app)[1] for item in kubefile.of(AppInstruction)},
        launch=launch_commands(kubefile, commands),
        kube_version=lowest,
        vendored_later=any(_VENDORS.search(str(item.command)) for item in kubefile.of(Run)),
    )
    result = with_shim_lists(discover.discover(placed, settings), context)
    listed, faults = images_with_auth(context)
    archived: list[DeclaredImage] = []
    try:
        archived = [image for archive in find_archives(context, placed) for image in archive.images]
    except InputError as wrong:
        faults = (*faults, *wrong.faults)
    return dataclasses.replace(result, images=(*result.images, *listed, *archived), faults=(*result.faults, *faults))


def _idle(kubefile: Kubefile, applications: Iterable[kubefile_applications.KubefileApp]) -> list[str]:
    """Commands of applications that the image does not launch by itself: a Clusterfile may."""
    idle = [app for app in applications if app.name not in kubefile.launch]
    return [kubefile_applications.with_environment(command, app.env) for app in idle for command in app.commands]


def _values(kubefile: Kubefile, placed: Sequence[RootfsFile]) -> ImageValues:
    """The values that files of the context expect; those of the base image are not known. Raises InputError."""
    rendered = [file for file in placed if is_template(file.path) or file.path == SCHEMA]
    charts = chart_folders(placed)
    schema: tuple[str, str] | None = None
    files: list[TemplateFile] = []
    for file in rendered:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = read_text(file.source)
            if file.path == SCHEMA:
                schema = text, file.shown
            elif "{" in text and not any(file.path.startswith(f"{folder}/") for folder in ("charts", *charts)):
                files.append(TemplateFile(file.path, text, file.shown))
    apps_env = {item.app: kubefile_applications.overrides(kubefile, item.app)[1] for item in kubefile.of(AppInstruction)}
    return expected_values.find(files, kubefile.environment, [ImageApp(name, "", env=env) for name, env in apps_env.items()], schema)


def _asked(values: ImageValues, shown: Mapping[str, str]) -> Iterator[Fault]:
    """A warning for each value that is to be given; ``shown`` are the names of files in the context."""
    for value in values.values:
        if value.required:
            path, colon, line = value.where[0].rpartition(":") if value.where else (SCHEMA, "", "")
            where = f"{shown.get(path, path)}{colon}{line}"
            yield Fault(where, f"{value.name} has no default: it is to be given when the image runs", f"-e {value.name}=VALUE")


def _shown(context: Path, source: Path) -> str:
    real = context.resolve()
    return str(context / source.relative_to(real)) if source.is_relative_to(real) else str(source)


def _references(kubefile: Kubefile) -> Iterator[Fault]:
    """Invalid image names in FROM and COPY --from."""
    named = [(kubefile.base, kubefile.base.image)] if kubefile.base.image != "scratch" else []
    for instruction, image in [*named, *((item, item.from_image) for item in kubefile.of(Copy) if item.from_image)]:
        try:
            Reference.parse(image)
        except ValueError as wrong:
            yield Fault(kubefile.where(instruction), f"{instruction.name}: {wrong}")


def _advice(kubefile: Kubefile, context: Path) -> Iterator[Fault]:
    """A chart that is copied into charts/ or the root gives its content, so that a second one would be mixed into it."""
    for instruction in kubefile.of(Copy):
        if instruction.destination.rstrip("/") not in ("", "charts"):
            continue
        for source in local_sources(instruction):
            for path in kubefile_context.find(context, source):
                if path != context and (path / CHART).is_file():
                    destination = "/".join(part for part in (instruction.destination.rstrip("/"), path.name) if part)
                    message = f"{source} is a chart: its content is copied, not the folder"
                    yield Fault(kubefile.where(instruction), message, f"COPY {source} {destination} keeps it apart")


def _app(app: kubefile_applications.KubefileApp) -> dict[str, Any]:
    return {
        "name": app.name,
        "kind": app.kind,
        "role": app.role,
        "files": list(app.files),
        "env": dict(app.env),
        "commands": list(app.commands),
    }


def _launch(kubefile: Kubefile, applications: Iterable[kubefile_applications.KubefileApp]) -> list[str]:
    commands: dict[str, tuple[str, ...]] = {item.app: () for item in kubefile.deferred}
    env: dict[str, Mapping[str, str]] = {}
    for app in commands:
        commands[app] = kubefile_applications.overrides(kubefile, app)[0] or ()
    for application in applications:
        commands[application.name] = application.commands
        env[application.name] = application.env
    return list(kubefile_applications.launch(kubefile, commands, env))


def images_json(declared: Iterable[DeclaredImage]) -> list[dict[str, Any]]:
    """Images, each once with every place that names it, ready for JSON."""
    places: dict[str, list[DeclaredImage]] = {}
    for image in declared:
        places.setdefault(image.name, []).append(image)
    return [
        {"name": name, "foundBy": sorted({image.found_by for image in images}), "where": [image.where for image in images]}
        for name, images in sorted(places.items())
    ]
