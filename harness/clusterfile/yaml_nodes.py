"""YAML text -> nodes that know their line and their path; every fault of the text, of all its documents, at once.

Scalars keep the text that was written beside the value that YAML sees in it: ``Version: 1.20`` of an environment stays ``1.20``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from harness import untrusted
from harness.errors import Fault, InputError

_SEPARATOR = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_FOREIGN_COMMENT = re.compile(r"^//.*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^%[^\n]*\n(?:[ ]*(?:#[^\n]*)?\n)*\Z", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_MOST = 100_000
"""Nodes of one text. Aliases of aliases would otherwise fill the memory from a few lines."""

_PREFIX = "tag:yaml.org,2002:"
_BOOL = re.compile(r"(?:true|false|yes|no|on|off)", re.IGNORECASE)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0[0-7]+|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
RESOLVERS: tuple[tuple[str, re.Pattern[str], list[str]], ...] = (
    (f"{_PREFIX}bool", re.compile(rf"^(?:{_BOOL.pattern})$", re.IGNORECASE), list("tTfFyYnNoO")),
    (f"{_PREFIX}int", re.compile(rf"^(?:{_INT.pattern})$"), list("-+0123456789")),
    (f"{_PREFIX}float", re.compile(rf"^(?:{_FLOAT.pattern})$"), list("-+.0123456789")),
    (f"{_PREFIX}null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    (f"{_PREFIX}merge", re.compile(r"^<<$"), ["<"]),
)
"""Types of plain scalars, as Kubernetes reads them: no dates and no ``22:22`` as a number to the base of sixty."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Composes nodes; libyaml's scanner, where there is one, is thirty times as fast."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 -- PyYAML's own way


for _tag, _pattern, _first in RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


@dataclasses.dataclass(frozen=True)
class YamlNode:
    """A part of a document. ``content`` is the text of a scalar, the items of a list, or the entries of a mapping in their order."""

    line: int
    """Counts from 1 in the whole text; a list or mapping has that of its key."""
    path: str
    """Within its document: ``.spec.hosts[1].ips[0]``, empty for the document itself."""
    content: str | tuple[YamlNode, ...] | dict[str, YamlNode]
    value: str | int | float | bool | None = None
    """Value of a scalar in YAML."""
    style: str | None = None
    """Style of a scalar: ``'``, ``"``, ``|``, ``>``, or None when plain."""

    @property
    def is_null(self) -> bool:
        return isinstance(self.content, str) and self.value is None

    @property
    def kind(self) -> str:
        """Name of the type in fault messages."""
        if isinstance(self.content, dict):
            return "a mapping"
        return "a list" if isinstance(self.content, tuple) else "text" if isinstance(self.value, str) else repr(self.content)

    def plain(self) -> Any:
        """Return dict, list, str, int, float, bool or None. Keys are text."""
        if isinstance(self.content, dict):
            return {key: node.plain() for key, node in self.content.items()}
        if isinstance(self.content, tuple):
            return [node.plain() for node in self.content]
        return self.value


class FaultReport:
    """Collects the faults and warnings of a text."""

    def __init__(self, file: str, *, stored: bool = False) -> None:
        self.file = file
        self.stored = stored
        """The text is the state of a cluster, not a user's request."""
        self._faults: list[tuple[int, Fault]] = []
        self._warnings: list[tuple[int, Fault]] = []

    def where(self, node: YamlNode) -> str:
        return f"{self.file}:{node.line} {node.path}".rstrip()

    def fault(self, node: YamlNode, message: str, hint: str | None = None) -> None:
        self._faults.append((node.line, Fault(self.where(node), message, hint)))

    def fault_at(self, line: int, message: str, hint: str | None = None, *, path: str = "") -> None:
        self._faults.append((line, Fault(f"{self.file}:{line} {path}".rstrip(), message, hint)))

    def warn(self, node: YamlNode, message: str, hint: str | None = None) -> None:
        """Each message once, with its first place."""
        if all(message != warning.message for _, warning in self._warnings):
            self._warnings.append((node.line, Fault(self.where(node), message, hint)))

    @property
    def faults(self) -> tuple[Fault, ...]:
        """In the order of the lines."""
        return tuple(dict.fromkeys(fault for _, fault in sorted(self._faults, key=lambda entry: entry[0])))

    @property
    def warnings(self) -> tuple[Fault, ...]:
        return tuple(fault for _, fault in sorted(self._warnings, key=lambda entry: entry[0]))

    def finish(self) -> None:
        """Raises InputError when there is any fault."""
        if self._faults:
            raise InputError(self.faults)


def documents(text: str, report: FaultReport) -> list[YamlNode]:
    """Non-empty documents of a text. One that is not YAML is reported, and does not hide the others."""
    nodes: list[YamlNode] = []
    for first, chunk in _chunks(text.removeprefix("\ufeff")):
        nodes += _composed(chunk, first, report)
    return nodes


def key_path(path: str, key: str) -> str:
    return f"{path}.{key}" if _WORD.fullmatch(key) else f"{path}[{json.dumps(key, ensure_ascii=False)}]"


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    """The text in parts of one document each, with the lines that stand before. A ``---`` at the margin can only separate documents."""
    # Directives belong to the document behind them.
    starts, before = [0], 0
    for match in _SEPARATOR.finditer(text):
        if match.start() and not _DIRECTIVE.search(text, before, match.start()):
            starts.append(match.start())
        before = match.start()
    lines = 0
    for start, end in itertools.pairwise([*starts, len(text)]):
        yield lines, text[start:end]
        lines += text.count("\n", start, end)


