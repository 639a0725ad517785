"""YAML of a rootfs, read as nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.build import discover
from harness.build.yaml_documents import documents_of, duplicate_keys, is_yaml, line_of, pairs_of, read_text, text_of, value_of
from harness.errors import InputError
from tests.unit.build.rootfs_files import write


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["m0: &m0 {a: x}", *(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 64))]),
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]),
        "[" * 500,
        "a: &a {b: *a}",
    ],
    ids=["merge keys", "aliases", "depth", "circle"],
)
def test_declared_manifest_with_yaml_bomb_raises_input_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"manifests/a\.yaml:\d+: not YAML: it (holds|is nested)"):
        discover.declared(write(tmp_path, {"manifests/a.yaml": text}))


def test_value_of_reads_merged_keys_with_line_numbers() -> None:
    (document,) = documents_of("base: &b\n  image: x\nweb:\n  <<: *b\n  name: ~\n")
    web = value_of(document, "web")
    assert [text_of(key) for key, _ in pairs_of(web)] == ["image", "name"]
    image = value_of(web, "image")
    assert image is not None
    assert (text_of(image), line_of(image)) == ("x", 2)
    assert text_of(value_of(web, "name")) is None


def test_read_text_of_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{\n\t"image": "x"}')
    (document,) = documents_of(read_text(path))
    assert text_of(value_of(document, "image")) == "x"


def test_pairs_of_own_key_overrides_merged_key() -> None:
    (document,) = documents_of("a: &a {image: one, x: 1}\nb: &b {image: two, y: 2}\nc: {<<: [*a, *b], image: own}\nd: {<<: [*b, *a]}\n")
    own, first = value_of(document, "c"), value_of(document, "d")
    assert [(text_of(key), text_of(value)) for key, value in pairs_of(own)] == [("x", "1"), ("y", "2"), ("image", "own")]
    assert text_of(value_of(first, "image")) == "two"


def test_documents_of_json_stream_carry_line_numbers() -> None:
    text = '{"image": "a{"}\n\n{\n "image": "b"}  {"image":\n"c\\"}"}\n'
    images = [value_of(document, "image") for document in documents_of(text)]
    assert [(text_of(image), line_of(image)) for image in images if image] == [("a{", 1), ("b", 4), ('c"}', 5)]


@pytest.mark.parametrize("text", ['{"a": 1} b', '{"a": 1}]{"b": 2}', '{"a": 1}\n{"b": '])
def test_documents_of_broken_json_stream_raises_yaml_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        list(documents_of(text))


def test_duplicate_keys_are_found_with_lines() -> None:
    (document,) = documents_of("a: 1\nb: {x: 1, y: 2, x: 3}\nc:\n- <<: {a: 1}\n  <<: {b: 1}\n  1: a\n  '1': b\na: 2\n")
    assert sorted(duplicate_keys(document)) == [(2, "x"), (8, "a")]


@pytest.mark.parametrize("name", ["a.YAML", "a.Yml", "a.JSON", "a.yaml"])
def test_is_yaml_accepts_uppercase_suffix(name: str) -> None:
    assert is_yaml(name)
    assert not is_yaml(f"{name}.txt")
