"""Images in manifests: in pod specs, in annotations of charts, and where something only looks like an image."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from harness import templates
from harness.build.declared_images import STAND_IN, GatheredImages, RootfsFile
from harness.build.possible_images import find_possible_images
from harness.build.yaml_documents import (
    documents_of,
    duplicate_keys,
    is_yaml,
    items_of,
    line_of,
    pairs_of,
    place_of,
    read_text,
    reason_of,
    text_of,
    value_of,
)
from harness.errors import Fault, InputError
from harness.templates.job import StandIn, output_name
from harness.templates.tree import is_template

ANNOTATIONS = ("helm.sh/images", "artifacthub.io/images")
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")


def _must_be_yaml(path: str) -> bool:
    """Return True in folders that are applied with kubectl. Elsewhere a file called .yaml may hold something else."""
    return path.startswith(("manifests/", "application/apps/")) and is_yaml(output_name(path))


def rendered_text(file: RootfsFile, env: Mapping[str, str]) -> str:
    """The text of a file as a launch command finds it: templates are rendered, with stand-ins for values that are not known.

    Raises InputError for a template that cannot be rendered, OSError and UnicodeDecodeError.
    """
    text = read_text(file.source)
    # The suffix says how to render, and the user's name of the file is what a fault must say.
    return templates.render(text, env, file.shown, missing=StandIn(before=STAND_IN)) if is_template(file.path) else text


def read_manifest(gathered: GatheredImages, file: RootfsFile, env: Mapping[str, str], *, applied: bool = False) -> None:
    """The images of a manifest. ``applied``: a launch command names the file, so what is not YAML is a fault wherever it lies."""
    strict = applied or _must_be_yaml(file.path)
    try:
        documents = list(documents_of(rendered_text(file, env)))
    except InputError as wrong:
        gathered.faults += wrong.faults if strict else ()
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        if strict:
            hint = "a manifest must be YAML; give a template the ending .tmpl or .j2"
            gathered.faults.append(Fault(place_of(file.shown, wrong), reason_of(wrong), hint))
    else:
        for document in documents:
            for line, key in duplicate_keys(document) if strict else ():
                gathered.faults.append(Fault(f"{file.shown}:{line}", f"{key} is in this mapping already", "kubectl refuses it: keep one"))
            find_images(gathered, document, file.shown)


def find_images(gathered: GatheredImages, document: yaml.Node, shown: str, *, lines: bool = True) -> None:
    """Find the images below a node. Every mapping is looked at once, however many aliases lead to it."""
    seen: set[int] = set()
    waiting = [document]
    node_ids: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            node_ids |= _pod_spec(gathered, node, shown, lines=lines)
            node_ids |= find_annotated_images(gathered, node, shown, lines=lines)
        waiting += reversed([value for _, value in pairs_of(node)] or list(items_of(node)))
    find_possible_images(gathered, document, shown, lines=lines, skip=node_ids)


def _at(shown: str, node: yaml.Node, *, lines: bool) -> str:
    return f"{shown}:{line_of(node)}" if lines else shown


def _pod_spec(gathered: GatheredImages, node: yaml.Node, shown: str, *, lines: bool) -> set[int]:
    """The images of a pod spec, if this mapping is one: its containers and its image volumes. Returns the nodes that name them."""
    images = [image for name in _CONTAINERS for item in items_of(value_of(node, name)) if (image := value_of(item, "image")) is not None]
    if images:
        volumes = (value_of(value_of(volume, "image"), "reference") for volume in items_of(value_of(node, "volumes")))
        images += [reference for reference in volumes if reference is not None]
    for image in images:
        gathered.add(text_of(image) or "", _at(shown, image, lines=lines))
    return {id(image) for image in images}


def find_annotated_images(gathered: GatheredImages, node: yaml.Node, shown: str, *, lines: bool) -> set[int]:
    """The images that a chart names in its annotations: YAML inside of a text, a list of names or of mappings with ``image``.

    Kubernetes does not read them, so what is wrong in one is a warning. Returns the nodes of the annotations.
    """
    node_ids: set[int] = set()
    for name in ANNOTATIONS:
        value = value_of(value_of(node, "annotations"), name)
        text = text_of(value)
        if value is None or text is None:
            continue
        node_ids.add(id(value))
        first = line_of(value) + (1 if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">") else 0)
        hint = "correct it, or remove it: the image is built without its images"
        try:
            listed = [item for document in documents_of(text) for item in items_of(document)]
        except yaml.YAMLError as wrong:
            gathered.warnings.append(Fault(_at(shown, value, lines=lines), f"the annotation {name} is {reason_of(wrong)}", hint))
            continue
        for item in listed:
            image = item if isinstance(item, yaml.ScalarNode) else value_of(item, "image")
            if image is not None:
                where = f"{shown}:{first + line_of(image) - 1}" if lines else shown
                gathered.add(text_of(image) or "", where, wrong=gathered.warnings)
    return node_ids
