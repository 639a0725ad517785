"""The container images that the files of a rootfs declare: pod specs read as YAML, charts through ``helm template``, image lists.

Nothing is guessed from lines of text: an image is declared where Kubernetes reads one, in the containers of a pod spec. What only looks
like an image (a field of an operator's resource, a variable called ``..._IMAGE``) is reported as *possible* and is not included.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import yaml

from harness import process, templates, untrusted
from harness.errors import CommandError, Fault, InputError, StoreError
from harness.oci.layer import tarball
from harness.oci.reference import Reference

IMAGE_LIST = "manifests/imageList"
ANNOTATIONS = ("helm.sh/images", "artifacthub.io/images")

_Loader: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML = (".yaml", ".yml", ".json")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_STAND_IN = "slipway-undefined-"
_VARIABLE = re.compile(r"(^|_)IMAGE(_|$)", re.IGNORECASE)
_ARGUMENT = re.compile(r"--(?=[a-z0-9-]*+=)[a-z0-9-]*?image[a-z0-9-]*+=(\S+)", re.IGNORECASE)
_SOURCE = re.compile(r"^# Source: (\S+)", re.MULTILINE)

FoundBy = Literal["declared", "listed"]


@dataclasses.dataclass(frozen=True, order=True)
class DeclaredImage:
    """An image and where it is named: ``manifests/app.yaml:12``; a chart's template has no line, as it was rendered."""

    name: str
    """Canonical: ``docker.io/library/nginx:1.25``."""
    where: str
    found_by: FoundBy = "declared"


@dataclasses.dataclass(frozen=True)
class RootfsFile:
    """A file of a rootfs, wherever its bytes are now."""

    path: str
    """In the rootfs."""
    source: Path
    shown: str
    """Name in fault messages."""


@dataclasses.dataclass(frozen=True)
class ImageListCredentials:
    """One section of an ``imageListWithAuth.yaml``."""

    registry: str
    username: str
    password: str = dataclasses.field(repr=False)
    images: tuple[DeclaredImage, ...]


@dataclasses.dataclass(frozen=True)
class ScanResult:
    """Images that files declare. An image is in ``images`` once for each place that names it."""

    images: tuple[DeclaredImage, ...] = ()
    possible: tuple[DeclaredImage, ...] = ()
    """Text that looks like an image: for the report, not for the image set."""
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({image.name for image in self.images}))


def declared(
    root: Path,
    *,
    env: Mapping[str, str] | None = None,
    app_env: Mapping[str, Mapping[str, str]] | None = None,
    image_list: Path | None = None,
    helm: Path | None = None,
    kube_version: str | None = None,
) -> ScanResult:
    """Return the images that an unpacked rootfs declares, and those of the user's ``--image-list``.

    ``env`` has the values of templates (``app_env``: those that an application adds), ``helm`` is the program that renders charts
    for ``kube_version``. Raises InputError with every fault: a manifest that is not YAML, a name that is not valid.
    """
    scan = discover(files(root), env=env, app_env=app_env, image_list=image_list, helm=helm, kube_version=kube_version)
    if scan.faults:
        raise InputError(scan.faults)
    return scan


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
    """As ``declared``, for files that need not be in one tree. Faults in files are returned, not raised."""
    present = [file for file in rootfs_files if _relevant(file.path)]
    charts = _chart_folders(present)
    gathered = _Gathered()
    for file in present:
        chart = next((folder for folder in charts if file.path.startswith(f"{folder}/")), None)
        if file.path == IMAGE_LIST:
            gathered.take(_listed(file.source, file.shown))
        elif chart is not None:
            if file.path == f"{chart}/Chart.yaml":
                _read_annotations(gathered, file)
                _read_chart(gathered, file, file.source.parent, helm=helm, kube_version=kube_version)
        elif file.path.endswith(".tgz"):
            if _is_packed_chart(file.source):
                _read_chart(gathered, file, file.source, helm=helm, kube_version=kube_version)
        else:
            _read_manifest(gathered, file, templates.env_of(file.path, env or {}, app_env or {}))
    if image_list is not None:
        gathered.take(_listed(image_list, str(image_list)))
    return gathered.result()


