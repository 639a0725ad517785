"""Text that is probably the name of a container image: in arguments, variables, ConfigMaps and fields of an operator's resources.

Kubernetes pulls what a pod spec names. An operator pulls what its flags, its environment or a custom resource names, and nothing marks
these as images. A word counts when it has the form ``REGISTRY/PATH:TAG`` or a digest, which little else has. Where the key, the variable
or the flag before it speaks of an image, ``PATH:TAG`` is enough; where this ends with ``image``, a value that is one word needs no tag.
Elsewhere a value without a tag counts with a public registry only: paths, labels and modules have the same form.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import yaml

from harness.build.declared_images import STAND_IN, GatheredImages
from harness.build.yaml_documents import documents_of, is_yaml, items_of, line_of, pairs_of, text_of, value_of

_SPEAKS_OF_IMAGE = re.compile(r"(?i)(?:image|img)s?(?![a-z]*pull)|[a-z]Image")
_SAYS_MORE = re.compile(r"(?i)pull|policy|secret|size|count|type|format|(?:registry|server|host|endpoint|port|addr|address|mirror)$")
"""Beside ``image`` in a name: its value is not an image."""
_IS_IMAGE = re.compile(r"(?i)(?:image|img)s?(?:[._-]?(?:name|ref|reference|uri))?$")
"""The end of a name whose value is an image and nothing else: not ``imageFeatures``, ``imageTag``."""
_IS_OTHER = re.compile(r"(?i)repo|registry|registries|mirror|prefix|ur[li]s?$|chart|source|path|module|package|host|server|location|from")
"""In a name: its value may look like an image with a registry and without a tag, and is another address."""
_WORD = re.compile(r"[^\s\"'`,;|()<>{}\[\]]+")
_NAME = re.compile(r"(?P<name>[a-z0-9][a-z0-9._/:-]*?)(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?")
_SCHEME = re.compile(r"(?:docker|oci|docker-daemon|containers-storage|docker-pullable)://")
_REGISTRY = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z0-9](?::\d{1,5})?|[a-z0-9][a-z0-9.-]*:\d{1,5}|localhost")
_PUBLIC = re.compile(
    r"(?:docker|quay|ghcr|nvcr|(?:[a-z]+\.)?gcr)\.io|registry\.k8s\.io|mcr\.microsoft\.com|public\.ecr\.aws|registry(?:\.[a-z0-9-]+)+|"
    r"[a-z0-9-]+-docker\.pkg\.dev|[a-z0-9-]+\.azurecr\.io|[0-9]+\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?"
)
"""Hosts that serve images."""
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_VERSION = re.compile(r"v?\d+(?:\.\d+)+[A-Za-z0-9_.-]*|v\d+[A-Za-z0-9_.-]*|latest")
_API_VERSION = re.compile(r"v\d+(?:(?:alpha|beta)\d+)?")
_FILE = re.compile(
    r"\.(?:go|py|js|ts|java|c|cc|h|rs|rb|sh|ya?ml|json|toml|ini|conf|cfg|md|txt|log|html?|css|pem|crt|key|so|tgz|tar|gz|zip|png|jpe?g|gif|svg|ico|webp|"
    r"iso|qcow2|img|raw|vmdk)$"
)
_PLAIN = frozenset("true false yes no on off none null nil default auto always never latest enabled disabled local custom any all".split())  # noqa: SIM905
"""Values of settings about images."""
_MOUNT_OPTIONS = frozenset({"ro", "rw", "z", "Z", "rshared", "rslave", "rprivate", "shared", "slave", "private"})
_PORT = re.compile(r"\d{2,5}")
_ENDS_VALUE = re.compile(r"""["']*\s*(?:$|-|\\|[;|&])""")
"""Behind the value of a flag: the end of the line, another flag, another command."""
_FLAG = re.compile(r"--?[A-Za-z][\w.-]*")
_DOCUMENTATION = ("description", "kubectl.kubernetes.io/last-applied-configuration")
"""Keys whose text is for people, or says twice what the object says."""
_RELATED = "RELATED_IMAGE_"
_LONGEST_WORD = 255 + 1 + 128 + 1 + 71
"""Characters of a name, its tag and its digest."""
_LARGEST_TEXT = 1 << 20
"""Characters of one text that are searched; images are not named in more."""


