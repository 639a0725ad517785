"""Container images of a build context, a chart, a manifest or a stored CloudImage, by reading alone: what names each, and where."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import build, cloudimage
from harness.build import discover, image_lock
from harness.build.charts import CHART, is_packed, is_packed_chart
from harness.build.container_images import Builder
from harness.build.declared_images import RootfsFile, ScanResult
from harness.build.dry_run import images_json
from harness.build.image_archives import ENDINGS
from harness.build.image_lock import Resolve, resolve_tags
from harness.build.kustomize import NAMES
from harness.build.launch_commands import LaunchCommand
from harness.build.options import BuildOptions, image_roots
from harness.cloudimage import unpacked
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.host import tools
from harness.kubefile import applications, version_range
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store


def find_in_context(options: BuildOptions) -> dict[str, Any]:
    """The images of a folder with a Kubefile, as ``build --check`` finds them: see described(). Raises InputError."""
    plan = build.check(options)
    return {
        "subject": str(options.path),
        "images": plan["images"],
        "possibleImages": plan["possibleImages"],
        "warnings": plan["warnings"],
    }


def find_in_files(path: Path) -> dict[str, Any]:
    """The images of a chart, a packed chart, a manifest, or a folder of them. Raises InputError with every fault."""
    chart = (path / CHART).is_file()
    packed = path.is_file() and is_packed(path.name) and is_packed_chart(path)
    top = f"charts/{path.resolve().name}" if chart else "charts" if packed else "manifests"
    folder = path if path.is_dir() else path.parent
    paths = _below(path) if path.is_dir() else [path]
    files = [RootfsFile(f"{top}/{item.relative_to(folder).as_posix()}", item, str(item)) for item in paths]
    launch = [LaunchCommand(f"kubectl apply -k {top}", str(path))] if any((folder / name) in paths for name in NAMES) else []
    if path.is_file() and not packed:
        launch = [LaunchCommand(f"kubectl apply -f '{files[0].path}'", str(path))]
    settings = discover.ScanSettings(helm=tools.present_helm(), kubectl=tools.present_kubectl(), launch=launch)
    return described(str(path), discover.discover(files, settings))


def _below(folder: Path) -> list[Path]:
    """Files below a folder, hidden ones and links left out."""
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not Path(parent, name).is_symlink())
        paths += [path for name in sorted(names) if not name.startswith(".") and not (path := Path(parent, name)).is_symlink()]
    return paths


def find_in_image(store: Store, name: str) -> dict[str, Any]:
    """The images that the files of a CloudImage of the local store name. Raises InputError with every fault, StoreError."""
    image = cloudimage.read(store, name)
    part = image.platforms[0]
    with contextlib.suppress(StoreError):
        part = image.platform(Platform.host())
    info = part.info
    tree = unpacked.unpacked_rootfs(store, part.layers)
    commands = [*info.launch, *(applications.with_environment(command, app.env) for app in info.apps for command in app.commands)]
    settings = discover.ScanSettings(
        env=info.env,
        app_env={app.name: {**info.env, **app.env} for app in info.apps},
        launch=[LaunchCommand(command, "launch") for command in dict.fromkeys(commands)],
        helm=tools.present_helm(),
        kube_version=info.kubernetes or (version_range.lowest(info.kube_version) if info.kube_version else None),
        kubectl=tools.present_kubectl(),
    )
    return described(image.name or name, discover.discover(discover.files(tree), settings))


def described(subject: str, scan: ScanResult) -> dict[str, Any]:
    """A result, ready for JSON.

    ``{"subject", "images": [{"name", "foundBy": [], "where": []}], "possibleImages": [the same], "warnings": [text]}``.
    Raises InputError when files have faults.
    """
    if scan.faults:
        raise InputError(scan.faults)
    return {
        "subject": subject,
        "images": images_json(scan.images),
        "possibleImages": images_json(scan.possible),
        "warnings": [str(warning) for warning in scan.warnings],
    }


def why(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The part of a result that is about one image: its whole name, its repository, or a part of its name. Raises UsageError."""
    canonical = repository = name
    with contextlib.suppress(ValueError):
        canonical, repository = str(Reference.parse(name)), Reference.parse(name).repository
    ways: tuple[Callable[[str], bool], ...] = (
        lambda image: image in (name, canonical),
        lambda image: Reference.parse(image).repository == repository,
        lambda image: name in image,
    )
    for chosen in ways:
        part = {key: [image for image in result[key] if chosen(image["name"])] for key in ("images", "possibleImages")}
        if any(part.values()):
            return {**result, **part, "warnings": []}
    raise UsageError(f"--why {name}: no file of {result['subject']} names it", hint=f"slipway find-images {result['subject']} lists all")


def lock(result: Mapping[str, Any], context: Path, store: Store, resolve: Resolve) -> dict[str, str]:
    """Digests of the tags of a result, asked from their registries. Raises InputError that lists every tag without one.

    So are those that only the ``images.lock`` of the context names: a run may have found them, which `slipway build --lock` wrote.
    Images that the build makes itself, and those in archives of the context, have no tag in a registry to be kept.
    """
    builder = Builder(store, image_roots(context))
    archived = set(_archived(result))
    named = [image["name"] for image in result["images"]]
    written = image_lock.beside(context / "Kubefile").keys() - set(named)
    asked = [name for name in (*named, *sorted(written)) if name not in archived and builder.find(Reference.parse(name)) is None]
    digests, errors = resolve_tags(asked, resolve)
    if errors:
        hints = dict.fromkeys(written, f"no file names it: if no run needs it either, remove its line from {image_lock.NAME}")
        raise InputError([Fault(name, error.message, hints.get(name, error.hint)) for name, error in sorted(errors.items())])
    return digests


def _archived(result: Mapping[str, Any]) -> Iterator[str]:
    for image in result["images"]:
        if "listed" in image["foundBy"] and any(str(where).endswith(ENDINGS) for where in image["where"]):
            yield image["name"]
