"""YAML, JSON and TOML as plain data and back, for merging into files that other programs read.

What a template has in ``{{ }}`` survives: it is taken out before the text is read and put back afterwards, so a file can be merged into
before it is rendered.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from harness.clusterfile.yaml_nodes import RESOLVERS, FaultReport, YamlNode, documents

_STAND_IN = re.compile(r"slipwayStandIn(\d+)x")
_ODD_BREAK = re.compile("[\r\x85\u2028\u2029]")
_BARE_LIKE = re.compile(r"^(?:y|Y|n|N|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$")


class _Quoted(str):
    """Text with a placeholder that was quoted, and must be quoted again: ``"{{ Port }}"`` is text, ``{{ Port }}`` a number."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Quotes all text that any YAML reader might read as another type."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- PyYAML's
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 -- lists stand out from their keys
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    # Breaks of a line that not every reader takes for one are only safe when they are escaped.
    style = '"' if _ODD_BREAK.search(value) else "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


for _tag, _pattern, _first in RESOLVERS:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", _BARE_LIKE, list("yYnN-+0123456789"))
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(_Quoted, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style='"'))


def write_yaml(value: Any) -> str:
    """One document, in block style, keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**9))


def write_documents(values: list[Any]) -> str:
    return "---\n".join(write_yaml(value) for value in values)


def read_documents(text: str) -> list[Any]:
    """The documents that hold anything. Raises ValueError with the line."""
    report = FaultReport("line")
    nodes = documents(text, report)
    if report.faults:
        fault = report.faults[0]
        where = fault.where.replace("line:", "line ", 1)
        raise ValueError(f"{where}: {fault.message}")
    return [_plain(node) for node in nodes]


def _plain(node: YamlNode) -> Any:
    if isinstance(node.content, dict):
        return {key: _plain(child) for key, child in node.content.items()}
    if isinstance(node.content, tuple):
        return [_plain(child) for child in node.content]
    if isinstance(node.value, str) and node.style in ("'", '"') and _STAND_IN.search(node.value):
        return _Quoted(node.value)
    return node.value


def protect(text: str) -> tuple[str, Callable[[str], str]]:
    """The text with words in place of ``{{ }}``, and what puts them back into a text made of it."""
    kept: list[str] = []
    parts: list[str] = []
    position = line = 0
    while (begin := text.find("{{", position)) >= 0:
        if line <= begin:
            line = text.find("\n", begin)
            line = len(text) if line < 0 else line
        end = text.find("}}", begin + 2, line)
        if end < 0:
            # Nothing is closed in this line: no later {{ of it need be tried.
            parts.append(text[position:line])
            position = line
            continue
        kept.append(text[begin : end + 2])
        parts += [text[position:begin], f"slipwayStandIn{len(kept) - 1}x"]
        position = end + 2
    return "".join([*parts, text[position:]]), lambda output: _STAND_IN.sub(lambda match: kept[int(match[1])], output)


def write_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def compact_json(value: Any) -> str:
    """On one line, keys sorted: the same data always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_json(text: str) -> Any:
    """Raises ValueError with the line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as wrong:
        raise ValueError(f"line {wrong.lineno}: {wrong.msg}") from wrong


def read_toml(text: str) -> dict[str, Any]:
    """Raises ValueError with the line."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise ValueError(str(wrong)) from wrong


def write_toml(value: Mapping[str, Any]) -> str:
    """Tables in their order, single values before the tables below them. Raises ValueError for null, which TOML does not have."""
    import tomli_w

    for name in _nulls(value):
        raise ValueError(f"{name}: TOML has no null")
    return tomli_w.dumps(value)


def _nulls(value: Any, name: str = "") -> Iterator[str]:
    """The keys whose values are, or contain in lists, null."""
    if value is None:
        yield name
    elif isinstance(value, Mapping):
        yield from (null for key, child in value.items() for null in _nulls(child, key))
    elif isinstance(value, list):
        yield from (null for item in value for null in _nulls(item, name))
