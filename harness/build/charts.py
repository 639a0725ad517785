"""Images in charts, which helm renders with the values that the launch commands give, or with the chart's own."""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from harness import process, untrusted
from harness.build.declared_images import GatheredImages, RootfsFile
from harness.build.launch_commands import ChartRelease
from harness.build.manifests import find_annotated_images, find_images, rendered_text
from harness.build.yaml_documents import documents_of, items_of, place_of, read_text, reason_of, text_of, value_of
from harness.errors import CommandError, Fault, InputError, StoreError
from harness.host import scratch
from harness.oci.layer import tarball
from harness.templates.job import output_name
from harness.templates.tree import env_of, is_template

_SOURCE = re.compile(r"^# Source: (\S+)", re.MULTILINE)
_RELEASE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,51}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NOT_VENDORED = re.compile(r"missing in charts/ directory: (.*)")


CHART = "Chart.yaml"
"""In the folder of every chart."""
_PACKED = ".tgz"
_PACKED_PLACES = ("charts/", "application/apps/")
"""Folders in which a packed chart counts although no launch command names it."""


def is_chart(path: str) -> bool:
    """Return whether a file of a rootfs makes a chart by its path: Chart.yaml of a folder, or a packed chart where charts are kept."""
    return posixpath.basename(path) == CHART or (is_packed(path) and path.startswith(_PACKED_PLACES))


def is_packed(path: str) -> bool:
    """Return whether a chart's path is that of an archive, not of a Chart.yaml."""
    return path.endswith(_PACKED)


def chart_folders(rootfs_files: Sequence[RootfsFile]) -> list[str]:
    """The folders of charts, without the charts inside of charts: helm renders those with their parents."""
    folders = sorted(posixpath.dirname(file.path) for file in rootfs_files if posixpath.basename(file.path) == CHART and "/" in file.path)
    return [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]


def is_packed_chart(path: Path) -> bool:
    """Return whether a file on disk is a packed chart by its content."""
    try:
        with tarball.open_tarball(path) as tar:
            return any(re.fullmatch(r"[^/]+/Chart\.yaml", entry.name.removeprefix("./")) for entry in tar)
    except (OSError, StoreError):
        return False


