"""Container images that the files of a rootfs name: pod specs, charts and kustomizations as launch commands apply them, image lists.

An image is *declared* where Kubernetes reads one, in the containers of a pod spec, and where a convention says so (``RELATED_IMAGE_*``).
What only has the form of an image (an argument of an operator, a field of its resource) is *possible*: see possible_images.
"""

from __future__ import annotations

import dataclasses
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.build.charts import CHART, ChartRenderer, chart_folders, is_chart, is_packed, is_packed_chart, read_annotations
from harness.build.declared_images import GatheredImages, RootfsFile, ScanResult
from harness.build.image_lists import IMAGE_LIST, listed_images
from harness.build.kustomize import read_kustomization
from harness.build.launch_commands import ChartRelease, LaunchCommand, LaunchReading, read_launch_commands
from harness.build.manifests import read_manifest
from harness.build.possible_images import images_in
from harness.build.yaml_documents import is_yaml
from harness.errors import InputError
from harness.templates.job import GO, output_name
from harness.templates.tree import env_of


@dataclasses.dataclass(frozen=True)
class ScanSettings:
    """Settings of a scan. ``env`` has the values of templates, ``app_env`` those that an application adds."""

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    app_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    image_list: Path | None = None
    """The user's ``--image-list``."""
    launch: Sequence[LaunchCommand] = ()
    """Every command that may start the image or an application of it."""
    helm: Path | None = None
    """The program that renders charts."""
    kube_version: str | None = None
    """The version of Kubernetes that charts are rendered for."""
    kubectl: Path | None = None
    """The program that renders kustomizations; without one a small reader does."""
    vendored_later: bool = False
    """A RUN that is not performed may fetch the dependencies of charts."""


def declared(root: Path, settings: ScanSettings | None = None) -> ScanResult:
    """Return the images that an unpacked rootfs names, and those of the user's ``--image-list``.

    Raises InputError with every fault: a manifest that is not YAML, a name that is not valid.
    """
    scan = discover(files(root), settings)
    if scan.faults:
        raise InputError(scan.faults)
    return scan


def files(root: Path) -> tuple[RootfsFile, ...]:
    """The files of an unpacked rootfs, sorted; links are not followed."""
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return tuple(RootfsFile(name, path, name) for path in paths if (name := path.relative_to(root).as_posix()))


def discover(rootfs_files: Iterable[RootfsFile], settings: ScanSettings | None = None) -> ScanResult:
    """As ``declared``, for files that need not be in one tree. Faults in files are returned, not raised."""
    settings = settings or ScanSettings()
    present = {file.path: file for file in rootfs_files}
    reading = read_launch_commands(settings.launch, present, settings.env)
    gathered = GatheredImages(warnings=list(reading.warnings))
    covered = _read_kustomizations(gathered, present, reading, settings)
    folders = chart_folders(list(present.values()))
    _read_charts(gathered, present, folders, reading, settings)
    for file in present.values():
        if file.path == IMAGE_LIST:
            gathered.take(listed_images(file.source, file.shown))
            continue
        applied = file.path in reading.manifests
        below_chart = any(file.path.startswith(f"{folder}/") for folder in folders)
        if applied or (file.path not in covered and not below_chart and _relevant(file.path)):
            read_manifest(gathered, file, env_of(file.path, settings.env, settings.app_env), applied=applied)
    _read_commands(gathered, reading, settings)
    if settings.image_list is not None:
        gathered.take(listed_images(settings.image_list, str(settings.image_list)))
    return gathered.result()


def _read_kustomizations(
    gathered: GatheredImages, present: Mapping[str, RootfsFile], reading: LaunchReading, settings: ScanSettings
) -> set[str]:
    """Returns the files that are applied as kustomizations make them, not as they are."""
    covered: set[str] = set()
    for folder in reading.kustomizations:
        env = env_of(f"{folder}/x", settings.env, settings.app_env)
        covered |= read_kustomization(gathered, folder, present, env, kubectl=settings.kubectl)
    return covered


def _read_charts(
    gathered: GatheredImages, present: Mapping[str, RootfsFile], folders: Sequence[str], reading: LaunchReading, settings: ScanSettings
) -> None:
    """Charts, each as often as launch commands install it; one that none installs with its own values."""
    renderer = ChartRenderer(present, settings.helm, settings.kube_version, settings.env, settings.app_env, settings.vendored_later)
    charts = {path for folder in folders if (path := f"{folder}/{CHART}") in present}
    charts |= {path for path in present if is_packed(path) and is_chart(path)}
    named = [path for item in reading.releases for path in (item.chart, posixpath.join(item.chart, CHART)) if path in present]
    for path in sorted({*charts, *named}):
        file = present[path]
        packed = is_packed(path)
        if packed and not is_packed_chart(file.source):
            continue
        if not packed:
            read_annotations(gathered, file)
        chart = path if packed else posixpath.dirname(path)
        releases: list[ChartRelease | None] = list(dict.fromkeys(item for item in reading.releases if item.chart == chart))
        for release in releases or [None]:
            renderer.read(gathered, file, release)


def _read_commands(gathered: GatheredImages, reading: LaunchReading, settings: ScanSettings) -> None:
    """Images that stand in launch commands themselves."""
    for image, where in reading.images:
        gathered.add(image, where, wrong=gathered.warnings)
    for command in settings.launch:
        for _, image in images_in(command.text):
            gathered.add(image, command.where, possible=True)


def _relevant(path: str) -> bool:
    """Manifests, applications, ``etc/`` and the rootfs's top, whatever launch commands name."""
    name = posixpath.basename(path)
    if "/" in path and not path.startswith(("manifests/", "application/apps/", "etc/")):
        return False
    return (is_yaml(output_name(name)) and name != CHART) or (name.endswith(GO) and path.startswith("manifests/"))
