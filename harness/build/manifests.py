"""Images in manifests: in pod specs, in annotations of charts, and where something only looks like an image."""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from harness import templates
from harness.build.declared_images import STAND_IN, GatheredImages, RootfsFile
from harness.build.yaml_documents import documents_of, items_of, line_of, pairs_of, place_of, read_text, reason_of, text_of, value_of
from harness.errors import Fault, InputError
from harness.templates.job import StandIn, output_name
from harness.templates.tree import is_template

ANNOTATIONS = ("helm.sh/images", "artifacthub.io/images")
YAML_ENDINGS = (".yaml", ".yml", ".json")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_VARIABLE = re.compile(r"(^|_)IMAGE(_|$)", re.IGNORECASE)
_ARGUMENT = re.compile(r"--(?=[a-z0-9-]*+=)[a-z0-9-]*?image[a-z0-9-]*+=(\S+)", re.IGNORECASE)


def _must_be_yaml(path: str) -> bool:
    """Return True in folders that are applied with kubectl. Elsewhere a file called .yaml may hold something else."""
    return path.startswith(("manifests/", "application/apps/")) and output_name(path).endswith(YAML_ENDINGS)


def read_manifest(gathered: GatheredImages, file: RootfsFile, env: Mapping[str, str]) -> None:
    strict = _must_be_yaml(file.path)
    stand_in = StandIn(before=STAND_IN)
    try:
        text = read_text(file.source)
        if is_template(file.path):
            # The suffix says how to render, and the user's name of the file is what a fault must say.
            text = templates.render(text, env, file.shown, missing=stand_in)
        documents = list(documents_of(text))
    except InputError as wrong:
        gathered.faults += wrong.faults if strict else ()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        if strict:
            hint = "a manifest must be YAML; give a template the ending .tmpl or .j2"
            gathered.faults.append(Fault(place_of(file.shown, wrong), reason_of(wrong), hint))
    else:
        for document in documents:
            find_images(gathered, document, file.shown)


def find_images(gathered: GatheredImages, document: yaml.Node, shown: str, *, lines: bool = True) -> None:
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
            find_annotated_images(gathered, node, shown, lines=lines)
            _possible(gathered, node, shown, lines=lines, container=id(node) in containers)
        waiting += reversed([value for _, value in pairs_of(node)] or list(items_of(node)))


def _at(shown: str, node: yaml.Node, *, lines: bool) -> str:
    return f"{shown}:{line_of(node)}" if lines else shown


def _pod_spec(gathered: GatheredImages, node: yaml.Node, shown: str, *, lines: bool) -> set[int]:
    """The images of a pod spec, if this mapping is one: its containers and its image volumes. Returns the nodes that are containers."""
    containers: set[int] = set()
    for name in _CONTAINERS:
        for container in items_of(value_of(node, name)):
            image = value_of(container, "image")
            if image is not None:
                containers.add(id(container))
                gathered.add(text_of(image) or "", _at(shown, image, lines=lines))
    if containers:
        for volume in items_of(value_of(node, "volumes")):
            reference = value_of(value_of(volume, "image"), "reference")
            if reference is not None:
                gathered.add(text_of(reference) or "", _at(shown, reference, lines=lines))
    return containers


def find_annotated_images(gathered: GatheredImages, node: yaml.Node, shown: str, *, lines: bool) -> None:
    """The images that a chart names in its annotations: YAML inside of a text, a list of names or of mappings with ``image``."""
    for name in ANNOTATIONS:
        value = value_of(value_of(node, "annotations"), name)
        text = text_of(value)
        if value is None or text is None:
            continue
        first = line_of(value) + (1 if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">") else 0)
        try:
            listed = [item for document in documents_of(text) for item in items_of(document)]
        except yaml.YAMLError as wrong:
            gathered.faults.append(Fault(_at(shown, value, lines=lines), f"the annotation {name} is {reason_of(wrong)}"))
            continue
        for item in listed:
            image = item if isinstance(item, yaml.ScalarNode) else value_of(item, "image")
            if image is not None:
                gathered.add(text_of(image) or "", f"{shown}:{first + line_of(image) - 1}" if lines else shown)


def _possible(gathered: GatheredImages, node: yaml.Node, shown: str, *, lines: bool, container: bool) -> None:
    """Collect possible images: a field ``image``, a variable ``..._IMAGE``, an argument ``--...image=``; only with tag or digest."""
    candidates = [] if container else [value_of(node, "image")]
    if _VARIABLE.search(text_of(value_of(node, "name")) or ""):
        candidates.append(value_of(node, "value"))
    for candidate in candidates:
        text = text_of(candidate)
        if candidate is not None and text is not None and _looks_like_image(text):
            gathered.add(text, _at(shown, candidate, lines=lines), possible=True)
    for name in ("args", "command"):
        for item in items_of(value_of(node, name)):
            match = _ARGUMENT.fullmatch(text_of(item) or "")
            if match and _looks_like_image(match[1]):
                gathered.add(match[1], _at(shown, item, lines=lines), possible=True)


def _looks_like_image(text: str) -> bool:
    return "@sha256:" in text or re.search(r"[^/:]:[A-Za-z0-9_][\w.-]*$", text) is not None