def read_annotations(gathered: GatheredImages, file: RootfsFile) -> None:
    try:
        for document in documents_of(read_text(file.source)):
            find_annotated_images(gathered, document, file.shown, lines=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        gathered.faults.append(Fault(place_of(file.shown, wrong), reason_of(wrong)))


@dataclasses.dataclass(frozen=True)
class ChartRenderer:
    """Renders charts of a rootfs with helm, for a version of Kubernetes."""

    files: Mapping[str, RootfsFile]
    """All files of the rootfs, by path."""
    helm: Path | None
    kube_version: str | None
    env: Mapping[str, str]
    app_env: Mapping[str, Mapping[str, str]]
    vendored_later: bool = False
    """A RUN that is not performed may fetch the dependencies of charts."""

    def read(self, gathered: GatheredImages, file: RootfsFile, release: ChartRelease | None) -> None:
        """The images in what helm renders of a chart: ``file`` is its Chart.yaml, or the packed chart.

        Without ``release`` no launch command installs it, and its own values count.
        """
        missing = [] if is_packed(file.path) else list(self._not_vendored(file))
        if missing:
            self._report_missing(gathered, file, missing, release)
            return
        if self.helm is None:
            gathered.warnings.append(Fault(file.shown, "this chart was not read: helm is not installed", "put helm on PATH"))
            return
        folder = file.source.parent
        stray = _stray_link(file, folder if not is_packed(file.path) else file.source)
        if stray:
            message = f"this chart was not read: {stray} is a link that leads out of it"
            gathered.warnings.append(Fault(file.shown, message, "put the file there"))
            return
        with tempfile.TemporaryDirectory(prefix="chart-", dir=scratch.folder()) as work:
            chart = self._chart(file, Path(work))
            try:
                values = self._values(release, Path(work))
                rendered = process.run([self.helm, "template", *_words(release, chart, self.kube_version), *values], timeout=300).stdout
                documents = list(_split(rendered))
            except InputError as wrong:
                gathered.faults += wrong.faults
                return
            except (CommandError, yaml.YAMLError, OSError, UnicodeDecodeError) as wrong:
                self._report_refusal(gathered, file, wrong, release)
                return
        shown = file.shown if is_packed(file.path) else posixpath.dirname(file.shown)
        for source, document in documents:
            # helm prints <the chart's name>/templates/x.yaml; the user knows the folder.
            template = source.partition("/")[2]
            find_images(gathered, document, posixpath.join(shown, template) if template else file.shown, lines=False)

    def _report_refusal(self, gathered: GatheredImages, file: RootfsFile, wrong: Exception, release: ChartRelease | None) -> None:
        lines = (getattr(wrong, "details", None) or str(wrong)).strip().splitlines()
        reason = next((line for line in lines if line.startswith("Error:")), lines[-1] if lines else str(wrong))
        absent = _NOT_VENDORED.search(reason)
        if absent:
            self._report_missing(gathered, file, [name.strip() for name in absent[1].split(",")], release)
            return
        values = f"the values of {release.where}" if release else "its own values"
        hint = "list its images in manifests/imageList, unless the image is run to find them"
        gathered.warnings.append(Fault(file.shown, f"helm cannot render this chart with {values}: {reason}", hint))

    def _report_missing(self, gathered: GatheredImages, file: RootfsFile, names: Sequence[str], release: ChartRelease | None) -> None:
        chart = file.shown if is_packed(file.path) else posixpath.dirname(file.shown)
        message = f"the dependency {', '.join(names)} of this chart is not in its charts folder, so helm cannot install it"
        report = gathered.faults if release and not self.vendored_later else gathered.warnings
        report.append(Fault(file.shown, message, f"helm dependency update {chart}"))

    def _not_vendored(self, file: RootfsFile) -> Iterator[str]:
        """Dependencies in Chart.yaml, or in an older chart's requirements.yaml, that are not in the chart's folder ``charts``."""
        folder = posixpath.dirname(file.path)
        prefix = f"{folder}/charts/"
        inner = [path.removeprefix(prefix) for path in self.files if path.startswith(prefix)]
        packed = [path for path in inner if is_packed(path) and "/" not in path]
        present = {path.partition("/")[0] for path in inner if re.fullmatch(r"[^/]+/Chart\.yaml", path)}
        present |= {name for path in inner if re.fullmatch(r"[^/]+/Chart\.yaml", path) for name in _chart_names(self.files[prefix + path])}
        for source in (CHART, "requirements.yaml"):
            named = self.files.get(f"{folder}/{source}")
            for item in _listed_dependencies(named) if named else ():
                name = text_of(value_of(item, "name"))
                if name and name not in present and not any(path.startswith(f"{name}-") for path in packed):
                    yield name

    def _chart(self, file: RootfsFile, work: Path) -> Path:
        """The chart as one folder: its own, or a copy where a Kubefile puts its files together from several places."""
        if is_packed(file.path):
            return file.source
        folder, source = posixpath.dirname(file.path), file.source.parent
        own = {path.removeprefix(f"{folder}/"): other for path, other in self.files.items() if path.startswith(f"{folder}/")}
        if all(other.source == source / path for path, other in own.items()):
            return source
        target = work / posixpath.basename(folder)
        for path, other in own.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(other.source, target / path)
        return target

    def _values(self, release: ChartRelease | None, work: Path) -> Iterator[str]:
        """Options of helm for the values of a launch command. Files are copies: their names may hold what helm reads otherwise."""
        for number, (option, text) in enumerate(release.values if release else ()):
            if option == "values":
                yield f"--values={self._copied(text, work / f'values-{number}.yaml')}"
            elif option == "set-file":
                key, _, path = text.rpartition("=")
                yield f"--set-file={key}={self._copied(path, work / f'file-{number}')}"
            else:
                yield f"--{option}={text}"

    def _copied(self, path: str, target: Path) -> Path:
        """A copy of a file of the rootfs, rendered when it is a template."""
        file = next(file for name, file in self.files.items() if output_name(name) == path)
        if not is_template(file.path):
            shutil.copyfile(file.source, target)
            return target
        env = env_of(file.path, self.env, self.app_env)
        target.write_text(rendered_text(file, env))
        return target


def _words(release: ChartRelease | None, chart: Path, kube_version: str | None) -> Iterator[str | Path]:
    name = release.release if release and _RELEASE_NAME.fullmatch(release.release) else "slipway"
    yield from (name, chart, "--include-crds")
    if kube_version:
        yield from ("--kube-version", kube_version)
    if release and _NAMESPACE.fullmatch(release.namespace):
        yield f"--namespace={release.namespace}"


def _listed_dependencies(file: RootfsFile) -> Sequence[yaml.Node]:
    try:
        return [item for document in documents_of(read_text(file.source)) for item in items_of(value_of(document, "dependencies"))]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return ()  # reported by read_annotations


def _chart_names(file: RootfsFile) -> Iterator[str]:
    try:
        yield from (name for document in documents_of(read_text(file.source)) if (name := text_of(value_of(document, "name"))))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return


def _stray_link(file: RootfsFile, chart: Path) -> str | None:
    """A link in a chart's folder that leads out of the tree that the chart is in; helm would follow it to any file of this machine."""
    parts = file.path.split("/")
    # Only a file that lies as deep as its path says is known to be in a tree of its own.
    in_tree = file.source.as_posix().endswith(f"/{file.path}")
    root = file.source.parents[len(parts) - 1] if in_tree else chart
    tree = untrusted.UntrustedTree(root)
    for folder, folders, names in os.walk(chart):
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            if path.is_symlink():
                try:
                    tree.stat(path.relative_to(root).as_posix())
                except FileNotFoundError:
                    continue
                except (OSError, StoreError):
                    return path.relative_to(chart).as_posix()
    return None


def _split(rendered: str) -> Iterator[tuple[str, yaml.Node]]:
    """Documents that helm rendered, each with the template that its comment names ('' without one)."""
    for part in re.split(r"^---\s*$", rendered, flags=re.MULTILINE):
        source = _SOURCE.search(part)
        for document in documents_of(part):
            yield (source[1] if source else ""), document
