"""The templates of an unpacked rootfs."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from harness.errors import Fault, InputError
from harness.host import durable
from harness.templates import render_all
from harness.templates.job import GO, JINJA, Job, output_name
from harness.templates.plain import YAML_ENDINGS, may_be_meant, placeholders

_LARGEST = 16 << 20
"""Bytes of a file that is rendered; what is larger is data."""
_LARGEST_TREE = 64 << 20
"""Characters that the templates of a tree may render to together."""


SCHEMA = "etc/values.schema.json"
"""File of the rootfs that describes the values which the image expects. It is not rendered."""


def is_template(path: str) -> bool:
    """Return True when the file at this path of a rootfs is rendered (charts apart)."""
    return path.endswith((GO, JINJA)) or (path.startswith(("manifests/", "etc/")) and path != SCHEMA)


def templates(root: Path) -> Iterator[tuple[str, str]]:
    """Path and text of each file of an unpacked rootfs that is rendered and may hold a placeholder, by path.

    A template that is too large is left out: ``render_tree`` reports it.
    """
    for path in _templates(root):
        try:
            text = _text(root / path)
        except ValueError:
            continue
        if text is not None:
            yield path, text


def left_as_text(root: Path, declared: Container[str]) -> Iterator[tuple[str, str]]:
    """File and name of each placeholder of an unpacked rootfs that stays as text although it may be a value: see ``plain.may_be_meant``."""
    for path, text in templates(root):
        if not path.endswith((GO, JINJA)) and not path.lower().endswith(YAML_ENDINGS):
            meant = (each for each in placeholders(text, path, declared) if may_be_meant(each, path))
            yield from dict.fromkeys((path, each.name) for each in meant if each.name not in declared)


def render_tree(
    root: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]] | None = None, declared: Container[str] = ()
) -> list[str]:
    """Render the templates of an unpacked rootfs in place; the output of ``a.yaml.tmpl`` is ``a.yaml`` beside it, with the same mode.

    ``app_env`` is what an application's files (by its name) get on top of ``env``; ``declared`` are names that are no text of others,
    although ``env`` may lack them. Returns the paths that were written, relative to
    ``root``, sorted. Nothing is written when there is a fault: raises InputError with all of them.
    """
    faults: list[Fault] = []
    written: dict[str, tuple[str, str]] = {}
    jobs: list[Job] = []
    for path in _templates(root):
        try:
            text = _text(root / path)
        except ValueError as wrong:
            faults.append(Fault(path, str(wrong)))
            continue
        if text is not None:
            jobs.append(Job(text, env_of(path, env, app_env or {}), path, declared=declared))
    room = _LARGEST_TREE
    for job, rendered in zip(jobs, render_all(jobs), strict=True):
        if not isinstance(rendered, str):
            faults += rendered
        elif output_name(job.path) != job.path or rendered != job.text:
            room -= len(rendered)
            written[output_name(job.path)] = (job.path, rendered)
    if room < 0:
        faults.append(Fault("templates", f"they render to more than {_LARGEST_TREE} characters together"))
    if faults:
        raise InputError(faults)
    for target, (path, output) in written.items():
        _write(root / target, output, (root / path).stat().st_mode & 0o7777)
    return sorted(written)


def env_of(path: str, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The environment of the file at this path of a rootfs: that of its application comes before the global one."""
    parts = path.split("/")
    return {**env, **app_env.get(parts[2], {})} if parts[:2] == ["application", "apps"] and len(parts) > 3 else env


def _templates(root: Path) -> list[str]:
    """The files to render, relative to the root. A template comes after the file that it overwrites. Links are not followed."""
    paths = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        if here == "charts" or (here != "." and "Chart.yaml" in files):
            folders.clear()
            continue
        paths += [path for name in files if is_template(path := posixpath.normpath(f"{here}/{name}")) and not (root / path).is_symlink()]
    return sorted(paths)


def _text(path: Path) -> str | None:
    """The text of a file that may hold a placeholder, or None: binary, large, or without ``{{``. Templates are read in any case.

    Raises ValueError for a template that is too large.
    """
    named = output_name(path.name) != path.name
    if path.stat().st_size > _LARGEST:
        if named:
            raise ValueError(f"a template of more than {_LARGEST} bytes is not rendered")
        return None
    data = path.read_bytes()
    if b"{{" not in data and not named and b"{%" not in data:
        return None
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file in one move: what has the old one linked or open keeps it."""
    with durable.replacing(path, mode=mode, sync=False) as file:
        file.write(text.encode())
