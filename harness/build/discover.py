"""The container images that the files of a rootfs declare: pod specs read as YAML, charts through ``helm template``, image lists.

Nothing is guessed from lines of text: an image is declared where Kubernetes reads one, in the containers of a pod spec. What only looks
like an image (a field of an operator's resource, a variable called ``..._IMAGE``) is reported as *possible* and is not included.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.build.charts import chart_folders, is_packed_chart, read_annotations, read_chart
from harness.build.declared_images import GatheredImages, RootfsFile, ScanResult
from harness.build.image_lists import IMAGE_LIST, listed_images
from harness.build.manifests import YAML_ENDINGS, read_manifest
from harness.templates.job import GO, output_name
from harness.templates.tree import env_of


def files(root: Path) -> tuple[RootfsFile, ...]:
    """The files of an unpacked rootfs that can declare an image, sorted; links are not followed."""
    paths = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    return tuple(RootfsFile(name, path, name) for path in paths if _relevant(name := path.relative_to(root).as_posix()))


def discover(
    rootfs_files: Iterable[RootfsFile],
    *,
    env: Mapping[str, str] | None = None,
    app_env: Mapping[str, Mapping[str, str]] | None = None,
    image_list: Path | None = None,
    helm: Path | None = None,
    kube_version: str | None = None,
) -> ScanResult:
    """Return the images that files of a rootfs declare, and those of the user's ``--image-list``.

    ``env`` has the values of templates (``app_env``: those that an application adds), ``helm`` is the program that renders charts
    for ``kube_version``. Faults, as a manifest that is not YAML or a name that is not valid, are returned, not raised.
    """
    present = [file for file in rootfs_files if _relevant(file.path)]
    charts = chart_folders(present)
    gathered = GatheredImages()
    for file in present:
        chart = next((folder for folder in charts if file.path.startswith(f"{folder}/")), None)
        if file.path == IMAGE_LIST:
            gathered.take(listed_images(file.source, file.shown))
        elif chart is not None:
            if file.path == f"{chart}/Chart.yaml":
                read_annotations(gathered, file)
                read_chart(gathered, file, file.source.parent, helm=helm, kube_version=kube_version)
        elif file.path.endswith(".tgz"):
            if is_packed_chart(file.source):
                read_chart(gathered, file, file.source, helm=helm, kube_version=kube_version)
        else:
            read_manifest(gathered, file, env_of(file.path, env or {}, app_env or {}))
    if image_list is not None:
        gathered.take(listed_images(image_list, str(image_list)))
    return gathered.result()


def _relevant(path: str) -> bool:
    """Manifests, applications, ``etc/`` and the rootfs's top; charts wherever they are."""
    name = posixpath.basename(path)
    if path == IMAGE_LIST or name == "Chart.yaml":
        return True
    if name.endswith(".tgz"):
        return path.startswith(("charts/", "application/apps/"))
    if "/" in path and not path.startswith(("manifests/", "application/apps/", "etc/")):
        return False
    return output_name(name).endswith(YAML_ENDINGS) or (name.endswith(GO) and path.startswith("manifests/"))
