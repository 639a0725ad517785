"""Parts of pages that are made from the program: every command with its options, and every key of a Clusterfile.

A page names such a part with the line ``<!-- generated: NAME -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import typer

import harness.cli.app  # noqa: F401 - its modules add the verbs
from harness.cli.program import help_record
from harness.cli.root import app
from harness.clusterfile.json_schema_export import schema

MARK = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)

_DEEPEST = 8
"""Keys within keys of a Clusterfile."""


def fill(text: str) -> str:
    """Return a page with its marks replaced. Raises KeyError for a mark that nothing generates."""
    return MARK.sub(lambda mark: "\n".join(PARTS[mark[1]]()), text)


# The command line


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name: ``slipway``, ``slipway nodes``, ``slipway nodes up``."""
    yield from _below("slipway", typer.main.get_command(app))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield name, command
    for word, child in getattr(command, "commands", {}).items():
        if not child.hidden:
            yield from _below(f"{name} {word}", child)


def command_line() -> Iterator[str]:
    """A section for each command: usage, what it does, arguments and options."""
    for name, command in sorted(commands(), key=lambda item: item[0]):
        context = command.make_context(name, [], resilient_parsing=True)
        yield from (f"## {name}", "", "```console", f"$ {name} {' '.join(command.collect_usage_pieces(context))}", "```", "")
        yield from _help(command.help or "")
        children = [child for child in getattr(command, "commands", {}).values() if not child.hidden]
        if children:
            listed = (
                f"[`{child.name}`](#{_anchor(f'{name} {child.name}')})" for child in sorted(children, key=lambda child: str(child.name))
            )
            yield from ("Commands: " + ", ".join(listed), "")
        for parameter in command.params:
            record = help_record(parameter, context)
            if record is not None and not getattr(parameter, "hidden", False):
                yield from (f"`{record[0].strip()}`", f": {_prose(record[1]) or '-'}", "")


def _help(text: str) -> Iterator[str]:
    """The help of a command: paragraphs, and as they are those that begin with ``\\b``."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from ("```console", *(f"$ {line.strip()}" for line in paragraph.splitlines()[1:]), "```", "")
        elif paragraph.strip():
            yield from (_prose(" ".join(paragraph.split())), "")


def _prose(text: str) -> str:
    """A help text as Markdown: what stands in backquotes stays, everything else loses its special meaning."""
    parts = re.split(r"(`[^`]*`)", text.strip())
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]|])", r"\\\1", part) for part in parts)


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")


# The Clusterfile


def clusterfile() -> Iterator[str]:
    """A section for each kind of document: its keys with their types."""
    for kind, document in schema()["$defs"].items():
        yield from (f"## {kind}", "", f"{document.get('description', '')}.", "")
        versions = document["properties"]["apiVersion"]
        if "pattern" in versions:
            yield from (f"`apiVersion` matches `{versions['pattern']}`. The document is that project's own and is merged as it is.", "")
            continue
        yield from (f"`apiVersion`: {', '.join(f'`{word}`' for word in versions['enum'] if word)}.", "")
        yield from _keys("metadata", document["properties"]["metadata"])
        yield from _keys("spec", document["properties"]["spec"])


def _keys(path: str, value: Mapping[str, Any], *, required: bool = False, depth: int = 0) -> Iterator[str]:
    """An entry for a key and for each key below it."""
    if depth:
        kind = f"{_type(value)}, required" if required else _type(value)
        yield from (f"`{path}`", f": *{kind}.* {_prose(str(value.get('description', '')))}".rstrip(), "")
    if depth < _DEEPEST:
        for form in (value, *value.get("anyOf", ())):
            for name, child in form.get("properties", {}).items():
                yield from _keys(f"{path}.{name}", child, required=name in form.get("required", ()), depth=depth + 1)
            if isinstance(form.get("items"), dict) and not _is_plain(form["items"]):
                yield from _keys(f"{path}[]", form["items"])


def _is_plain(value: Mapping[str, Any]) -> bool:
    return "properties" not in value and not any("properties" in form for form in value.get("anyOf", ()))


def _type(value: Mapping[str, Any]) -> str:
    """The type of a value in a few words; empty for null."""
    if "const" in value:
        return json.dumps(value["const"])
    if "enum" in value:
        return " or ".join(str(choice) for choice in value["enum"] if choice not in ("", None))
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(word for form in value["anyOf"] if (word := _type(form))))
    kind = value.get("type", "anything")
    kinds = [word for word in (kind if isinstance(kind, list) else [kind]) if word != "null"]
    if kinds == ["array"] and isinstance(value.get("items"), dict):
        return f"list of {_type(value['items'])}"
    if "integer" in kinds:
        return "number"
    return "text" if "string" in kinds else " or ".join(_TYPES.get(word, word) for word in kinds)


_TYPES = {"object": "mapping", "array": "list", "boolean": "true or false"}

PARTS: Mapping[str, Callable[[], Iterator[str]]] = {"command-line": command_line, "clusterfile": clusterfile}
