"""Build context of one stage of images/NAME/Dockerfile: its folder, and the Go programs that the stage copies.

A Dockerfile takes them from a folder ``go`` that is not in the tree. ``COPY go/PROGRAM`` takes a program that a module folder below
images/NAME locks (see gotools), compiled for the processor of the image; ``COPY go/here/PROGRAM`` the same for the machine that builds,
to be run in a step; ``COPY go/source/PROGRAM`` that module with all that it needs, for what has to be compiled beside C;
``COPY go/toolchain`` the compiler for the latter. A program of several module folders is taken from the one whose version the name of the
image states.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import BuildError
from harness.host import gotools, paths, scratch
from harness.host.gotools import Recipe

FROM = re.compile(r"FROM\s+(?P<here>--platform=\S+\s+)?(?P<base>\S+)(?:\s+AS\s+(?P<stage>\S+))?\s*$", re.IGNORECASE)
_COPY = re.compile(r"COPY\s+(?P<words>.*)$", re.IGNORECASE | re.DOTALL)
_SOURCE = re.compile(r"--from=(?P<stage>\S+)")
_TOOLCHAIN, _HERE, _VENDORED, _FOR_IMAGE = "toolchain", "here", "source", ""
"""Folders below ``go``; what is for the image lies in ``go`` itself."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One ``FROM`` and what follows it. ``text`` ends with a line end; ``here``: for the machine that builds (``--platform=...``)."""

    name: str | None
    base: str
    here: bool
    text: str

    @property
    def copies(self) -> tuple[str, ...]:
        """Arguments of its COPY instructions."""
        joined = self.text.replace("\\\n", " ")
        matches = (_COPY.match(line.strip()) for line in joined.splitlines())
        return tuple(match["words"] for match in matches if match)

    @property
    def needs(self) -> set[str]:
        """The names of other stages, or of images."""
        return {self.base, *(match["stage"] for words in self.copies for match in _SOURCE.finditer(words))}


def stages(text: str) -> tuple[str, tuple[Stage, ...]]:
    """Split a Dockerfile into the text before the first ``FROM``, and the stages."""
    head: list[str] = []
    sections: list[tuple[re.Match[str], list[str]]] = []
    for line in text.splitlines(keepends=True):
        started = FROM.match(line.strip())
        if started:
            sections.append((started, [line]))
        elif sections:
            sections[-1][1].append(line)
        else:
            head.append(line)
    return "".join(head), tuple(Stage(match["stage"], match["base"], bool(match["here"]), "".join(lines)) for match, lines in sections)


def needed(text: str, target: str | None) -> tuple[str, tuple[Stage, ...]]:
    """As ``stages``, without those that ``target`` does not need: the classic builder would build them all."""
    head, every = stages(text)
    names = {stage.name for stage in every}
    if target is None or target not in names or any(name.isdigit() for stage in every for name in stage.needs):
        return head, every
    names_needed = {target}
    for stage in reversed(every):
        if stage.name in names_needed:
            names_needed |= stage.needs
    return head, tuple(stage for stage in every if stage.name in names_needed)


@dataclasses.dataclass(frozen=True)
class Context:
    """``dockerfile`` has only the stages that are built; ``programs`` are folders below ``go``, names, and what locks them."""

    folder: Path
    dockerfile: str
    programs: tuple[tuple[str, str, Recipe], ...]
    toolchain: bool

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """Module folders to compile, each once."""
        return tuple({recipe.folder: recipe for _, _, recipe in self.programs}.values())

    @property
    def modules(self) -> tuple[str, ...]:
        """Go modules of the image, as ``Recipe.origin`` states them."""
        return tuple(recipe.origin for recipe in self.recipes)

    @property
    def uses_go(self) -> bool:
        return bool(self.programs) or self.toolchain

    def files(self) -> list[Path]:
        """The files of the folder that the engine is sent, sorted."""
        modules = _module_folders(self.folder)
        return sorted(
            path for path in self.folder.rglob("*") if path.is_file() and not any(path.is_relative_to(module) for module in modules)
        )  # fmt: skip

    def described(self, architecture: str) -> list[object]:
        """Inputs of the image, for its key."""
        keys = [gotools.pinned_key(recipe.folder, architecture) for recipe in self.recipes]
        return [hashlib.sha256(self.dockerfile.encode()).hexdigest(), keys, gotools.GO_VERSION if self.toolchain else ""]

    @contextlib.contextmanager
    def written(self, architecture: str) -> Iterator[Path]:
        """Make the folder to build in, and remove it when the block ends. Raises CommandError when a program cannot be compiled."""
        if not self.uses_go:
            yield self.folder
            return
        with tempfile.TemporaryDirectory(prefix="context-", dir=scratch.folder()) as work:
            root = Path(work)
            for path in self.files():
                target = root / path.relative_to(self.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
            for folder, name, recipe in self.programs:
                target = root / "go" / folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if folder == _VENDORED:
                    shutil.copytree(gotools.vendored(recipe.folder), target, copy_function=_place)
                else:
                    processor = paths.architecture() if folder == _HERE else architecture
                    _place(gotools.compiled(recipe.folder, name, architecture=processor, pinned=True), target)
            if self.toolchain:
                place = Path(gotools.pinned_toolchain(self.folder.name).root)
                shutil.copytree(place, root / "go" / _TOOLCHAIN, symlinks=True, copy_function=_place)
            yield root


def _place(source: str | Path, target: str | Path) -> str:
    """Hard-link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
    return str(target)


def _module_folders(folder: Path) -> list[Path]:
    """The folders below ``folder`` that hold a module; not ``folder`` itself, whose files the engine is sent."""
    return [path.parent for path in sorted(folder.rglob("go.mod")) if path.parent != folder]


def recipes(folder: Path) -> tuple[Recipe, ...]:
    """Every module folder of an image that names programs."""
    return tuple(Recipe.read(path.parent) for path in sorted(folder.rglob("tools.go")))


def plan(folder: Path, target: str | None, version: str) -> Context | None:
    """Context of the stage ``target`` of ``folder``'s Dockerfile; None when no module folder has a program of it in that version.

    ``version`` is the VERSION in the image's name; empty when the name has none.
    Raises BuildError for a program that is in no module folder.
    """
    head, chosen = needed((folder / "Dockerfile").read_text(), target)
    words = [word for stage in chosen for copy in stage.copies if not _SOURCE.search(copy) for word in copy.split()]
    names = list(dict.fromkeys(word.removeprefix("go/").rstrip("/") for word in words if word.startswith("go/")))
    all_recipes = recipes(folder) if names else ()
    programs: list[tuple[str, str, Recipe]] = []
    for place, _, name in (path.rpartition("/") for path in names if path != _TOOLCHAIN):
        having = [recipe for recipe in all_recipes if name in recipe.programs]
        if not having or place not in (_HERE, _VENDORED, _FOR_IMAGE):
            raise BuildError(
                f"{folder}/Dockerfile copies go/{f'{place}/' if place else ''}{name}, and no tools.go below {folder} imports such a program"
            )
        fitting = [recipe for recipe in having if not version or recipe.version.removeprefix("v") == version.removeprefix("v")]
        if not fitting:
            return None
        programs.append((place, name, fitting[-1]))
    return Context(folder, head + "".join(stage.text for stage in chosen), tuple(programs), _TOOLCHAIN in names)


def versions(folder: Path) -> tuple[str, ...]:
    """The versions of what an image folder compiles, as ``v1.36.3``; the newest last."""
    return tuple(sorted({recipe.version for recipe in recipes(folder)}, key=gotools.numbers))
