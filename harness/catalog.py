"""Catalogue of images to build: the folders of kubefiles/, their bases, and their order.

Standard library only: the noxfile and CI read this where nothing else is installed.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError

TAG = "latest"
"""Tag that `nox -s build-image` gives an image; a FROM that names it means the folder beside its own."""

_ARG = re.compile(r"ARG\s+(\w+)(?:=(\S*))?\s*$", re.IGNORECASE)
_FROM = re.compile(r"FROM\s+(?:--platform=\S+\s+)?(\S+)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")


@dataclasses.dataclass(frozen=True)
class CatalogEntry:
    """One folder of kubefiles/. ``base`` is what its FROM names; ``needs`` the folder that yields it, if one does."""

    name: str
    folder: Path
    base: str
    needs: str | None
    summary: str
    """The first paragraph of its README, on one line; empty when it has none."""
    tests: tuple[Path, ...]
    bundled: bool = False
    """It comes with slipway, and is there for images that are built from it."""

    @property
    def reference(self) -> str:
        return f"{self.name}:{TAG}"

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "image": self.reference, "from": self.base, "needs": self.needs, "summary": self.summary}


def find(root: Path, *, bases: Path | None = None) -> dict[str, CatalogEntry]:
    """The entries of ``root`` (a folder kubefiles/) by name, then those of ``bases`` that have other names: the folder of slipway itself.

    Raises UsageError when there is no folder ``root``.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder", hint="images are described in kubefiles/<name>/Kubefile")
    own = {path.parent.name: path.parent for path in sorted(root.glob("*/Kubefile"))}
    bundled = {path.parent.name: path.parent for path in sorted(bases.glob("*/Kubefile"))} if bases else {}
    folders = {**own, **{name: folder for name, folder in bundled.items() if name not in own}}
    return {name: _entry(folder, folders, bundled=name not in own) for name, folder in folders.items()}


def _entry(folder: Path, names: Iterable[str], *, bundled: bool) -> CatalogEntry:
    base = _base((folder / "Kubefile").read_text())
    tests = tuple(sorted([*folder.rglob("test_*.py"), *folder.rglob("*_test.py")]))
    return CatalogEntry(folder.name, folder, base, _folder_of(base, names), _summary(folder / "README.md"), tests, bundled)


def select(entries: Mapping[str, CatalogEntry], names: Iterable[str]) -> tuple[CatalogEntry, ...]:
    """The entries called ``names``, each once; without names, all that do not come with slipway.

    Raises UsageError that lists every unknown name.
    """
    wanted = tuple(dict.fromkeys(names)) or tuple(name for name, entry in entries.items() if not entry.bundled)
    unknown = [name for name in wanted if name not in entries]
    if unknown:
        raise UsageError("; ".join(f"no kubefile is called {name}" for name in unknown), hint=_nearest(unknown, entries))
    return tuple(entries[name] for name in wanted)


def order(entries: Mapping[str, CatalogEntry], names: Iterable[str] = ()) -> tuple[CatalogEntry, ...]:
    """``names`` (all, when there are none) and whatever they are built from, bases first.

    Raises UsageError for unknown names and for kubefiles that are built from each other.
    """
    ordered: dict[str, CatalogEntry] = {}
    for entry in select(entries, names):
        for one in _chain(entries, entry):
            ordered[one.name] = one
    return tuple(ordered.values())


def _chain(entries: Mapping[str, CatalogEntry], entry: CatalogEntry) -> list[CatalogEntry]:
    """The entry behind all that it is built from."""
    chain = [entry]
    while chain[0].needs is not None:
        base = entries[chain[0].needs]
        if base in chain:
            circle = " -> ".join([*(one.name for one in reversed(chain)), base.name])
            raise UsageError(f"kubefiles are built from each other: {circle}", hint="change the FROM of one of them")
        chain.insert(0, base)
    return chain


def _base(text: str) -> str:
    """Image of the first FROM, with the defaults of the ARGs before it; empty without a FROM: the build reports that."""
    arguments: dict[str, str] = {}
    for line in text.splitlines():
        if match := _ARG.match(line.strip()):
            arguments[match[1]] = match[2] or ""
        elif match := _FROM.match(line.strip()):
            return _VARIABLE.sub(lambda name: arguments.get(name[1] or name[3], "") or name[2] or "", match[1])
    return ""


def _folder_of(base: str, names: Iterable[str]) -> str | None:
    short = base.removeprefix("docker.io/").removeprefix("library/")
    name, _, tag = short.partition(":")
    return name if name in names and tag in ("", TAG) else None


def _summary(readme: Path) -> str:
    return summary(readme.read_text()) if readme.is_file() else ""


def summary(text: str) -> str:
    """The first paragraph of a README that is not a heading, on one line; empty when it has none."""
    paragraphs = re.split(r"\n\s*\n", text)
    first = next((text for text in paragraphs if text.strip() and not text.lstrip().startswith("#")), "")
    return " ".join(first.split())


def _nearest(unknown: Iterable[str], entries: Mapping[str, CatalogEntry]) -> str:
    near = [match for name in unknown for match in difflib.get_close_matches(name, entries, n=1)]
    available = f"there are: {', '.join(entries)}" if entries else "there are none"
    return f"did you mean {', '.join(dict.fromkeys(near))}? {available}" if near else available