def _composed(text: str, before: int, report: FaultReport) -> list[YamlNode]:
    excess = untrusted.yaml_excess(text, untrusted.YamlLimits(nodes=_MOST))
    if excess is not None:
        report.fault_at(before + excess[0], f"cannot be read: {excess[1]}")
        return []
    nodes = []
    loader = None
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = _Composer(report, before).node(loader.get_node(), "", None)
            if node is not None and not node.is_null:
                nodes.append(node)
    except yaml.reader.ReaderError as wrong:
        line = text.count("\n", 0, int(wrong.position)) + 1 if isinstance(wrong.position, int) else 1
        report.fault_at(before + line, f"there is a character that YAML does not allow: {wrong.character!r}", "remove it")
    except yaml.MarkedYAMLError as wrong:
        comments = _FOREIGN_COMMENT.search(text)
        if comments is not None:
            line = before + text.count("\n", 0, comments.start()) + 1
            report.fault_at(line, "// begins no comment in YAML", "comments begin with #")
            return nodes + _composed(_FOREIGN_COMMENT.sub("", text), before, report)
        _tell(wrong, text, before, report)
    finally:
        if loader is not None:
            loader.dispose()
    return nodes


def _tell(wrong: yaml.MarkedYAMLError, text: str, before: int, report: FaultReport) -> None:
    mark = wrong.problem_mark or wrong.context_mark
    line = (mark.line if mark is not None else 0) + 1
    problem = " ".join((wrong.problem or "is not understood").split())
    rows = text.splitlines()
    # The scanner complains one line late about what was begun before.
    near = [(number, row) for number, row in enumerate(rows[:line], start=1) if "\t" in row[: len(row) - len(row.lstrip())]]
    if near and "character" in problem:
        report.fault_at(before + near[-1][0], "the line is indented with a tab", "YAML is indented with blanks")
        return
    context = f" ({' '.join(wrong.context.split())})" if wrong.context else ""
    report.fault_at(before + line, f"is not YAML: {problem}{context}")


class _Composer:
    """Converts PyYAML's nodes to YamlNode, for one document whose size and depth were checked."""

    def __init__(self, report: FaultReport, before: int) -> None:
        self.report = report
        self.before = before

    def line(self, node: yaml.Node) -> int:
        return self.before + int(node.start_mark.line) + 1

    def node(self, node: yaml.Node, path: str, line: int | None) -> YamlNode | None:
        """None for what had a fault of its own. ``line`` is that of the key, if there is one."""
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if isinstance(node, yaml.SequenceNode):
            items = (self.node(item, f"{path}[{index}]", None) for index, item in enumerate(node.value))
            return YamlNode(line or self.line(node), path, tuple(item for item in items if item is not None))
        return YamlNode(line or self.line(node), path, self.entries(node, path) if isinstance(node, yaml.MappingNode) else {})

    def scalar(self, node: yaml.ScalarNode, path: str) -> YamlNode | None:
        text = str(node.value)
        line = self.line(node)
        try:
            value = _SCALARS[node.tag.removeprefix(_PREFIX)](text)
        except (KeyError, ValueError):
            tag = node.tag.replace(_PREFIX, "!!")
            self.report.fault_at(line, f"the tag {tag} is not understood", "write the value as text", path=path)
            return None
        return YamlNode(line, path, text, value, node.style)

    def entries(self, node: yaml.MappingNode, path: str) -> dict[str, YamlNode]:
        by_key: dict[str, YamlNode] = {}
        lines: dict[str, int] = {}
        inherited: dict[str, YamlNode] = {}
        for key, value in node.value:
            line = self.line(key)
            if not isinstance(key, yaml.ScalarNode):
                self.report.fault_at(line, "a key must be text", 'a placeholder wants quotes: "{{ Name }}"', path=path)
                continue
            if key.tag == f"{_PREFIX}merge":
                inherited |= self.inherited(value, path)
                continue
            name = str(key.value)
            if name in lines:
                message = f"is given twice; the first is in line {lines[name]}"
                self.report.fault_at(line, message, "remove one", path=key_path(path, name))
                continue
            lines[name] = line
            child = self.node(value, key_path(path, name), line if isinstance(value, yaml.CollectionNode) else None)
            if child is not None:
                by_key[name] = child
        return {**{name: child for name, child in inherited.items() if name not in lines}, **by_key}

    def inherited(self, value: yaml.Node, path: str) -> dict[str, YamlNode]:
        """Entries from ``<<: *alias``: of several mappings the first counts."""
        mappings = value.value if isinstance(value, yaml.SequenceNode) else [value]
        merged: dict[str, YamlNode] = {}
        for mapping in mappings:
            node = self.node(mapping, path, None)
            if node is not None and isinstance(node.content, dict):
                merged = {**node.content, **merged}
            elif node is not None:
                self.report.fault_at(self.line(mapping), "<< takes a mapping", path=path)
        return merged


def _int(text: str) -> int:
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    if re.fullmatch(r"0[0-7]+", digits):
        return sign * int(digits, 8)
    return sign * int(digits, 0)


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Any] = {
    "str": str,
    "int": _int,
    "float": _float,
    "bool": lambda text: text.lower() in ("true", "yes", "on"),
    "null": lambda _: None,
}
