"""Image lists: ``imageList``, one name a line, and sealer's ``imageListWithAuth.yaml``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from harness.build.declared_images import DeclaredImage, GatheredImages, ScanResult, parse_image
from harness.build.yaml_documents import documents_of, line_of, place_of, read_text, reason_of, text_of, value_of
from harness.errors import Fault, InputError
from harness.kubefile.context import IMAGE_LIST_WITH_AUTH
from harness.oci.reference import names_registry
from harness.oci.registry.credentials import Credential, CredentialStore

IMAGE_LIST = "manifests/imageList"
SHIM = "images/shim"
"""Folder of sealos's image lists, in the build context or in the rootfs."""


@dataclasses.dataclass(frozen=True)
class ImageListCredentials:
    """One section of an ``imageListWithAuth.yaml``."""

    registry: str
    username: str
    password: str = dataclasses.field(repr=False)
    images: tuple[DeclaredImage, ...]


def shim_lists(folder: Path) -> tuple[Path, ...]:
    """Paths of sealos's image lists in a build context or an unpacked rootfs, sorted: every file in ``images/shim/``."""
    shim = folder / SHIM
    if not shim.is_dir() or shim.is_symlink():
        return ()
    return tuple(path for path in sorted(shim.iterdir()) if path.is_file() and not path.is_symlink() and not path.name.startswith("."))


def with_shim_lists(scan: ScanResult, *folders: Path) -> ScanResult:
    """The images of a scan and those of ``images/shim/*`` in some folders; a faulty list adds its faults."""
    gathered = GatheredImages()
    for folder in folders:
        for path in shim_lists(folder):
            gathered.take(listed_images(path, str(path)))
    images = tuple(dict.fromkeys((*scan.images, *gathered.images)))
    return dataclasses.replace(scan, images=images, faults=(*scan.faults, *gathered.faults))


def read_image_list_with_auth(path: Path) -> tuple[ImageListCredentials, ...]:
    """An ``imageListWithAuth.yaml``: sections of ``registry`` (default docker.io), ``username``, ``password`` and ``images``.

    A name without a registry is of the section's. Raises InputError with every fault.
    """
    faults: list[Fault] = []
    sections: list[ImageListCredentials] = []
    try:
        documents = list(documents_of(read_text(path)))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        raise InputError([Fault(place_of(str(path), wrong), reason_of(wrong))]) from wrong
    for document in documents:
        if not isinstance(document, yaml.SequenceNode):
            faults.append(Fault(f"{path}:{line_of(document)}", "a list of sections is wanted", "- registry: ..."))
            continue
        for node in document.value:
            section = _section(node, str(path), faults)
            sections += [section] if section else []
    if faults:
        raise InputError(faults)
    return tuple(sections)


def sections_in(context: Path) -> tuple[ImageListCredentials, ...]:
    """The sections of the ``imageListWithAuth.yaml`` of a build context; none without the file. Raises InputError."""
    path = context / IMAGE_LIST_WITH_AUTH
    return read_image_list_with_auth(path) if path.is_file() else ()


def images_with_auth(context: Path) -> tuple[tuple[DeclaredImage, ...], tuple[Fault, ...]]:
    """Images of the ``imageListWithAuth.yaml`` of a build context, and the faults in it."""
    try:
        return tuple(image for section in sections_in(context) for image in section.images), ()
    except InputError as wrong:
        return (), tuple(wrong.faults)


class ListedLogins:
    """Logins for a build: those of its ``imageListWithAuth.yaml`` first, then the user's."""

    def __init__(self, sections: Sequence[ImageListCredentials], others: CredentialStore) -> None:
        self._own = {section.registry: Credential(section.username, section.password) for section in reversed(sections)}
        self._others = others

    def find(self, domain: str, repository: str = "") -> Credential | None:
        return self._own.get(domain) or self._others.find(domain, repository)


def _section(node: yaml.Node, path: str, faults: list[Fault]) -> ImageListCredentials | None:
    where = f"{path}:{line_of(node)}"
    values = {name: text_of(value_of(node, name)) for name in ("registry", "username", "password")}
    images = value_of(node, "images")
    if not isinstance(images, yaml.SequenceNode) or not images.value:
        return None
    if not values["username"] or not values["password"]:
        faults.append(Fault(where, "a section needs both username and password", "list images that need none in an imageList"))
        return None
    registry = values["registry"] or "docker.io"
    listed = []
    for item in images.value:
        text = text_of(item) or ""
        listed.append(parse_image(text if names_registry(text) else f"{registry}/{text}", f"{path}:{line_of(item)}", "listed", faults))
    return ImageListCredentials(registry, values["username"], values["password"], tuple(image for image in listed if image))


def listed_images(path: Path, shown: str) -> Iterator[DeclaredImage | Fault]:
    faults: list[Fault] = []
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        yield Fault(shown, "no such image list")
        return
    except (OSError, UnicodeDecodeError) as wrong:
        yield Fault(shown, f"not an image list: {wrong}")
        return
    for number, line in enumerate(lines, start=1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        image = parse_image(text, f"{shown}:{number}", "listed", faults) if text else None
        if image:
            yield image
    yield from faults
