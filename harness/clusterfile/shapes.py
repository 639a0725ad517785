"""Shapes for the tables of ``schema``: each describes the valid forms of a part of a document.

A shape does two things, so that they cannot drift apart: it reads a node and reports its faults, and it gives the same rules as JSON
schema (draft 2020-12).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from harness.clusterfile.validators import FieldError, nearest, suggest
from harness.clusterfile.yaml_nodes import FaultReport, YamlNode, key_path


class Shape(Protocol):
    def read(self, node: YamlNode, report: FaultReport) -> Any:
        """Return the value; None for null, and for a faulty value, which is reported to ``report``."""
        ...

    def schema(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class LocatedValue:
    """A value and its node, for rules that need more than one value."""

    value: Any
    node: YamlNode


@dataclasses.dataclass(frozen=True)
class ParsedMapping:
    """Values of a mapping that a RecordShape has read, by key, without null and faulty ones."""

    node: YamlNode
    values: Mapping[str, Any]

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def at(self, key: str) -> YamlNode:
        """Node of a key, or of the mapping when the key is missing."""
        content = self.node.content
        return content[key] if isinstance(content, dict) and key in content else self.node


@dataclasses.dataclass(frozen=True)
class TextShape:
    """A scalar. ``check`` turns the text into the value or raises FieldError; ``pattern`` must match all of it."""

    check: Callable[[str], Any] | None = None
    pattern: str | None = None
    expected: str = ""
    """The hint when ``pattern`` does not match."""
    any_scalar: bool = False
    """Numbers and true or false count as the text that is written."""
    empty: bool = False
    """An empty text is a value; otherwise it counts as left out."""
    placed: bool = False
    local: bool = False
    """``check`` asks this machine. It is skipped for a stored text, which may have been written for another machine."""

    def read(self, node: YamlNode, report: FaultReport) -> Any:
        if node.is_null:
            return None
        if not isinstance(node.content, str):
            report.fault(node, f"must be text, not {node.kind}")
            return None
        if not isinstance(node.value, str) and not self.any_scalar:
            report.fault(node, f"must be text, not {node.content}", f'put it in quotes: "{node.content}"')
            return None
        if not node.content and not self.empty:
            return None
        value = self._checked(node, report)
        return LocatedValue(value, node) if self.placed and value is not None else value

    def _checked(self, node: YamlNode, report: FaultReport) -> Any:
        text = str(node.content)
        try:
            if self.pattern is not None and not re.fullmatch(self.pattern, text):
                raise FieldError(f"{text} is not allowed here", self.expected)
            return self.check(text) if self.check and not (self.local and report.stored) else text
        except FieldError as wrong:
            hint = "give the name a value: -e NAME=VALUE" if "{{" in text else wrong.hint
            report.fault(node, wrong.message, hint)
            return None

    def schema(self) -> dict[str, Any]:
        document: dict[str, Any] = {"type": ["string", "number", "boolean"] if self.any_scalar else "string"}
        if self.pattern is not None:
            # Empty counts as left out.
            document["pattern"] = f"^({self.pattern})$" if self.empty else f"^(({self.pattern})?)$"
        return document


@dataclasses.dataclass(frozen=True)
class ChoiceShape:
    """One of several words. ``refused`` are known words that are not supported, with the reason and what to write."""

    known: tuple[str, ...]
    refused: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def read(self, node: YamlNode, report: FaultReport) -> str | None:
        text = TextShape().read(node, report)
        if text is None or text in self.known:
            return text if text is None else str(text)
        if text in self.refused:
            report.fault(node, *self.refused[text])
        else:
            report.fault(node, f"{text} is not known here", suggest(text, self.known))
        return None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": [*self.known, ""]}


@dataclasses.dataclass(frozen=True)
class NumberShape:
    """A whole number, also in quotes."""

    least: int
    most: int

    def read(self, node: YamlNode, report: FaultReport) -> int | None:
        text = TextShape(any_scalar=True).read(node, report)
        if text is None:
            return None
        if not text.isdecimal() or len(text) > 9 or not self.least <= int(text) <= self.most:
            report.fault(node, f"{text} is not a number from {self.least} to {self.most}")
            return None
        return int(text)

    def schema(self) -> dict[str, Any]:
        return {"type": ["integer", "string"], "minimum": self.least, "maximum": self.most, "pattern": "^[0-9]*$"}


@dataclasses.dataclass(frozen=True)
class FlagShape:
    """true or false. ``refused``: the reason why true is not done, and what to write."""

    refused: tuple[str, str] | None = None

    def read(self, node: YamlNode, report: FaultReport) -> bool | None:
        if node.is_null:
            return None
        if not isinstance(node.value, bool):
            report.fault(node, f"must be true or false, not {node.kind}", "without quotes" if node.content in ("true", "false") else None)
            return None
        if node.value and self.refused:
            report.fault(node, *self.refused)
            return None
        return node.value

    def schema(self) -> dict[str, Any]:
        return {"const": False} if self.refused else {"type": "boolean"}


@dataclasses.dataclass(frozen=True)
class ListShape:
    """A list of values of one shape, as a tuple without faulty ones. With ``one`` a single value is a list of one."""

    item: Shape
    one: bool = False
    distinct: bool = False
    """The list is not empty, and has each value once."""

    def read(self, node: YamlNode, report: FaultReport) -> tuple[Any, ...] | None:
        if node.is_null:
            return None
        if isinstance(node.content, str) and self.one:
            return tuple(value for value in (self.item.read(node, report),) if value is not None)
        if not isinstance(node.content, tuple):
            report.fault(node, f"must be a list, not {node.kind}", f"- {node.content}" if isinstance(node.content, str) else None)
            return None
        values = []
        for item in node.content:
            if item.is_null:
                report.fault(item, "is empty", "remove it")
            elif (value := self.item.read(item, report)) is not None:
                if self.distinct and value in values:
                    report.fault(item, f"{value} is listed twice", "list it once")
                values.append(value)
        if self.distinct and not node.content:
            report.fault(node, "is an empty list")
        return tuple(values)

    def schema(self) -> dict[str, Any]:
        array = {"type": "array", "items": self.item.schema(), **({"minItems": 1, "uniqueItems": True} if self.distinct else {})}
        return {"anyOf": [self.item.schema(), array]} if self.one else array


@dataclasses.dataclass(frozen=True)
class MapShape:
    """A mapping with free keys, to values of one shape."""

    value: Shape
    key: Callable[[str], str]
    """Raises FieldError for an invalid key."""
    key_pattern: str | None = None

    def read(self, node: YamlNode, report: FaultReport) -> dict[str, Any] | None:
        if node.is_null:
            return None
        if not isinstance(node.content, dict):
            report.fault(node, f"must be a mapping, not {node.kind}")
            return None
        values = {}
        for key, child in node.content.items():
            try:
                self.key(key)
            except FieldError as wrong:
                report.fault(child, wrong.message, wrong.hint)
                continue
            value = self.value.read(child, report)
            if value is not None:
                values[key] = value
        return values

    def schema(self) -> dict[str, Any]:
        document = {"type": "object", "additionalProperties": nullable(self.value.schema())}
        return {**document, "propertyNames": {"pattern": f"^({self.key_pattern})$"}} if self.key_pattern else document


@dataclasses.dataclass(frozen=True)
class FormShape:
    """A value that is a scalar, a list or a mapping, with a shape for each form."""

    scalar: Shape | None = None
    sequence: Shape | None = None
    mapping: Shape | None = None

    def read(self, node: YamlNode, report: FaultReport) -> Any:
        if node.is_null:
            return None
        shape = self.mapping if isinstance(node.content, dict) else self.sequence if isinstance(node.content, tuple) else self.scalar
        if shape is not None:
            return shape.read(node, report)
        forms = [word for word, shape in (("text", self.scalar), ("a list", self.sequence), ("a mapping", self.mapping)) if shape]
        report.fault(node, f"must be {' or '.join(forms)}, not {node.kind}")
        return None

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [shape.schema() for shape in (self.scalar, self.sequence, self.mapping) if shape]}


@dataclasses.dataclass(frozen=True)
class AnyShape:
    """Plain data that is not checked."""

    def read(self, node: YamlNode, report: FaultReport) -> Any:  # noqa: ARG002 -- a Shape
        return node.plain()

    def schema(self) -> dict[str, Any]:
        return {}


@dataclasses.dataclass(frozen=True)
class Field:
    """A key of a RecordShape."""

    shape: Shape
    required: bool = False
    help: str = ""
    refused: tuple[str, str] | None = None
    """The key is known but not supported: the reason, and what to write."""
    ignored: str | None = None
    """The key is allowed and changes nothing: the reason, as a warning."""


@dataclasses.dataclass(frozen=True)
class RecordShape:
    """A mapping with known keys. ``elsewhere``: hints for keys that belong to another mapping."""

    fields: Mapping[str, Field]
    elsewhere: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def read(self, node: YamlNode, report: FaultReport) -> ParsedMapping | None:
        if node.is_null:
            # Null is an empty mapping: only required keys can be missing.
            node = dataclasses.replace(node, content={}, value=None)
        if not isinstance(node.content, dict):
            report.fault(node, f"must be a mapping, not {node.kind}")
            return None
        values = {}
        for key, child in node.content.items():
            if key not in self.fields:
                report.fault(child, f"{key} is not known here", self.elsewhere.get(key) or suggest(key, self._shown))
            elif child.is_null and self.fields[key].required:
                continue
            elif (value := _read_field(self.fields[key], child, report)) is not None:
                values[key] = value
        for key, field in self.fields.items():
            child_node = node.content.get(key)
            if field.required and (child_node is None or child_node.is_null or child_node.content == ""):
                unknown = [other for other in node.content if other not in self.fields]
                meant = any(f"mean {key}?" in self.elsewhere.get(other, "") for other in unknown)
                if nearest(key, unknown) is None and not meant:
                    missing = dataclasses.replace(child_node or node, path=key_path(node.path, key))
                    report.fault(missing, "is missing", field.help or None)
        return ParsedMapping(node, values)

    @property
    def _shown(self) -> list[str]:
        return [key for key, field in self.fields.items() if field.refused is None]

    def schema(self) -> dict[str, Any]:
        properties = {key: _field_schema(field) for key, field in self.fields.items()}
        required = [key for key, field in self.fields.items() if field.required]
        document: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        return {**document, "required": required} if required else document


def _read_field(field: Field, node: YamlNode, report: FaultReport) -> Any:
    if field.refused is not None and not node.is_null:
        report.fault(node, *field.refused)
        return None
    if field.ignored is not None and not node.is_null:
        report.warn(node, field.ignored)
    return field.shape.read(node, report)


def _field_schema(field: Field) -> dict[str, Any]:
    if field.refused is not None:
        return {"type": "null", "description": f"Refused: {field.refused[0]}; {field.refused[1]}"}
    schema = field.shape.schema() if field.required else nullable(field.shape.schema())
    text = ". ".join(part for part in (field.help, f"Ignored: {field.ignored}" if field.ignored else "") if part)
    return {**schema, "description": text} if text else schema


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with null allowed: it counts as left out everywhere."""
    if not schema:
        return schema
    if "type" in schema:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        extended = {**schema, "type": [*types, "null"]}
        return {**extended, "enum": [*schema["enum"], None]} if "enum" in schema else extended
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [schema, {"type": "null"}]}