class ImageHint(NamedTuple):
    """Properties of the place of a word."""

    speaks: bool = False
    """An image is spoken of before it: ``PATH:TAG`` is enough."""
    lone: bool = True
    """A name without a tag may be an image: any name where it ``speaks``, else one of a public registry."""


NO_HINT = ImageHint()


def speaks_of_image(name: str) -> bool:
    """Return True for a key, a variable or a flag whose value is an image: ``brokerImage``, ``HELPER_IMG``, ``--sidecar-image``."""
    return _SPEAKS_OF_IMAGE.search(name) is not None and _SAYS_MORE.search(name) is None


def _hint(name: str) -> ImageHint:
    """The hint that a key, a variable or a flag gives about its value."""
    if speaks_of_image(name):
        return ImageHint(speaks=True, lone=_IS_IMAGE.search(name.rstrip(":")) is not None)
    return ImageHint(lone=_IS_OTHER.search(name) is None and _SAYS_MORE.search(name) is None)


def image_in(word: str, *, hinted: bool = False, lone: bool = False) -> str | None:
    """The image that a word names, or None. ``hinted``: what stands before it speaks of an image; ``lone``: it may have no tag."""
    bare = _SCHEME.sub("", word.rstrip(".:"))
    match = _NAME.fullmatch(bare) if len(bare) <= _LONGEST_WORD else None
    if match is None:
        return None
    first, slash, path = match["name"].partition("/")
    registry = bool(slash) and _REGISTRY.fullmatch(first) is not None
    components = (path if registry else match["name"]).split("/")
    if not all(_COMPONENT.fullmatch(component) for component in components):
        return None
    if match["digest"]:
        return bare
    if match["tag"]:
        return bare if _is_image(match["tag"], components, registry=registry, hinted=hinted) else None
    # oci:// without a tag is a chart more often than an image.
    public = _PUBLIC.fullmatch(first) is not None and len(components) > (first != "registry.k8s.io") and bare == word
    return bare if lone and (hinted or public) and _is_name(components, registry=registry) else None


def _is_name(components: Sequence[str], *, registry: bool) -> bool:
    """Tell a name without a tag from files, versions, sizes, networks, hosts and the values of settings."""
    first, last = components[0], components[-1]
    if _FILE.search(last) or _API_VERSION.fullmatch(last) or all(component.isdigit() for component in components):
        return False
    return registry or (
        "." not in first and (len(components) > 1 or not (first[0].isdigit() or first in _PLAIN or _VERSION.fullmatch(first)))
    )


def _is_image(tag: str, components: Sequence[str], *, registry: bool, hinted: bool) -> bool:
    """Tell a name with its tag from mounts, files with a line, API versions, dates, and hosts with a port."""
    if tag in _MOUNT_OPTIONS or _FILE.search(components[-1]) or _API_VERSION.fullmatch(components[-1]):
        return False
    if registry:
        return True
    host = "." in components[0]
    if all(component.isdigit() for component in components) or (host and len(components) == 1 and _PORT.fullmatch(tag)):
        return False
    return hinted or (len(components) > 1 and not host and _VERSION.fullmatch(tag) is not None)


