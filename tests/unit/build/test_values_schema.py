"""What the author of an image says about its values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.build.values_schema import read
from harness.cloudimage import ValueType
from harness.errors import InputError


def schema(**properties: Any) -> str:
    return json.dumps({"type": "object", "properties": properties}, indent=1)


def faults(text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        read(text, "etc/values.schema.json")
    return [str(fault) for fault in caught.value.faults]


def test_read_schema_yields_types_defaults_examples_and_flags() -> None:
    text = json.dumps(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Web",
            "type": "object",
            "additionalProperties": False,
            "required": ["Key"],
            "properties": {
                "Port": {"type": "integer", "minimum": 1, "maximum": 65535.0, "default": 8080, "description": "where it listens"},
                "Mode": {"enum": ["fast", "safe"], "default": "safe"},
                "Ratio": {"type": "number", "examples": [0.5]},
                "Debug": {"type": "boolean", "default": False},
                "Key": {"type": "string", "pattern": "^[a-z]{8,}$", "writeOnly": True},
            },
        }
    )
    found = read(text)
    assert list(found) == ["Port", "Mode", "Ratio", "Debug", "Key"]
    assert found["Port"].type == ValueType("integer", minimum=1, maximum=65535)
    assert (found["Port"].default, found["Port"].description, found["Port"].required) == ("8080", "where it listens", False)
    assert (found["Mode"].type, found["Mode"].default) == (ValueType(enum=("fast", "safe")), "safe")
    assert found["Ratio"].examples == ("0.5",)
    assert found["Debug"].default == "false"
    assert (found["Key"].secret, found["Key"].required, found["Key"].default) == (True, True, None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "port"}, "port is not supported\n  hint: one of string, integer, number, boolean"),
        ({"typ": "string"}, "typ: is not supported\n  hint: did you mean type?"),
        ({"pattern": "(a"}, "pattern: lacks a )"),
        ({"pattern": 1}, "pattern: is not text"),
        ({"enum": []}, "enum: is not a list of values"),
        ({"enum": "a"}, "enum: is not a list of values"),
        ({"enum": [None]}, "enum: null is not a text, a number or a boolean"),
        ({"minimum": 1}, "minimum: is for integer and number"),
        ({"type": "integer", "minimum": "1"}, "minimum: is for integer and number"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "maximum: is below the minimum"),
        ({"type": "integer", "default": "x"}, 'default: "x" is not a whole number'),
        ({"enum": ["a"], "examples": ["b"]}, 'examples: "b" is not one of a'),
        ({"writeOnly": True, "default": "x"}, "is writeOnly, and every reader of the image could see a default"),
        ({"writeOnly": "yes"}, "writeOnly: is not true or false"),
        ([], "Port: is not an object"),
    ],
)
def test_read_invalid_property_is_reported_with_line(value: Any, said: str) -> None:
    (fault, *_) = faults(schema(Other={}, Port=value))
    where, _, message = fault.partition(": ")
    assert said in message
    line = int(where.removeprefix("etc/values.schema.json:"))
    assert line >= 5, "the lines before are those of the object and of another value"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "etc/values.schema.json"),
        ("[]", "is not a JSON object"),
        ('{"properties": []}', "is not an object of names"),
        ('{"properties": {"a b": {}}}', "is not a name for a variable"),
        ('{"properties": {"HostIP": {}}}', "describes the cluster itself"),
        ('{"properties": {"Port": {}}, "required": ["Prot"]}', "Prot is not in properties\n  hint: did you mean Port?"),
        ('{"properties": {}, "required": "x"}', "is not a list of names"),
        ('{"type": "array"}', "the schema describes an object"),
        ('{"allOf": []}', "allOf: is not supported"),
        ('{"properties": {"A": {}, "A": {}}}', "stands twice"),
        ('{"a": ' * 50 + "1" + "}" * 50, "levels deep"),
    ],
)
def test_read_invalid_schema_raises_input_error(text: str, said: str) -> None:
    assert said in "\n".join(faults(text))


def test_read_schema_faults_are_all_reported() -> None:
    assert len(faults(schema(A={"type": "x"}, B={"pattern": "("}, C={"enum": 1}))) == 3
