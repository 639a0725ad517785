"""Images in charts, which helm renders with the chart's own values."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from harness import process, untrusted
from harness.build.declared_images import GatheredImages, RootfsFile
from harness.build.manifests import find_annotated_images, find_images
from harness.build.yaml_documents import documents_of, place_of, read_text, reason_of
from harness.errors import CommandError, Fault, StoreError
from harness.oci.layer import tarball

_SOURCE = re.compile(r"^# Source: (\S+)", re.MULTILINE)


def chart_folders(rootfs_files: Sequence[RootfsFile]) -> list[str]:
    """The folders of charts, without the charts inside of charts: helm renders those with their parents."""
    folders = sorted(
        posixpath.dirname(file.path) for file in rootfs_files if posixpath.basename(file.path) == "Chart.yaml" and "/" in file.path
    )
    return [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]


def is_packed_chart(path: Path) -> bool:
    try:
        with tarball.open_tarball(path) as tar:
            return any(re.fullmatch(r"[^/]+/Chart\.yaml", entry.name.removeprefix("./")) for entry in tar)
    except (OSError, StoreError):
        return False


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


def read_annotations(gathered: GatheredImages, file: RootfsFile) -> None:
    try:
        for document in documents_of(read_text(file.source)):
            find_annotated_images(gathered, document, file.shown, lines=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        gathered.faults.append(Fault(place_of(file.shown, wrong), reason_of(wrong)))


def read_chart(gathered: GatheredImages, file: RootfsFile, chart: Path, *, helm: Path | None, kube_version: str | None) -> None:
    """The images in what helm renders of a chart, a folder or a packed one, with the chart's own values."""
    if helm is None:
        gathered.warnings.append(Fault(file.shown, "this chart was not read: helm is not installed", "put helm on PATH"))
        return
    stray = _stray_link(file, chart)
    if stray:
        gathered.warnings.append(
            Fault(file.shown, f"this chart was not read: {stray} is a link that leads out of it", "put the file there")
        )
        return
    version = ("--kube-version", kube_version) if kube_version else ()
    try:
        rendered = process.run([helm, "template", "slipway", chart, "--include-crds", *version], timeout=300).stdout
        documents = list(_split(rendered))
    except (CommandError, yaml.YAMLError) as wrong:
        lines = (getattr(wrong, "details", None) or str(wrong)).strip().splitlines()
        reason = next((line for line in lines if line.startswith("Error:")), lines[-1] if lines else str(wrong))
        message = f"helm cannot render this chart with its own values: {reason}"
        gathered.warnings.append(Fault(file.shown, message, "its images are found when it runs"))
        return
    folder = posixpath.dirname(file.shown) if chart.is_dir() else file.shown
    for source, document in documents:
        # helm prints <the chart's name>/templates/x.yaml; the user knows the folder.
        template = source.partition("/")[2]
        find_images(gathered, document, posixpath.join(folder, template) if template else file.shown, lines=False)


def _split(rendered: str) -> Iterator[tuple[str, yaml.Node]]:
    """Documents that helm rendered, each with the template that its comment names ('' without one)."""
    for part in re.split(r"^---\s*$", rendered, flags=re.MULTILINE):
        source = _SOURCE.search(part)
        for document in documents_of(part):
            yield (source[1] if source else ""), document