def images_in(text: str, *, hint: ImageHint = NO_HINT) -> Iterator[tuple[int, str]]:
    """Images in a text, each with its line, counted from 0. A flag before a word, or a name and ``=`` in it, may speak of an image.

    Without a tag, only what is a whole value counts: prose has such words, too.
    """
    text = text[:_LARGEST_TEXT]
    whole = len(text.split()) == 1
    for number, line in enumerate(text.splitlines()):
        expected, announced = hint.speaks, ""
        for match in _WORD.finditer(line):
            word, before, announced = match[0], announced, ""
            if STAND_IN in word:
                expected = hint.speaks
                continue
            name, equals, value = word.rpartition("=")
            own = _hint(name if equals else before)
            if equals:
                lone = own.lone and (own.speaks or hint.lone)
            else:
                lone = (bool(before) and own.lone and _ENDS_VALUE.match(line, match.end()) is not None) or (whole and hint.lone)
            image = image_in(value if equals else word, hinted=expected or bool(equals and own.speaks), lone=lone)
            if image is not None:
                yield number, image
            expected = hint.speaks or (speaks_of_image(word) if _FLAG.fullmatch(word) or word.endswith(":") else False)
            if _FLAG.fullmatch(word) or (word.endswith(":") and not line[: match.start()].strip(" -")):
                announced = word


def find_possible_images(
    gathered: GatheredImages, document: yaml.Node, shown: str, *, lines: bool, skip: frozenset[int] | set[int]
) -> None:
    """Collect the possible images of a document; ``skip`` are the nodes that were taken as declared ones. RELATED_IMAGE_* is declared.

    Definitions of custom resources are left out: their texts are examples.
    """
    if text_of(value_of(document, "kind")) == "CustomResourceDefinition":
        return
    _Search(gathered, shown, lines, set(skip)).document(document)


class _Search:
    def __init__(self, gathered: GatheredImages, shown: str, lines: bool, seen: set[int]) -> None:
        self.gathered = gathered
        self.shown = shown
        self.lines = lines
        self.seen = seen

    def document(self, document: yaml.Node, *, first_line: int = 0, inside: bool = False) -> None:
        """Search every node once. ``first_line``: lines of the file before this document; ``inside``: it is a text of another one."""
        waiting: list[tuple[yaml.Node, ImageHint]] = [(document, NO_HINT)]
        while waiting:
            node, hint = waiting.pop()
            if id(node) in self.seen:
                continue
            self.seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                waiting += reversed(list(self._mapping(node, hint, first_line, inside=inside)))
            elif isinstance(node, yaml.SequenceNode):
                waiting += reversed(list(self._sequence(node, hint)))
            elif isinstance(node, yaml.ScalarNode):
                self._text(node, hint, first_line)

    def _mapping(self, node: yaml.MappingNode, hint: ImageHint, first_line: int, *, inside: bool) -> Iterator[tuple[yaml.Node, ImageHint]]:
        pairs = {key.value: value for key, value in pairs_of(node) if isinstance(key, yaml.ScalarNode)}
        joined = _joined(pairs, hint.speaks)
        if joined is not None:
            self._add(joined[0], joined[1], first_line)
            self.seen.add(id(joined[1]))
        variable = text_of(pairs.get("name"))
        for key, value in pairs.items():
            if key in _DOCUMENTATION:
                continue
            text = text_of(value)
            if key == "value" and variable is not None:
                if variable.startswith(_RELATED) and text and image_in(text.strip(), hinted=True, lone=True) and not inside:
                    self._add(text.strip(), value, first_line, declared=True)
                    continue
                yield value, _hint(variable)
            elif key == "relatedImages":
                yield from self._related(value, first_line)
            elif text is not None and not inside and is_yaml_text(key, text):
                self._embedded(value, text, hint=_hint(key))
            else:
                yield value, _below(hint, key, value)

    def _sequence(self, node: yaml.SequenceNode, hint: ImageHint) -> Iterator[tuple[yaml.Node, ImageHint]]:
        expected = hint
        for item in node.value:
            text = text_of(item)
            yield item, expected
            expected = hint
            if text and _FLAG.fullmatch(text) and not hint.speaks:
                expected = _hint(text)

    def _related(self, node: yaml.Node, first_line: int) -> Iterator[tuple[yaml.Node, ImageHint]]:
        """``relatedImages`` of a ClusterServiceVersion: the images that an operator starts, by its author's own list."""
        for item in items_of(node):
            image = value_of(item, "image")
            text = text_of(image)
            if image is not None and text:
                self._add(text, image, first_line, declared=True)
            else:
                yield item, ImageHint(speaks=True)

    def _text(self, node: yaml.ScalarNode, hint: ImageHint, first_line: int) -> None:
        text = text_of(node) or ""
        block = node.style in ("|", ">")
        for number, image in images_in(text, hint=hint):
            self._add(image, node, first_line + (number + 1 if block else 0))

    def _embedded(self, node: yaml.Node, text: str, *, hint: ImageHint) -> None:
        """A text that is YAML itself, as a ConfigMap holds it. Where it is not, its words are searched."""
        try:
            documents = list(documents_of(text))
        except yaml.YAMLError:
            documents = []
        if not any(isinstance(document, yaml.MappingNode | yaml.SequenceNode) for document in documents):
            if isinstance(node, yaml.ScalarNode):
                self._text(node, hint, 0)
            return
        block = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
        for document in documents:
            self.document(document, first_line=line_of(node) if block else line_of(node) - 1, inside=True)

    def _add(self, text: str, node: yaml.Node, offset: int, *, declared: bool = False) -> None:
        where = f"{self.shown}:{line_of(node) + offset}" if self.lines else self.shown
        self.gathered.add(text, where, possible=not declared)


