"""Go templates."""

from __future__ import annotations

import pytest

from harness import templates
from harness.errors import InputError
from tests.unit.templates.environment import ENV


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ .Port }} {{Port}} {{ $.Port }}", "8443 8443 8443"),
        ("{{ .Port | b64enc }}", "ODQ0Mw=="),
        ("{{ b64enc .Port }}", "ODQ0Mw=="),
        ('{{ "ODQ0Mw==" | b64dec | quote }}', '"8443"'),
        ('{{or .None "sea.hub:5000"}}/x', "sea.hub:5000/x"),
        ('{{ default "d" .Empty }}{{ .Port | default "d" }}', "d8443"),
        ("{{ .Port | quote | squote }} {{ upper .lower }}", "'\"8443\"' L"),
        ("a\n  {{- .Port }}\n", "a8443\n"),
        ("a {{- .Port -}}\n b", "a8443b"),
        ("{{/* a comment }} */}}x", "x"),
        ("{{ if .Port }}a{{ else }}b{{ end }}", "a"),
        ("{{ if .None }}a{{ else }}b{{ end }}", "b"),
        ('{{ if eq .Port "1" }}a{{ else if eq .Port "8443" }}b{{ else }}c{{ end }}', "b"),
        ('{{ if and .Port (not .Empty) }}a{{ end }}{{ if ne .Port "1" "" }}{{ end }}', None),
        ("{{ if .Empty }}{{ .None }}{{ if .Port }}x{{ else }}y{{ end }}{{ end }}z", "z"),
        ('{{ if .Yes }}text{{ end }}{{ if eq .Yes "true" }}true{{ end }}', "text"),
        ("{{ not .Port }}", "false"),
        ('{{ "}}" }} {{ `a"b` }} {{ "a\\"b\\n" }}', '}} a"b a"b\n'),
        ("{{ .Port | indent 2 }}|{{ .Port | nindent 2 }}", "  8443|\n  8443"),
        ("no {% jinja %} {# here #}", "no {% jinja %} {# here #}"),
        ("a: {{ .Nested }}", "a: {{ .Port }}"),
        ("a\r\n{{ .Port }}\r\n", "a\r\n8443\r\n"),
    ],
)
def test_go_template_supported_syntax_is_rendered(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(InputError, match="ne does not take these 3 arguments"):
            templates.render(text, ENV, "etc/a.tmpl")
    else:
        assert templates.render(text, ENV, "etc/a.tmpl") == expected


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a\n{{ .None }}\n{{ .None | b64enc }}", ["2: None is not defined", "3: None is not defined"]),
        ("\n{{ range .A }}{{ end }}", ["2: {{ range .A }}: range is not supported", "2: {{ end }}: there is no if before it"]),
        ("{{ if .Port }}", ["1: this if has no end"]),
        ("\n\n{{ end }}", ["3: {{ end }}: there is no if before it"]),
        ("{{ .Port | nope }}", ["1: {{ .Port | nope }}: 'nope' is not a function"]),
        ("{{ .Port.x }}", ["1: {{ .Port.x }}: '.x' is not expected"]),
        ("{{ (or .Port }}", ["1: {{ (or .Port }}: a ) is missing"]),
        ("{{ .Port | }}", ["1: {{ .Port | }}: '' is not a function"]),
        ("{{ }}", ["1: {{  }}: something is missing at its end"]),
        ("{{ b64dec .Port }}{{ b64enc }}", ["1: {{ b64dec .Port }}: b64dec:", "1: {{ b64enc }}: b64enc does not take these 0 arguments"]),
        ("{{ .A & 1 }}", ["1: {{ .A & 1 }}: '& 1' is not understood"]),
    ],
)
def test_go_template_invalid_syntax_reports_all_faults_with_lines(text: str, faults: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, ENV, "etc/a.tmpl")
    found = [f"{fault.where.removeprefix('etc/a.tmpl:')}: {fault.message}" for fault in caught.value.faults]
    assert len(found) == len(faults)
    assert [given for given, wanted in zip(found, faults, strict=True) if not given.startswith(wanted)] == []


# Templates that are made to do harm. None of them may take longer than its size allows: a hang is the failure.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{{ .Port" + " | quote" * 45 + " }}", "2: its values are larger"),
        ("{{ indent 9999999999 .Port }}", "1: {{ indent 9999999999 .Port }}: indent 9999999999 is too wide"),
        ("{{ .Port | nindent 1001 }}", "1: {{ .Port | nindent 1001 }}: indent 1001 is too wide"),
        ("{{ nindent 999 `" + "\n" * 100_000 + "` }}", "1: {{ nindent 999 `"),
        ("{{" + "(" * 10_000 + "}}", "1: {{ (((((((((("),
        ("{{ .Long }}" * 3000, "1: it renders to more than"),
        ('{{"\\"' * 60_000, "1: it has too many braces and quotes"),
        ("{{ .Huge" + " | upper" * 40 + " }}", "1: its values are larger"),
    ],
    ids=["doubling", "indent", "nindent", "rows", "parentheses", "output", "quotes", "work"],
)
def test_go_template_that_grows_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, {**ENV, "Long": "x" * 1000, "Huge": "x" * 1_000_000}, "a.tmpl")
    (fault,) = caught.value.faults
    assert f"{fault.where.removeprefix('a.tmpl:')}: {fault.message}".startswith(message)


@pytest.mark.parametrize("text", ["{{/*" * 60_000, "{{/* */" * 60_000, "{{ `" * 60_001, "{{ " * 100_000, "{{" + " " * 1_000_000])
def test_go_template_many_braces_without_action_stay_text(text: str) -> None:
    assert templates.render(text, ENV, "a.tmpl") == text


def test_go_template_number_of_faults_is_limited() -> None:
    with pytest.raises(InputError) as caught:
        templates.render("{{ .None }}\n" * 60_000 + "{{ if .Port }}" * 60_000, ENV, "a.tmpl")
    assert 1 < len(caught.value.faults) <= 200
