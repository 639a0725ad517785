"""Plan of a build, without building: the steps, the applications, the launch commands and the declared images.

Needs the Kubefile and its context only; neither the base image nor an engine, and helm only for charts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.build import discover
from harness.build.declared_images import DeclaredImage, RootfsFile, ScanResult
from harness.build.image_lists import read_image_list_with_auth, with_shim_lists
from harness.errors import Fault, InputError
from harness.kubefile import Kubefile
from harness.kubefile import applications as apps
from harness.kubefile import context as build_context
from harness.kubefile.checks import context_faults
from harness.kubefile.instructions import AppInstruction, Copy, Instruction, local_sources
from harness.kubefile.launch_commands import with_releases
from harness.oci.reference import Reference


def plan(kubefile: Kubefile, context: Path, *, helm: Path | None = None, image_list: Path | None = None) -> dict[str, Any]:
    """Return what ``slipway build --check`` prints, ready for JSON.

    ``{"base", "platform", "kubeVersion", "env", "labels", "steps": [{"line", "instruction", "text"}],
    "apps": [{"name", "kind", "role", "files", "env", "commands"}], "launch": [shell command],
    "images": [{"name", "foundBy": [], "where": []}], "possibleImages": [the same], "fromBase": [application], "warnings": [text]}``

    ``fromBase`` are applications that only the base image can have, so their commands are not in ``launch``. Raises InputError with every
    fault of the context and of the manifests.
    """
    faults = [*context_faults(kubefile.path, kubefile.instructions, context), *_references(kubefile)]
    applications: tuple[apps.KubefileApp, ...] = ()
    try:
        applications = apps.applications(kubefile, context)
    except InputError as wrong:
        faults += wrong.faults
    discovery = _discover(kubefile, context, helm, image_list)
    faults += discovery.faults
    if faults:
        raise InputError(dict.fromkeys(faults))
    known = [app.name for app in applications]
    launch, lone = with_releases(_launch(kubefile, applications), [file.path for file in rootfs_files(kubefile, context)])
    return {
        "base": kubefile.base.image,
        "platform": kubefile.platform,
        "kubeVersion": kubefile.kube_version,
        "env": dict(kubefile.environment),
        "labels": dict(kubefile.labels),
        "steps": [{"line": step.line, "instruction": step.name, "text": step.text} for step in kubefile.instructions],
        "apps": [_app(app) for app in applications],
        "launch": list(launch),
        "images": _images(discovery.images),
        "possibleImages": _images(discovery.possible),
        "fromBase": sorted({item.app for item in kubefile.deferred if item.app not in known}),
        "warnings": [str(warning) for warning in (*kubefile.warnings, *_advice(kubefile, context), *discovery.warnings)]
        + [f"{kubefile.path}: {chart}" for chart in lone],
    }


def rootfs_files(kubefile: Kubefile, context: Path) -> tuple[RootfsFile, ...]:
    """The files of the context as they will be in the rootfs, each called by its name in the context; later instructions win.

    What RUN makes, archives hold and URLs or other images give is not among them, nor what an instruction takes that ``context_faults``
    finds fault with.
    """
    by_path: dict[str, RootfsFile] = {}

    def is_folder(path: str) -> bool:
        return build_context.known_folder(path) or any(name.startswith(f"{path}/") for name in by_path)

    for instruction in kubefile.instructions:
        for entry in _placed(instruction, context, is_folder):
            if entry.source.is_file() and not entry.source.is_symlink() and not entry.archive:
                by_path[entry.path] = RootfsFile(entry.path, entry.source, _shown(context, entry.source))
    return tuple(by_path[path] for path in sorted(by_path))


def _placed(instruction: Instruction, context: Path, is_folder: Callable[[str], bool]) -> tuple[build_context.PlacedFile, ...]:
    if not isinstance(instruction, AppInstruction | Copy):
        return ()
    with contextlib.suppress(build_context.ContextError):
        if isinstance(instruction, AppInstruction):
            return build_context.place(context, local_sources(instruction), instruction.folder, is_folder=is_folder)
        return build_context.place(
            context, local_sources(instruction), instruction.destination, is_folder=is_folder, extract=instruction.add,
            parents=instruction.parents, exclude=instruction.exclude,
        )  # fmt: skip
    return ()


def _discover(kubefile: Kubefile, context: Path, helm: Path | None, image_list: Path | None) -> ScanResult:
    app_env = {item.app: apps.overrides(kubefile, item.app)[1] for item in kubefile.of(AppInstruction)}
    scan = discover.discover(rootfs_files(kubefile, context), env=kubefile.environment, app_env=app_env, image_list=image_list, helm=helm)
    scan = with_shim_lists(scan, context)
    with_auth = context / build_context.IMAGE_LIST_WITH_AUTH
    if not with_auth.is_file():
        return scan
    try:
        listed = tuple(image for section in read_image_list_with_auth(with_auth) for image in section.images)
    except InputError as wrong:
        return ScanResult(scan.images, scan.possible, (*scan.faults, *wrong.faults), scan.warnings)
    return ScanResult((*scan.images, *listed), scan.possible, scan.faults, scan.warnings)


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
            for path in build_context.find(context, source):
                if path != context and (path / "Chart.yaml").is_file():
                    destination = "/".join(part for part in (instruction.destination.rstrip("/"), path.name) if part)
                    message = f"{source} is a chart: its content is copied, not the folder"
                    yield Fault(kubefile.where(instruction), message, f"COPY {source} {destination} keeps it apart")


def _app(app: apps.KubefileApp) -> dict[str, Any]:
    return {
        "name": app.name,
        "kind": app.kind,
        "role": app.role,
        "files": list(app.files),
        "env": dict(app.env),
        "commands": list(app.commands),
    }


def _launch(kubefile: Kubefile, applications: Iterable[apps.KubefileApp]) -> list[str]:
    commands: dict[str, tuple[str, ...]] = {item.app: () for item in kubefile.deferred}
    env: dict[str, Mapping[str, str]] = {}
    for app in commands:
        commands[app] = apps.overrides(kubefile, app)[0] or ()
    for application in applications:
        commands[application.name] = application.commands
        env[application.name] = application.env
    return list(apps.launch(kubefile, commands, env))


def _images(declared: Iterable[DeclaredImage]) -> list[dict[str, Any]]:
    places: dict[str, list[DeclaredImage]] = {}
    for image in declared:
        places.setdefault(image.name, []).append(image)
    return [
        {"name": name, "foundBy": sorted({image.found_by for image in images}), "where": [image.where for image in images]}
        for name, images in sorted(places.items())
    ]