def _below(hint: ImageHint, key: str, value: yaml.Node) -> ImageHint:
    """The hint for the value of a key in a mapping that has ``hint``."""
    own = _hint(key)
    if own.speaks:
        return own
    # `images` of a mapping speaks for all that is below it, `image` for its repository and tag only. Neither says that it needs no tag:
    # `name` and `repository` have their tag elsewhere, or are labels.
    if hint.speaks and (not isinstance(value, yaml.ScalarNode) or key in _IMAGE_KEYS):
        return ImageHint(speaks=True, lone=False)
    return ImageHint(lone=own.lone and hint.lone and not hint.speaks)


_IMAGE_KEYS = frozenset({"image", "name", "reference", "ref", "url", "uri", "default"})
_REPOSITORIES = ("repository", "repo", "newName", "imageRepository", "image", "name")
_TAGS = ("tag", "newTag", "imageTag", "version")


def is_yaml_text(key: str, text: str) -> bool:
    """Return True for a text of several lines that may be YAML or JSON: by its key, or since a line of it has a key that names an image."""
    if "\n" not in text.strip() or len(text) > _LARGEST_TEXT:
        return False
    return is_yaml(posixpath.basename(key)) or re.search(r"^\s*(?:- )?[\w.-]*(?:[iI]mage|repository)\w*:", text, re.MULTILINE) is not None


def _joined(pairs: dict[str, yaml.Node], hinted: bool) -> tuple[str, yaml.Node] | None:
    """The image of a mapping with its repository and its tag or digest apart, as values of charts have it, and the node to point at."""
    keys = _REPOSITORIES if hinted else _REPOSITORIES[:5]
    node = next((pairs[key] for key in keys if text_of(pairs.get(key))), None)
    repository = text_of(node)
    digest = text_of(pairs.get("digest")) or ""
    tags = _TAGS if hinted or "repository" in pairs else _TAGS[:3]
    tag = next((text for key in tags if (text := text_of(pairs.get(key)))), "")
    if node is None or repository is None or not (tag or digest.startswith("sha256:")) or STAND_IN in f"{repository}{tag}":
        return None
    registry = text_of(pairs.get("registry")) or ""
    name = f"{registry.rstrip('/')}/{repository}" if registry else repository
    if "@" in name or ":" in name.rpartition("/")[2]:
        return None
    image = f"{name}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
    return (image, node) if image_in(image, hinted=True) else None
