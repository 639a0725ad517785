"""Images of kustomizations that a launch command applies: rendered by kubectl, or by a small reader where there is no kubectl.

Only files of the image are given to kubectl, in a folder of their own: a kustomization that names files elsewhere or on the web is not
rendered, so nothing is fetched and no other file of this machine is read. A program of the image is never run.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from harness import process
from harness.build.declared_images import DeclaredImage, GatheredImages, RootfsFile
from harness.build.manifests import find_images, read_manifest, rendered_text
from harness.build.yaml_documents import documents_of, items_of, line_of, place_of, reason_of, text_of, value_of
from harness.errors import CommandError, Fault, InputError
from harness.host import scratch
from harness.oci.reference import Reference
from harness.templates.job import output_name

NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_RESOURCES = ("resources", "bases", "components")
_FILES = ("crds", "patchesStrategicMerge", "configurations", "generators", "transformers", "validators")
_REMOTE = re.compile(r"\w+://|git@|(?:github|gitlab|bitbucket)\.\w+[/:]|.*\?(?:ref|version)=")
_TIMEOUT = 60
_MOST = 500
"""Kustomizations that one is made of: folders that name each other several times multiply."""


@dataclasses.dataclass(frozen=True)
class _Rename:
    """One entry of ``images:``."""

    repository: str
    """Canonical, without tag."""
    name: str
    tag: str
    digest: str
    where: str

    def applied(self, image: DeclaredImage) -> DeclaredImage:
        """The image as this entry makes it; another image stays as it is."""
        reference = Reference.parse(image.name)
        if reference.repository != self.repository:
            return image
        tag, digest = (self.tag, self.digest) if self.tag or self.digest else (reference.tag, reference.digest)
        name = f"{self.name or self.repository}{f':{tag}' if tag else ''}{f'@{digest}' if digest else ''}"
        return DeclaredImage(str(Reference.parse(name)), self.where)


@dataclasses.dataclass
class _Kustomization:
    """A kustomization and what it names, read from its file."""

    file: RootfsFile
    resources: list[RootfsFile] = dataclasses.field(default_factory=list)
    below: list[_Kustomization] = dataclasses.field(default_factory=list)
    patches: list[RootfsFile] = dataclasses.field(default_factory=list)
    inline: list[str] = dataclasses.field(default_factory=list)
    """Patches that are written into it."""
    others: list[RootfsFile] = dataclasses.field(default_factory=list)
    renames: list[_Rename] = dataclasses.field(default_factory=list)
    absent: list[str] = dataclasses.field(default_factory=list)
    """Names in it that are no file of the image."""

    def every(self) -> Iterator[_Kustomization]:
        yield self
        for inner in self.below:
            yield from inner.every()

    def files(self) -> Iterator[RootfsFile]:
        for part in self.every():
            yield from (part.file, *part.resources, *part.patches, *part.others)


@dataclasses.dataclass
class _Reading:
    """State shared while the files of one kustomization are read."""

    files: Mapping[str, RootfsFile]
    """By the names that they have once templates are rendered."""
    env: Mapping[str, str]
    faults: list[Fault] = dataclasses.field(default_factory=list)
    left: int = _MOST


def read_kustomization(
    gathered: GatheredImages, folder: str, files: Mapping[str, RootfsFile], env: Mapping[str, str], *, kubectl: Path | None
) -> set[str]:
    """The images of a kustomization, as it is applied. Returns the paths of the files that it is made of."""
    reading = _Reading({output_name(path): file for path, file in files.items()}, env)
    kustomization, faults = _read(reading, folder, ()), reading.faults
    if kustomization is None:
        gathered.faults += faults or [Fault(folder, "there is no kustomization.yaml in this folder", "kubectl apply -k FOLDER")]
        return set()
    gathered.faults += faults
    own = GatheredImages()
    images = _images(kustomization, env, own)
    gathered.faults += own.faults
    absent = [f"{part.file.shown}: {name}" for part in kustomization.every() for name in part.absent]
    rendered = None if absent or faults or own.faults else _rendered(kustomization, folder, env, kubectl, gathered)
    if rendered is not None:
        for document in rendered:
            _find_rendered(gathered, document, kustomization.file.shown, [*images, *own.possible])
    else:
        _warn(gathered, kustomization, absent, kubectl)
        gathered.images += images
        gathered.possible += own.possible
        gathered.warnings += own.warnings
    return {file.path for file in kustomization.files()}


def _warn(gathered: GatheredImages, kustomization: _Kustomization, absent: Sequence[str], kubectl: Path | None) -> None:
    where = kustomization.file.shown
    for name in absent:
        place, _, entry = name.partition(": ")
        message = f"{entry} is not a file of the image, so it is not read"
        gathered.warnings.append(Fault(place, message, "copy it into the image: nothing is fetched when the image runs"))
    if kubectl is None and any(part.patches or part.inline for part in kustomization.every()):
        message = "patches of this kustomization are read as they are written: there is no kubectl that renders them"
        gathered.warnings.append(Fault(where, message, "put kubectl on PATH"))


def _find_rendered(gathered: GatheredImages, document: yaml.Node, shown: str, declared: Sequence[DeclaredImage]) -> None:
    """Images of what kubectl rendered, each at the place in a file that names it, where that is known."""
    rendered = GatheredImages()
    find_images(rendered, document, shown, lines=False)
    places = {image.name: image.where for image in reversed(declared)}
    for target, images in ((gathered.images, rendered.images), (gathered.possible, rendered.possible)):
        target += [dataclasses.replace(image, where=places.get(image.name, image.where)) for image in images]
    gathered.faults += rendered.faults
    gathered.warnings += rendered.warnings


def _rendered(
    kustomization: _Kustomization, folder: str, env: Mapping[str, str], kubectl: Path | None, gathered: GatheredImages
) -> list[yaml.Node] | None:
    """Documents that kubectl renders of copies of the files, whose templates are rendered before; None when it cannot."""
    if kubectl is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kustomize-", dir=scratch.folder()) as work:
        for file in kustomization.files():
            target = Path(work, output_name(file.path))
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_text(rendered_text(file, env))
            except (InputError, OSError, UnicodeDecodeError):
                # Data of a generator.
                shutil.copyfile(file.source, target)
        try:
            text = process.run([kubectl, "kustomize", Path(work, folder)], timeout=_TIMEOUT).stdout
            return list(documents_of(text))
        except (CommandError, yaml.YAMLError) as wrong:
            lines = (getattr(wrong, "details", None) or str(wrong)).replace(f"{work}/", "").strip().splitlines()
            message = f"kubectl cannot render this kustomization: {lines[-1] if lines else wrong}"
            gathered.warnings.append(Fault(kustomization.file.shown, message, "its patches are read as they are written"))
            return None


# The small reader


def _read(reading: _Reading, folder: str, above: tuple[str, ...]) -> _Kustomization | None:
    files, faults = reading.files, reading.faults
    file = next((files[path] for name in NAMES if (path := posixpath.normpath(posixpath.join(folder, name))) in files), None)
    if file is None:
        return None
    kustomization = _Kustomization(file)
    reading.left -= 1
    if reading.left < 0:
        if reading.left == -1:
            faults.append(Fault(file.shown, f"it is one of more than {_MOST} kustomizations", "name each folder once"))
        return kustomization
    try:
        documents = list(documents_of(rendered_text(file, reading.env)))
    except InputError as wrong:
        faults += wrong.faults
        return kustomization
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as wrong:
        faults.append(Fault(place_of(file.shown, wrong), reason_of(wrong), "a kustomization must be YAML"))
        return kustomization
    for document in documents[:1]:
        for field in _RESOURCES:
            for name in dict.fromkeys(text_of(item) or "" for item in items_of(value_of(document, field))):
                _add_resource(reading, kustomization, folder, name, (*above, folder))
        _add_files(kustomization, folder, document, files)
        kustomization.renames += _renames(document, file.shown, faults)
    return kustomization


def _add_resource(reading: _Reading, kustomization: _Kustomization, folder: str, name: str, above: tuple[str, ...]) -> None:
    path = posixpath.normpath(posixpath.join(folder, name))
    if path in reading.files:
        kustomization.resources.append(reading.files[path])
        return
    below = None if _REMOTE.match(name) or path in above else _read(reading, path, above)
    if below is not None:
        kustomization.below.append(below)
    else:
        kustomization.absent.append(name)


def _add_files(kustomization: _Kustomization, folder: str, document: yaml.Node, files: Mapping[str, RootfsFile]) -> None:
    patches = [item for field in ("patches", "patchesJson6902", "replacements") for item in items_of(value_of(document, field))]
    merges = [text for item in items_of(value_of(document, "patchesStrategicMerge")) if (text := text_of(item))]
    inline = [text for item in patches if (text := text_of(value_of(item, "patch")))]
    kustomization.inline += [*inline, *(text for text in merges if "\n" in text)]
    named = [text for item in patches if (text := text_of(value_of(item, "path")))]
    for text in [*named, *(text for text in merges if "\n" not in text)]:
        path = posixpath.normpath(posixpath.join(folder, text))
        if path in files:
            kustomization.patches.append(files[path])
        else:
            kustomization.absent.append(text)
    others = [
        text
        for field in _FILES
        if field != "patchesStrategicMerge"
        for item in items_of(value_of(document, field))
        if (text := text_of(item))
    ]
    for field in ("configMapGenerator", "secretGenerator"):
        for item in items_of(value_of(document, field)):
            listed = [*items_of(value_of(item, "files")), *items_of(value_of(item, "envs"))]
            others += [text.rpartition("=")[2] for entry in listed if (text := text_of(entry))]
            others += [text] if (text := text_of(value_of(item, "env"))) else []
    for text in others:
        path = posixpath.normpath(posixpath.join(folder, text))
        if path in files:
            kustomization.others.append(files[path])
        elif "\n" not in text:
            kustomization.absent.append(text)


def _renames(document: yaml.Node, shown: str, faults: list[Fault]) -> Iterator[_Rename]:
    for item in items_of(value_of(document, "images")):
        name = text_of(value_of(item, "name"))
        where = f"{shown}:{line_of(item)}"
        fields = {field: text_of(value_of(item, field)) or "" for field in ("newName", "newTag", "digest")}
        try:
            repository = Reference.parse(name or "").repository
            renamed = Reference.parse(fields["newName"]).repository if fields["newName"] else ""
            rename = _Rename(repository, renamed, fields["newTag"], fields["digest"], where)
            rename.applied(DeclaredImage(f"{repository}:latest", where))
        except ValueError as wrong:
            faults.append(Fault(where, str(wrong)))
            continue
        yield rename


def _images(kustomization: _Kustomization, env: Mapping[str, str], gathered: GatheredImages) -> list[DeclaredImage]:
    """The images of all files below a kustomization, renamed from the inside out; ``gathered`` takes what is beside them."""
    own = GatheredImages()
    for file in dict.fromkeys((*kustomization.resources, *kustomization.patches)):
        read_manifest(own, file, env, applied=True)
    for text in kustomization.inline:
        try:
            for document in documents_of(text):
                find_images(own, document, kustomization.file.shown, lines=False)
        except yaml.YAMLError as wrong:
            own.faults.append(Fault(kustomization.file.shown, f"a patch in it is {reason_of(wrong)}"))
    images = [*own.images, *(image for inner in kustomization.below for image in _images(inner, env, gathered))]
    gathered.possible += own.possible
    gathered.faults += own.faults
    gathered.warnings += own.warnings
    for rename in kustomization.renames:
        images = [rename.applied(image) for image in images]
    return images
