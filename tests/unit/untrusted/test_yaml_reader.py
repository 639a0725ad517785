"""YAML that comes from outside."""

from __future__ import annotations

import pytest

from harness import untrusted
from harness.errors import StoreError
from harness.untrusted import YamlLimits

NINE = ", ".join(["{}"] * 9)
BILLION_LAUGHS = "\n".join(f"a{n}: &a{n} [{NINE.replace('{}', f'*a{n - 1}' if n else 'x')}]" for n in range(10))


@pytest.mark.parametrize(
    "text",
    [
        BILLION_LAUGHS,
        "a: &a [*a]",
        "[" * 500,
        "a: [",
        "? [a]\n: 1",
        "a: !!int 8²",
        "a: !!int",
        "a: !!bool x",
        "a: !!float x",
        "a: !!timestamp x",
        "- !!binary a",
        "!!python/object:os.system x",
        "\0",
    ],
)
def test_yaml_odd_text_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match="image: is not usable YAML"):
        untrusted.yaml_documents(text, what="image")


def test_yaml_dates_stay_text_and_aliases_are_read() -> None:
    assert untrusted.yaml_documents("a: &x [1]\nb: *x\nc: 2001-01-01\n---\n5\n", what="") == [{"a": [1], "b": [1], "c": "2001-01-01"}, 5]


def test_yaml_depth_counts_through_aliases() -> None:
    lines = [f"a0: &a0 {'[' * 60}{']' * 60}", f"a1: &a1 {'[' * 60}*a0{']' * 60}"]
    with pytest.raises(StoreError, match="line 2: it is nested more than 100 levels deep"):
        untrusted.yaml_check("\n".join(lines), what="hostile")
    untrusted.yaml_check(lines[0] + "\nb: *a0", what="harmless")


def test_yaml_excess_reports_line_and_ignores_invalid_yaml() -> None:
    assert untrusted.yaml_excess("a: 1\nb: &b [*b]") == (2, "it holds itself, by an alias")
    assert untrusted.yaml_excess("a" * 20, YamlLimits(size=10)) == (1, "it is larger than 10 bytes")
    assert untrusted.yaml_excess("[1, 2, 3]", YamlLimits(nodes=3)) == (1, "it holds more than 3 values, aliases included")
    assert untrusted.yaml_excess("a: [") is None


def test_yaml_document_second_document_is_refused() -> None:
    assert untrusted.yaml_document("a: 1", what="x") == {"a": 1}
    assert untrusted.yaml_document("# nothing", what="x") is None
    with pytest.raises(StoreError, match="x: holds more than one document"):
        untrusted.yaml_document("a: 1\n---\nb: 2", what="x")


def test_yaml_scalars_have_position_and_parent_keys() -> None:
    text = "a:\n  b: [x, {c: 'y'}]\n  d: &n |\n    z\n- e\n---\nf: g\n"
    found = [(text[each.start : each.end].strip(), each.plain, each.entry, each.keys) for each in untrusted.yaml_scalars(text)]
    assert found[:7] == [
        ("a", True, True, ()),
        ("b", True, True, ("a",)),
        ("x", True, True, ("a", "b")),
        ("c", True, True, ("a", "b")),
        ("'y'", False, True, ("a", "b", "c")),
        ("d", True, True, ("a",)),
        ("|\n    z", False, True, ("a", "d")),
    ]
    assert found[-2:] == [("f", True, True, ()), ("g", True, True, ("f",))]


def test_yaml_scalars_stop_at_invalid_yaml_and_at_limits() -> None:
    assert [each.keys for each in untrusted.yaml_scalars("a: b\nc: %d")] == [(), ("a",), ()]
    assert list(untrusted.yaml_scalars("[" * 200 + "a")) == []
    assert list(untrusted.yaml_scalars("a: b", limits=untrusted.YamlLimits(size=3))) == []
    assert [each.start for each in untrusted.yaml_scalars("\ufeffa: b\r\nc: d")] == [1, 4, 7, 10]
