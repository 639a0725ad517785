"""YAML, JSON and TOML written so that every reader reads the same."""

from __future__ import annotations

import datetime
import tomllib

import pytest
import yaml

from harness.clusterfile import serialize

AWKWARD = [
    "yes",
    "no",
    "y",
    "n",
    "on",
    "true",
    "null",
    "~",
    "",
    "1",
    "1.20",
    "0755",
    "0x10",
    "1e3",
    "22:22",
    "2020-01-01",
    "1_000",
    "=",
    "<<",
    "- a",
    "a: b",
    "# x",
    "a #b",
    " lead",
    "trail ",
    "two\nlines",
    "two\nlines\n",
    "\n",
    "tab\there",
    "ü ✓ 漢",
    "'single' \"double\"",
    "{a}",
    "[a]",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "`a",
    "|",
    ">",
    "?",
    "x" * 2000,
    "word " * 400,
    ".inf",
    ".5",
    "-",
    "--- a",
    "a\n---\nb\n",
    "\u0085",
    "\x7f",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_write_yaml_awkward_text_is_read_back_as_text(text: str) -> None:
    written = serialize.write_yaml({"a": text, "b": [text, {text: text}]})
    expected = {"a": text, "b": [text, {text: text}]}
    assert serialize.read_documents(written) == [expected]
    assert yaml.safe_load(written) == expected


@pytest.mark.parametrize("value", [None, True, False, 0, -5, 10**20, 0.1, 1e300, 1e-7, [], {}, [[1], {"a": []}]])
def test_write_yaml_values_keep_type(value: object) -> None:
    found = serialize.read_documents(serialize.write_yaml({"a": value}))
    assert found == [{"a": value}]
    assert type(found[0]["a"]) is type(value)


def test_write_yaml_uses_block_style_and_keeps_key_order() -> None:
    value = {"b": {"x": [1, {"c": 2, "d": 3}]}, "a": "one\ntwo\n", "e": []}
    assert serialize.write_yaml(value) == "b:\n  x:\n    - 1\n    - c: 2\n      d: 3\na: |\n  one\n  two\ne: []\n"


@pytest.mark.parametrize("text", [text for text in AWKWARD if text != "\u0085"])
def test_write_toml_awkward_text_is_read_back(text: str) -> None:
    assert tomllib.loads(serialize.write_toml({"a": text, text: {"b": [text]}})) == {"a": text, text: {"b": [text]}}


def test_write_toml_nested_values_are_read_back() -> None:
    value = {
        "version": 2,
        "root": "/var/lib",
        "empty": {},
        "plugins": {
            "io.containerd.grpc.v1.cri": {
                "sandbox_image": "p:1",
                "registry": {"config_path": "/etc", "mirrors": {"docker.io": {"endpoint": ["https://a", "https://b"]}}},
            }
        },
        "list": [{"a": 1, "in": {"x": True}}, {"b": [{"c": 1.5}]}, {}],
        "mixed": [1, {"a": {"b": "c"}}, []],
        "when": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
        "day": datetime.date(2020, 1, 1),
        "infinite": float("inf"),
        "small": 1e-7,
    }
    assert tomllib.loads(serialize.write_toml(value)) == value


def test_write_toml_null_is_refused() -> None:
    with pytest.raises(ValueError, match="b: TOML has no null"):
        serialize.write_toml({"a": {"b": None}})


def test_protect_placeholders_survive_yaml_round_trip() -> None:
    text = "port: {{ Port }}\nname: \"{{ .Name }}\"\nimage: '{{ Registry }}/a:1'\nplain: {{ A }}-{{ B }}\n"
    protected, restore = serialize.protect(text)
    (found,) = serialize.read_documents(protected)
    assert (
        restore(serialize.write_yaml(found))
        == 'port: {{ Port }}\nname: "{{ .Name }}"\nimage: "{{ Registry }}/a:1"\nplain: {{ A }}-{{ B }}\n'
    )
