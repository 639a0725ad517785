"""YAML of a rootfs as nodes: only nodes know their lines."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from harness import untrusted
from harness.templates.job import GO

YAML_ENDINGS = (".yaml", ".yml", ".json")
_MERGE = "tag:yaml.org,2002:merge"
_JSON_MARKS = re.compile(r'"(?:[^"\\]|\\.)*+"|[{}\[\]]')

_Loader: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_yaml(path: str) -> bool:
    """Return True for the name of a YAML or JSON file, in capitals or not."""
    return path.lower().endswith(YAML_ENDINGS)


def read_text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(untrusted.YAML_LIMITS.size + 1)
    if len(data) > untrusted.YAML_LIMITS.size:
        raise OSError(f"it is larger than {untrusted.YAML_LIMITS.size} bytes")
    text = data.decode("utf-8-sig")
    # JSON may be indented with tabs, YAML may not; a JSON string cannot contain a tab.
    return text.replace("\t", " ") if path.name.removesuffix(GO).lower().endswith(".json") else text


def documents_of(text: str) -> Iterator[yaml.Node]:
    """The documents of a text as nodes. Raises yaml.YAMLError, also for a few lines that spell out to more than memory holds."""
    excess = untrusted.yaml_excess(text)
    if excess is not None:
        line, problem = excess
        raise yaml.composer.ComposerError(None, None, problem, yaml.Mark("", 0, line - 1, 0, None, 0))
    parts = _json_stream(text)
    if len(parts) > 1:
        return (node for line, part in parts for node in _shifted(part, line))
    return (node for node in yaml.compose_all(text, Loader=_Loader) if node is not None)


def _json_stream(text: str) -> list[tuple[int, str]]:
    """JSON objects one behind the other, as ``kubectl get -o json`` in a loop writes them, each with the number of lines before it.

    Empty for everything else. YAML has no such streams, but kubectl reads them.
    """
    if not text.lstrip().startswith("{"):
        return []
    parts: list[tuple[int, str]] = []
    depth = end = line = counted = 0
    start: int | None = None
    for mark in _JSON_MARKS.finditer(text):
        if mark[0] in "{[":
            if depth == 0:
                if text[end : mark.start()].strip():
                    return []
                start = mark.start()
            depth += 1
        elif mark[0] in "}]":
            depth -= 1
            if depth == 0 and start is not None:
                end = mark.end()
                line += text.count("\n", counted, start)
                counted = start
                parts.append((line, text[start:end]))
        if depth < 0:
            return []
    return parts if depth == 0 and not text[end:].strip() else []


def _shifted(text: str, lines: int) -> Iterator[yaml.Node]:
    """The document of a JSON text that begins behind so many lines."""
    for document in yaml.compose_all(text, Loader=_Loader):
        waiting = [document]
        while waiting:
            node = waiting.pop()
            mark = node.start_mark
            node.start_mark = yaml.Mark("", mark.index, mark.line + lines, mark.column, None, 0)
            if isinstance(node, yaml.MappingNode):
                waiting += [part for pair in node.value for part in pair]
            elif isinstance(node, yaml.SequenceNode):
                waiting += node.value
        yield document


def duplicate_keys(document: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and name of each key that a mapping of the document has twice: kubectl refuses it."""
    seen: set[int] = set()
    waiting = [document]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: set[tuple[str, str]] = set()
            for key, value in node.value:
                waiting.append(value)
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if (key.tag, key.value) in keys:
                        yield line_of(key), key.value
                    keys.add((key.tag, key.value))
        else:
            waiting += items_of(node)


def place_of(shown: str, wrong: Exception) -> str:
    mark = getattr(wrong, "problem_mark", None)
    return shown if mark is None else f"{shown}:{mark.line + 1}"


def reason_of(wrong: Exception) -> str:
    if not isinstance(wrong, yaml.YAMLError):
        return f"cannot be read: {wrong}"
    problem = getattr(wrong, "problem", None) or getattr(wrong, "reason", None) or str(wrong)
    return f"not YAML: {problem}"


def line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def pairs_of(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping, those of ``<<`` included. What documents_of gives holds no circles.

    A key of the mapping itself wins over a merged one, and of several merged mappings the first.
    """
    if not isinstance(node, yaml.MappingNode):
        return
    names = {key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE}
    for key, value in node.value:
        if key.tag != _MERGE:
            yield key, value
            continue
        for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            for inner_key, inner_value in pairs_of(merged):
                name = inner_key.value if isinstance(inner_key, yaml.ScalarNode) else None
                if name is None or name not in names:
                    yield inner_key, inner_value
                if name is not None:
                    names.add(name)


def value_of(node: yaml.Node | None, name: str) -> yaml.Node | None:
    return next((value for key, value in pairs_of(node) if isinstance(key, yaml.ScalarNode) and key.value == name), None)


def text_of(node: yaml.Node | None) -> str | None:
    """The text of a scalar; None for everything else, null included."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null" else None


def items_of(node: yaml.Node | None) -> Sequence[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else ()
