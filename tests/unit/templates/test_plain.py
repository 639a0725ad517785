"""Files in which only the two forms of a placeholder mean something."""

from __future__ import annotations

import pytest

from harness import templates
from harness.errors import InputError
from harness.templates.job import StandIn
from tests.unit.templates.environment import ENV


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
def test_the_two_forms(text: str, expected: str) -> None:
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
def test_other_text_stays_byte_for_byte(text: str) -> None:
    assert templates.render(text, ENV, "manifests/a.yaml") == text


def test_undefined_names_are_reported_all_at_once_with_their_lines() -> None:
    with pytest.raises(InputError) as caught:
        templates.render("a: {{ None1 }}\nb: 1\nc: {{ .none2 }} {{ Port }}\n", ENV, "manifests/a.yaml")
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("manifests/a.yaml:1", "None1 is not defined"),
        ("manifests/a.yaml:3", "none2 is not defined"),
    ]
    assert "-e None1=VALUE" in (caught.value.faults[0].hint or "")


def test_a_stand_in_for_what_is_not_known_yet() -> None:
    for path in ("a.yaml", "a.yaml.tmpl", "a.yaml.j2"):
        assert templates.render("a: {{ None1 }} {{ Port }}", ENV, path, missing=StandIn("<", ">")) == "a: <None1> 8443"


@pytest.mark.parametrize("text", ["{{ a }}" * 100_000, "{{ " * 100_000, "{{ a" * 100_000, "{{" + "a" * 1_000_000])
def test_plain_text_stays_however_many_braces_it_has(text: str) -> None:
    assert templates.render(text, ENV, "etc/a") == text


def test_plain_text_that_grows_is_refused() -> None:
    with pytest.raises(InputError, match="etc/a:2: it renders to more than"):
        templates.render("\n" + "{{ Long }}" * 3000, {"Long": "x" * 1000}, "etc/a")
