"""Files in which only the two forms of a placeholder mean something."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import templates
from harness.errors import InputError
from harness.templates.job import StandIn
from harness.templates.plain import placeholders
from tests.unit.templates.environment import ENV

FOREIGN = Path(__file__).parent / "foreign"
"""Manifests with templates of other programs, in their form and shortened."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("port: {{ Port }}", "port: 8443"),
        ("port: {{ .Port }}", "port: 8443"),
        ("port: {{Port}} {{.Port}} {{\tPort }}", "port: 8443 8443 8443"),
        ("a: {{ lower }} {{ etc-dir }} {{ Empty }}.", "a: l /data ."),
        ("{a: {{ Port }}}", "{a: 8443}"),
        ("{{ Port }}{{ Port }}", "84438443"),
        ("x: {{ Nested }}", "x: {{ .Port }}"),
    ],
)
def test_render_plain_both_placeholder_forms_are_replaced(text: str, expected: str) -> None:
    assert templates.render(text, ENV, "manifests/a.yaml") == expected


@pytest.mark.parametrize(
    "text",
    [
        "{{ range .Items }}{{ . }}{{ end }}",
        "{{- .Port -}}",
        "{{ .Values.port }}",
        "{{ Port | quote }}",
        "{{ $labels.instance }} {{ $value }}",
        "{{{ Port }}}",
        "{{ 'Port' }} {{ \"Port\" }}",
        "{ { Port } }",
        "{% Port %} {# Port #}",
        "{{ instance }} {{pod}}",
        "{{\nPort }}",
        "{{ Port } }",
        "${{ github.ref }}",
        "a\r\nb\tc \n\n",
    ],
)
def test_render_plain_other_text_stays_byte_for_byte(text: str) -> None:
    assert templates.render(text, ENV, "manifests/a.yaml") == text


def test_render_plain_undefined_names_are_all_reported_with_lines() -> None:
    with pytest.raises(InputError) as caught:
        templates.render("a: {{ None1 }}\nb: 1\nc: {{ none2 }} # {{ Port }}\n", ENV, "manifests/a.yaml")
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("manifests/a.yaml:1", "None1 is not defined"),
        ("manifests/a.yaml:3", "none2 is not defined"),
    ]
    assert "-e None1=VALUE" in (caught.value.faults[0].hint or "")


def test_render_stand_in_replaces_undefined_names() -> None:
    for path in ("a.yaml", "a.yaml.tmpl", "a.yaml.j2"):
        assert templates.render("a: {{ None1 }}\nb: {{ Port }}", ENV, path, missing=StandIn("<", ">")) == "a: <None1>\nb: 8443"


@pytest.mark.parametrize("text", ["{{ a }}" * 100_000, "{{ " * 100_000, "{{ a" * 100_000, "{{" + "a" * 1_000_000])
def test_render_plain_many_braces_stay_unchanged(text: str) -> None:
    assert templates.render(text, ENV, "etc/a") == text


def test_render_plain_text_that_grows_is_refused() -> None:
    with pytest.raises(InputError, match="etc/a:2: it renders to more than"):
        templates.render("\n" + "{{ Long }}" * 3000, {"Long": "x" * 1000}, "etc/a")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("targetPort: {{ A }}", ["A"]),
        ("targetPort: {{A}}  # a comment, {{ B }}\r\n", ["A"]),
        ("- {{ A }}\n- x: {{ b }}\n", ["A", "b"]),
        ("a: {p: {{ A }}, q: [{{ B }}, {{ C }}]}", ["A", "B", "C"]),
        ("{{ A }}: x", ["A"]),
        ("a: &x {{ A }}\nb: !!str {{ B }}", ["A", "B"]),
        ("a:\n  {{ A }}\n---\nb: {{ B }}", ["A", "B"]),
        ("\ufeffa: {{ A }}", ["A"]),
        ("a: \"{{ A }}\"\nb: '{{ B }}'", []),
        ("a: |\n  b: {{ A }}\nc: >-\n  {{ B }}\n", []),
        ("a: 'x\n  {{ A }}\n  y'", []),
        ("a: {{ .A }}", []),
        ("a: x{{ A }}\nb: {{ A }}:1\nc: http://{{ A }}\nd: {{ A }}{{ B }}", []),
        ("{{ A }}", []),
        ("a: 1\n{{ if }}\nb: 2\n{{ else }}\nc:\n{{ end }}\n", []),
        ("# {{ A }}", []),
        ("a: {{ `x` }}\nb: {{ A }}", []),
    ],
)
def test_placeholders_expected_are_whole_scalars_outside_of_quotes_and_blocks(text: str, names: list[str]) -> None:
    assert [found.name for found in placeholders(text, "manifests/a.yaml") if found.expected] == names
    # A file that is not YAML has no scalars.
    assert [found for found in placeholders(text, "etc/a.conf") if found.expected] == []


def test_placeholders_json_with_tabs_are_expected_with_keys() -> None:
    (found,) = placeholders('{\n\t"spec": {\n\t\t"port": {{ A }}\n\t}\n}', "manifests/a.json")
    assert found.expected
    assert found.keys == ("spec", "port")


@pytest.mark.parametrize("text", ["[" * 100_000 + "{{ A }}", "a: {{ A }}\n" * 20_000, "{{ A }}: " * 20_000, "? " * 50_000 + "{{ A }}"])
def test_placeholders_in_deep_and_long_files_are_all_found(text: str) -> None:
    assert len(placeholders(text, "manifests/a.yaml")) == text.count("{{ A }}")


@pytest.mark.parametrize("path", sorted(FOREIGN.glob("*.yaml")), ids=lambda path: path.stem)
def test_render_plain_templates_of_other_programs_stay_byte_for_byte(path: Path) -> None:
    text = path.read_bytes().decode()
    assert "{{" in text or "$(" in text
    assert templates.render(text, ENV, f"manifests/{path.name}") == text
    # A value of slipway in the same file is all that changes.
    own = f"{text}---\nspec:\n  targetPort: {{{{ Expected }}}}\n"
    rendered = templates.render(own, {**ENV, "Expected": "8443"}, f"manifests/{path.name}")
    assert rendered == f"{text}---\nspec:\n  targetPort: 8443\n"


def test_foreign_template_samples_are_ten() -> None:
    assert len(list(FOREIGN.glob("*.yaml"))) == 10


def test_render_plain_defined_name_is_replaced_in_quotes_blocks_and_comments() -> None:
    text = "a: |\n  {{ .Port }} {{ Port }}\nb: '{{ .Port }}'\n# {{ Port }}\n"
    assert templates.render(text, ENV, "manifests/a.yaml") == "a: |\n  8443 8443\nb: '8443'\n# 8443\n"


def test_render_plain_value_with_braces_is_not_rendered_again() -> None:
    assert templates.render("a: {{ x }}", {"x": "{{ x }}"}, "manifests/a.yaml") == "a: {{ x }}"
