"""``etc/values.schema.json``: what the author of an image says about the values that it expects.

A strict subset of JSON Schema, so that editors check and complete it and a chart's ``values.schema.json`` looks alike.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from harness import untrusted
from harness.cloudimage import ValueType
from harness.cloudimage.values import BOOLEAN, INTEGER, NUMBER, STRING, TYPES
from harness.clusterfile import validators
from harness.clusterfile.schema import RESERVED
from harness.errors import Fault, InputError, UsageError
from harness.templates.tree import SCHEMA
from harness.untrusted import Pattern

LARGEST = 1 << 20
"""Bytes."""
_T = TypeVar("_T")
_TOP = ("$schema", "$id", "$comment", "title", "description", "type", "properties", "required", "additionalProperties")
_KEYS = ("$comment", "title", "description", "type", "pattern", "enum", "minimum", "maximum", "default", "examples", "writeOnly")


@dataclasses.dataclass(frozen=True)
class DescribedValue:
    """One property of the schema."""

    name: str
    line: int
    type: ValueType
    description: str = ""
    default: str | None = None
    examples: tuple[str, ...] = ()
    required: bool = False
    secret: bool = False


def read(text: str, shown: str = SCHEMA) -> dict[str, DescribedValue]:
    """The described values, by name. Raises InputError with every fault and its line; ``shown`` is how faults call the file."""
    try:
        document = untrusted.json_object(text.removeprefix("\ufeff"), what=shown, limit=LARGEST, depth=10, error=UsageError)
    except UsageError as wrong:
        raise InputError([Fault(shown, wrong.message.removeprefix(f"{shown} ").removeprefix(f"{shown}: "))]) from wrong
    reader = _SchemaReader(text, shown)
    described = reader.document(document)
    if reader.faults:
        raise InputError(reader.faults)
    return described


class _SchemaReader:
    def __init__(self, text: str, shown: str) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._shown = shown

    def line(self, *keys: str) -> int:
        """The line of a key below others. JSON's reader has no lines, so the text is searched from key to key."""
        at = 0
        for key in keys:
            match = re.compile(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:").search(self._text, at)
            if match is None:
                break
            at = match.start()
        return self._text.count("\n", 0, at) + 1

    def fault(self, keys: tuple[str, ...], message: str, hint: str | None = None) -> None:
        name = keys[-1] if keys else "the schema"
        self.faults.append(Fault(f"{self._shown}:{self.line(*keys)}", f"{untrusted.shown(name)[:80]}: {message}", hint))

    def document(self, document: Mapping[str, Any]) -> dict[str, DescribedValue]:
        self._known((), document, _TOP)
        if document.get("type", "object") != "object":
            self.fault(("type",), "the schema describes an object", '"type": "object"')
        required = document.get("required", [])
        properties = document.get("properties", {})
        if not isinstance(properties, dict):
            self.fault(("properties",), "is not an object of names", '"properties": {"Port": {"type": "integer"}}')
            properties = {}
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            self.fault(("required",), "is not a list of names")
            required = []
        for name in required:
            if name not in properties:
                near = difflib.get_close_matches(name, properties, n=1)
                self.fault(
                    ("required",), f"{untrusted.shown(name)[:80]} is not in properties", f"did you mean {near[0]}?" if near else None
                )
        return {name: self._property(name, value, name in required) for name, value in properties.items()}

    def _known(self, keys: tuple[str, ...], value: Mapping[str, Any], supported: tuple[str, ...]) -> None:
        for key in value:
            if key not in supported:
                near = difflib.get_close_matches(key, supported, n=1)
                self.fault((*keys, key), "is not supported", f"did you mean {near[0]}?" if near else f"one of {', '.join(supported)}")

    def _property(self, name: str, value: Any, required: bool) -> DescribedValue:
        keys = ("properties", name)
        if not re.fullmatch(validators.ENV_NAME, name):
            self.fault(keys, "is not a name for a variable", "use letters, digits and _")
        elif name in RESERVED:
            self.fault(keys, "describes the cluster itself, and is never given")
        if not isinstance(value, dict):
            self.fault(keys, "is not an object", '{"type": "string"}')
            return DescribedValue(name, self.line(*keys), ValueType())
        self._known(keys, value, _KEYS)
        kind = self._type(keys, value)
        default, examples = self._default(keys, value, kind), tuple(self._values(keys, value, "examples", kind))
        secret = self._kind_of(keys, value, "writeOnly", bool, False)
        if secret and default is not None:
            self.fault((*keys, "default"), f"{name} is writeOnly, and every reader of the image could see a default", "leave it out")
        return DescribedValue(
            name, self.line(*keys), kind, self._kind_of(keys, value, "description", str, ""), default, examples, required, secret
        )

    def _type(self, keys: tuple[str, ...], value: Mapping[str, Any]) -> ValueType:
        word = value.get("type", STRING)
        if word not in TYPES:
            self.fault((*keys, "type"), f"{untrusted.shown(str(word))[:80]} is not supported", f"one of {', '.join(TYPES)}")
            word = STRING
        plain = ValueType(word)
        enum = tuple(self._values(keys, value, "enum", plain))
        pattern = self._kind_of(keys, value, "pattern", str, "")
        try:
            Pattern(pattern)
        except ValueError as wrong:
            self.fault((*keys, "pattern"), str(wrong), "letters, . [a-z] \\d \\w \\s ( ) | * + ? {m,n} ^ $")
            pattern = ""
        bounds: list[float | None] = []
        for key in ("minimum", "maximum"):
            bound = value.get(key)
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float) or word not in (INTEGER, NUMBER)):
                self.fault((*keys, key), "is for integer and number, and is a number")
                bound = None
            bounds.append(bound)
        if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
            self.fault((*keys, "maximum"), "is below the minimum")
        return ValueType(word, pattern, enum, *bounds)

    def _default(self, keys: tuple[str, ...], value: Mapping[str, Any], kind: ValueType) -> str | None:
        if "default" not in value:
            return None
        return next(iter(self._values(keys, {"default": [value["default"]]}, "default", kind)), None)

    def _values(self, keys: tuple[str, ...], value: Mapping[str, Any], key: str, kind: ValueType) -> list[str]:
        """The values of a list as they stand in an environment: as text."""
        items = value.get(key, [])
        if not isinstance(items, list) or (not items and key in value):
            self.fault((*keys, key), "is not a list of values")
            return []
        texts: list[str] = []
        for item in items:
            text = _text_of(item, kind.type)
            problem = "is not a text, a number or a boolean" if text is None else kind.problem(text)
            if problem is not None:
                self.fault((*keys, key), f"{untrusted.shown(json.dumps(item, ensure_ascii=False))[:80]} {problem}")
            elif text is not None:
                texts.append(text)
        return texts

    def _kind_of(self, keys: tuple[str, ...], value: Mapping[str, Any], key: str, kind: type[_T], otherwise: _T) -> _T:
        item = value.get(key, otherwise)
        if not isinstance(item, kind):
            self.fault((*keys, key), "is not text" if kind is str else "is not true or false")
            return otherwise
        return item


def _text_of(item: object, kind: str) -> str | None:
    if isinstance(item, bool):
        return str(item).lower() if kind in (BOOLEAN, STRING) else None
    if isinstance(item, float) and item.is_integer():
        return str(int(item))
    return str(item) if isinstance(item, str | int | float) else None