def read_image_list(path: Path) -> tuple[DeclaredImage, ...]:
    """Read an image list: one name a line, ``#`` begins a comment. Raises InputError for an invalid name or a missing file."""
    collected = _Gathered()
    collected.take(_listed(path, str(path)))
    if collected.faults:
        raise InputError(collected.faults)
    return tuple(collected.images)


def read_image_list_with_auth(path: Path) -> tuple[ImageListCredentials, ...]:
    """An ``imageListWithAuth.yaml``: sections of ``registry`` (default docker.io), ``username``, ``password`` and ``images``.

    A name without a registry is of the section's. Raises InputError with every fault.
    """
    faults: list[Fault] = []
    sections: list[ImageListCredentials] = []
    try:
        documents = list(_compose(_read(path)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        raise InputError([Fault(_yaml_where(str(path), wrong), _yaml_reason(wrong))]) from wrong
    for document in documents:
        if not isinstance(document, yaml.SequenceNode):
            faults.append(Fault(f"{path}:{_line(document)}", "a list of sections is wanted", "- registry: ..."))
            continue
        for node in document.value:
            section = _section(node, str(path), faults)
            sections += [section] if section else []
    if faults:
        raise InputError(faults)
    return tuple(sections)


def _section(node: yaml.Node, path: str, faults: list[Fault]) -> ImageListCredentials | None:
    where = f"{path}:{_line(node)}"
    values = {name: _text(_get(node, name)) for name in ("registry", "username", "password")}
    images = _get(node, "images")
    if not isinstance(images, yaml.SequenceNode) or not images.value:
        return None
    if not values["username"] or not values["password"]:
        faults.append(Fault(where, "a section needs both username and password", "list images that need none in an imageList"))
        return None
    registry = values["registry"] or "docker.io"
    listed = []
    for item in images.value:
        text = _text(item) or ""
        first, slash, _ = text.partition("/")
        has_registry = bool(slash) and ("." in first or ":" in first or first == "localhost")
        listed.append(_parse(text if has_registry else f"{registry}/{text}", f"{path}:{_line(item)}", "listed", faults))
    return ImageListCredentials(registry, values["username"], values["password"], tuple(image for image in listed if image))


@dataclasses.dataclass
class _Gathered:
    images: list[DeclaredImage] = dataclasses.field(default_factory=list)
    possible: list[DeclaredImage] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    warnings: list[Fault] = dataclasses.field(default_factory=list)

    def take(self, images_and_faults: Iterable[DeclaredImage | Fault]) -> None:
        for item in images_and_faults:
            if isinstance(item, Fault):
                self.faults.append(item)
            else:
                self.images.append(item)

    def add(self, text: str, where: str, *, possible: bool = False) -> None:
        """Take an image's name as a manifest has it. One that hangs on an undefined variable cannot be known now."""
        text = text.strip()
        if not text:
            return
        if _STAND_IN in text:
            name = re.split(r"[^A-Za-z0-9_]", text.partition(_STAND_IN)[2])[0]
            if not possible:
                message = f"the image depends on {name}, which has no value yet"
                self.warnings.append(Fault(where, message, f"ENV {name}=... in the Kubefile"))
            return
        image = _parse(text, where, "declared", self.faults if not possible else [])
        if image:
            (self.possible if possible else self.images).append(image)

    def result(self) -> ScanResult:
        names = {image.name for image in self.images}
        possible = (image for image in dict.fromkeys(self.possible) if image.name not in names)
        return ScanResult(tuple(dict.fromkeys(self.images)), tuple(possible), tuple(self.faults), tuple(self.warnings))


def _parse(text: str, where: str, found_by: FoundBy, faults: list[Fault]) -> DeclaredImage | None:
    try:
        return DeclaredImage(str(Reference.parse(text)), where, found_by)
    except ValueError as wrong:
        faults.append(Fault(where, str(wrong)))
        return None


def _relevant(path: str) -> bool:
    """Manifests, applications, ``etc/`` and the rootfs's top; charts wherever they are."""
    name = posixpath.basename(path)
    if path == IMAGE_LIST or name == "Chart.yaml":
        return True
    if name.endswith(".tgz"):
        return path.startswith(("charts/", "application/apps/"))
    if "/" in path and not path.startswith(("manifests/", "application/apps/", "etc/")):
        return False
    return templates.output_name(name).endswith(_YAML) or (name.endswith(templates.GO) and path.startswith("manifests/"))


def _must_be_yaml(path: str) -> bool:
    """Return True in folders that are applied with kubectl. Elsewhere a file called .yaml may hold something else."""
    return path.startswith(("manifests/", "application/apps/")) and templates.output_name(path).endswith(_YAML)


def _chart_folders(rootfs_files: Sequence[RootfsFile]) -> list[str]:
    """The folders of charts, without the charts inside of charts: helm renders those with their parents."""
    folders = sorted(
        posixpath.dirname(file.path) for file in rootfs_files if posixpath.basename(file.path) == "Chart.yaml" and "/" in file.path
    )
    return [folder for folder in folders if not any(folder.startswith(f"{other}/") for other in folders)]


def _read(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(untrusted.YAML_LIMIT + 1)
    if len(data) > untrusted.YAML_LIMIT:
        raise OSError(f"it is larger than {untrusted.YAML_LIMIT} bytes")
    text = data.decode("utf-8-sig")
    # JSON may be indented with tabs, YAML may not; a JSON string cannot contain a tab.
    return text.replace("\t", " ") if path.name.removesuffix(templates.GO).endswith(".json") else text


def _compose(text: str) -> Iterator[yaml.Node]:
    """The documents of a text as nodes. Raises yaml.YAMLError, also for a few lines that spell out to more than memory holds."""
    excess = untrusted.yaml_excess(text)
    if excess is not None:
        line, problem = excess
        raise yaml.composer.ComposerError(None, None, problem, yaml.Mark("", 0, line - 1, 0, None, 0))
    return (node for node in yaml.compose_all(text, Loader=_Loader) if node is not None)


def _listed(path: Path, shown: str) -> Iterator[DeclaredImage | Fault]:
    faults: list[Fault] = []
    try:
        lines = _read(path).splitlines()
    except FileNotFoundError:
        yield Fault(shown, "no such image list")
        return
    except (OSError, UnicodeDecodeError) as wrong:
        yield Fault(shown, f"not an image list: {wrong}")
        return
    for number, line in enumerate(lines, start=1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        image = _parse(text, f"{shown}:{number}", "listed", faults) if text else None
        if image:
            yield image
    yield from faults


def _read_manifest(gathered: _Gathered, file: RootfsFile, env: Mapping[str, str]) -> None:
    strict = _must_be_yaml(file.path)
    stand_in = templates.StandIn(before=_STAND_IN)
    try:
        text = _read(file.source)
        if templates.is_template(file.path):
            # The suffix says how to render, and the user's name of the file is what a fault must say.
            text = templates.render(text, env, file.shown, missing=stand_in)
        documents = list(_compose(text))
    except InputError as wrong:
        gathered.faults += wrong.faults if strict else ()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        if strict:
            hint = "a manifest must be YAML; give a template the ending .tmpl or .j2"
            gathered.faults.append(Fault(_yaml_where(file.shown, wrong), _yaml_reason(wrong), hint))
    else:
        for document in documents:
            _walk(gathered, document, file.shown)
        if stand_in.names:
            first, *_ = names = list(dict.fromkeys(stand_in.names))
            gathered.warnings.append(
                Fault(file.shown, f"no default for {', '.join(names)}: to be given when the image runs", f"-e {first}=VALUE")
            )


def _yaml_where(shown: str, wrong: Exception) -> str:
    mark = getattr(wrong, "problem_mark", None)
    return shown if mark is None else f"{shown}:{mark.line + 1}"


def _yaml_reason(wrong: Exception) -> str:
    if not isinstance(wrong, yaml.YAMLError):
        return f"cannot be read: {wrong}"
    problem = getattr(wrong, "problem", None) or getattr(wrong, "reason", None) or str(wrong)
    return f"not YAML: {problem}"


# Walking a document: on nodes, not on values, because only nodes know their lines.


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _pairs(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping, those of ``<<`` included. What _compose gives holds no circles."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _pairs(merged)
        else:
            yield key, value


def _get(node: yaml.Node | None, name: str) -> yaml.Node | None:
    return next((value for key, value in _pairs(node) if isinstance(key, yaml.ScalarNode) and key.value == name), None)


def _text(node: yaml.Node | None) -> str | None:
    """The text of a scalar; None for everything else, null included."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null" else None


def _items(node: yaml.Node | None) -> Sequence[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else ()


def _walk(gathered: _Gathered, document: yaml.Node, shown: str, *, lines: bool = True) -> None:
    """Find the images below a node. Every mapping is looked at once, however many aliases lead to it."""
    seen: set[int] = set()
    waiting = [document]
    containers: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            containers |= _pod_spec(gathered, node, shown, lines=lines)
            _annotations(gathered, node, shown, lines=lines)
            _possible(gathered, node, shown, lines=lines, container=id(node) in containers)
        waiting += reversed([value for _, value in _pairs(node)] or list(_items(node)))


def _at(shown: str, node: yaml.Node, *, lines: bool) -> str:
    return f"{shown}:{_line(node)}" if lines else shown


def _pod_spec(gathered: _Gathered, node: yaml.Node, shown: str, *, lines: bool) -> set[int]:
    """The images of a pod spec, if this mapping is one: its containers and its image volumes. Returns the nodes that are containers."""
    containers: set[int] = set()
    for name in _CONTAINERS:
        for container in _items(_get(node, name)):
            image = _get(container, "image")
            if image is not None:
                containers.add(id(container))
                gathered.add(_text(image) or "", _at(shown, image, lines=lines))
    if containers:
        for volume in _items(_get(node, "volumes")):
            reference = _get(_get(volume, "image"), "reference")
            if reference is not None:
                gathered.add(_text(reference) or "", _at(shown, reference, lines=lines))
    return containers


def _annotations(gathered: _Gathered, node: yaml.Node, shown: str, *, lines: bool) -> None:
    """The images that a chart names in its annotations: YAML inside of a text, a list of names or of mappings with ``image``."""
    for name in ANNOTATIONS:
        value = _get(_get(node, "annotations"), name)
        text = _text(value)
        if value is None or text is None:
            continue
        first = _line(value) + (1 if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">") else 0)
        try:
            listed = [item for document in _compose(text) for item in _items(document)]
        except yaml.YAMLError as wrong:
            gathered.faults.append(Fault(_at(shown, value, lines=lines), f"the annotation {name} is {_yaml_reason(wrong)}"))
            continue
        for item in listed:
            image = item if isinstance(item, yaml.ScalarNode) else _get(item, "image")
            if image is not None:
                gathered.add(_text(image) or "", f"{shown}:{first + _line(image) - 1}" if lines else shown)


def _possible(gathered: _Gathered, node: yaml.Node, shown: str, *, lines: bool, container: bool) -> None:
    """Collect possible images: a field ``image``, a variable ``..._IMAGE``, an argument ``--...image=``; only with tag or digest."""
    candidates = [] if container else [_get(node, "image")]
    if _VARIABLE.search(_text(_get(node, "name")) or ""):
        candidates.append(_get(node, "value"))
    for candidate in candidates:
        text = _text(candidate)
        if candidate is not None and text is not None and _looks_like_image(text):
            gathered.add(text, _at(shown, candidate, lines=lines), possible=True)
    for name in ("args", "command"):
        for item in _items(_get(node, name)):
            match = _ARGUMENT.fullmatch(_text(item) or "")
            if match and _looks_like_image(match[1]):
                gathered.add(match[1], _at(shown, item, lines=lines), possible=True)


def _looks_like_image(text: str) -> bool:
    return "@sha256:" in text or re.search(r"[^/:]:[A-Za-z0-9_][\w.-]*$", text) is not None


# Charts


def _is_packed_chart(path: Path) -> bool:
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


def _read_annotations(gathered: _Gathered, file: RootfsFile) -> None:
    try:
        for document in _compose(_read(file.source)):
            _annotations(gathered, document, file.shown, lines=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        gathered.faults.append(Fault(_yaml_where(file.shown, wrong), _yaml_reason(wrong)))


def _read_chart(gathered: _Gathered, file: RootfsFile, chart: Path, *, helm: Path | None, kube_version: str | None) -> None:
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
        _walk(gathered, document, posixpath.join(folder, template) if template else file.shown, lines=False)


def _split(rendered: str) -> Iterator[tuple[str, yaml.Node]]:
    """Documents that helm rendered, each with the template that its comment names ('' without one)."""
    for part in re.split(r"^---\s*$", rendered, flags=re.MULTILINE):
        source = _SOURCE.search(part)
        for document in _compose(part):
            yield (source[1] if source else ""), document
