"""Templates of a rootfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import templates
from harness.errors import InputError

ENV = {"Port": "8443", "PodCIDR": "100.64.0.0/10", "Empty": "", "lower": "l", "etc-dir": "/data", "Nested": "{{ .Port }}", "Yes": "false"}
CASES = Path(__file__).parents[2] / "cases"


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


def test_undefined_names_are_told_all_at_once_with_their_lines() -> None:
    with pytest.raises(InputError) as caught:
        templates.render("a: {{ None1 }}\nb: 1\nc: {{ .none2 }} {{ Port }}\n", ENV, "manifests/a.yaml")
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("manifests/a.yaml:1", "None1 is not defined"),
        ("manifests/a.yaml:3", "none2 is not defined"),
    ]
    assert "-e None1=VALUE" in (caught.value.faults[0].hint or "")


def test_a_stand_in_for_what_is_not_known_yet() -> None:
    for path in ("a.yaml", "a.yaml.tmpl", "a.yaml.j2"):
        assert templates.render("a: {{ None1 }} {{ Port }}", ENV, path, missing=templates.StandIn("<", ">")) == "a: <None1> 8443"


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
def test_go_templates(text: str, expected: str | None) -> None:
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
def test_go_template_faults(text: str, faults: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, ENV, "etc/a.tmpl")
    found = [f"{fault.where.removeprefix('etc/a.tmpl:')}: {fault.message}" for fault in caught.value.faults]
    assert len(found) == len(faults)
    assert [given for given, wanted in zip(found, faults, strict=True) if not given.startswith(wanted)] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ Port }} {{ .Port }}", "8443 8443"),
        ("{% for i in range(2) %}{{ i }}{% endfor %}\n", "01\n"),
        ("{{ Port | b64encode }} {{ Port | b64enc | b64dec }}", "ODQ0Mw== 8443"),
        ("{% if None1 is defined %}a{% else %}b{% endif %}", "b"),
        ("a\r\n{{ Port }}\r\n", "a\r\n8443\r\n"),
        ("<{{ Port }}>&", "<8443>&"),
    ],
)
def test_jinja(text: str, expected: str) -> None:
    assert templates.render(text, ENV, "a.yaml.j2") == expected


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a\n\n{{ None1 }}", "a.j2:3", "None1 is not defined"),
        ("a\n{% if %}", "a.j2:2", "Expected an expression, got 'end of statement block'"),
        ("a\n{{ Port.x.y }}", "a.j2:2", "'str object' has no attribute 'x'"),
        ("{{ ''.__class__.__mro__ }}", "a.j2:1", "access to attribute '__class__' of 'str' object is unsafe."),
    ],
)
def test_jinja_faults(text: str, where: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, ENV, "a.j2")
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [(where, message)]


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
def test_go_braces_that_begin_no_action_are_text_however_many(text: str) -> None:
    assert templates.render(text, ENV, "a.tmpl") == text


def test_go_faults_come_to_an_end() -> None:
    with pytest.raises(InputError) as caught:
        templates.render("{{ .None }}\n" * 60_000 + "{{ if .Port }}" * 60_000, ENV, "a.tmpl")
    assert 1 < len(caught.value.faults) <= 200


@pytest.mark.parametrize("text", ["{{ a }}" * 100_000, "{{ " * 100_000, "{{ a" * 100_000, "{{" + "a" * 1_000_000])
def test_plain_text_stays_however_many_braces_it_has(text: str) -> None:
    assert templates.render(text, ENV, "etc/a") == text


def test_plain_text_that_grows_is_refused() -> None:
    with pytest.raises(InputError, match="etc/a:2: it renders to more than"):
        templates.render("\n" + "{{ Long }}" * 3000, {"Long": "x" * 1000}, "etc/a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{{ 1 / 0 }}", "2: division by zero"),
        ("{{ 'x' * 10 ** 10 }}", "1: * makes a value that is too large"),
        ("{{ 10 ** 9999999 }}", "1: ** makes a value that is too large"),
        ("{{ [1] * 10 ** 8 }}", "1: * makes a value that is too large"),
        ("{{ '%9999999d' % 1 }}", "1: a format pads"),
        ("{{ '%*d' | format(9999999, 1) }}", "1: a format pads"),
        ("{{ 'x' | indent(9999999999) }}", "1: numbers up to 10000"),
        ("{{ 'x' | center(9999999999) }}", "1: numbers up to 10000"),
        ("{{ 'x'.zfill(9999999999) }}", "1: numbers up to 10000"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "1: the ranges of a template"),
        ("{% for a in range(99999) %}{{ 'x' * 100 }}{% endfor %}", "1: it renders to more than"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "1: it is nested too deeply"),
        ("{{ " + "-" * 100_000 + "1 }}", "1: it is nested too deeply"),
        ("{{ 2.0 ** 99999 }}", "1: (34, 'Numerical result out of range')"),
        ("{{ '\\ud800' }}", "1: 'utf-8' codec can't encode"),
        ("{{ [].append(1) }}", "1: access to attribute 'append' of 'list' object is unsafe"),
        ("{{ lipsum(n=100000) }}", "1: lipsum is not defined"),
    ],
)
def test_jinja_template_that_grows_or_fails_is_a_fault(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, ENV, "a.j2")
    (fault,) = caught.value.faults
    assert f"{fault.where.removeprefix('a.j2:')}: {fault.message}".startswith(message)


def test_jinja_names_that_a_stand_in_took_the_place_of() -> None:
    stand_in = templates.StandIn("<", ">")
    assert templates.render("{{ One }}{{ Port }}", ENV, "a.j2", missing=stand_in) == "<One>8443"
    assert stand_in.names == ["One"]


def test_render_tree_keeps_a_ceiling_for_all_of_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_LARGEST_TREE", 10)
    with pytest.raises(InputError, match="more than 10 characters together"):
        templates.render_tree(root, ENV)
    assert (root / "manifests/app.yaml").read_text() == "port: {{ Port }}\n"


def test_render_tree_large_file_is_data_and_a_large_template_a_fault(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_LARGEST", 20)
    (root / "etc/large").write_text("{{ .Port }}" * 5)
    (root / "etc/large.j2").write_text("{{ Port }}" * 5)
    with pytest.raises(InputError, match=r"etc/large\.j2: a template of more than 20 bytes"):
        templates.render_tree(root, ENV)


@pytest.mark.parametrize(
    ("path", "name"), [("a.yaml", "a.yaml"), ("a.yaml.tmpl", "a.yaml"), ("d/a.j2", "d/a"), ("a.tmpl.j2", "a.tmpl"), (".tmpl", "")]
)
def test_output_name(path: str, name: str) -> None:
    assert templates.output_name(path) == name


# Trees


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "manifests/app.yaml": "port: {{ Port }}\n",
        "manifests/plain.yaml": "port: 1\n",
        "manifests/sub/b.yaml.tmpl": "cidr: {{ .PodCIDR | b64enc }}\n",
        "etc/conf": "{{ .Port }}",
        "scripts/run.sh": "docker inspect --format '{{ Port }}'",
        "scripts/made.sh.j2": "echo {{ Port }}",
        "charts/web/templates/a.yaml": "{{ .Port }} {{ .Values.x }}",
        "charts/web/x.tmpl": "{{ .Port }}",
        "application/apps/web/a.yaml": "{{ Port }}",
        "application/apps/web/b.yaml.tmpl": "{{ .Port }} {{ .PodCIDR }}",
        "application/apps/helm/Chart.yaml": "name: x",
        "application/apps/helm/templates/x.tmpl": "{{ nonsense }}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/binary").write_bytes(b"\0{{ Port }}\xff")
    (tmp_path / "etc/latin").write_bytes(b"\xe9 {{ Port }}")
    (tmp_path / "scripts/made.sh.j2").chmod(0o755)
    return tmp_path


def test_render_tree(root: Path) -> None:
    changed = templates.render_tree(root, ENV, {"web": {"Port": "1"}})
    assert changed == ["application/apps/web/b.yaml", "etc/conf", "manifests/app.yaml", "manifests/sub/b.yaml", "scripts/made.sh"]
    assert (root / "manifests/app.yaml").read_text() == "port: 8443\n"
    assert (root / "manifests/sub/b.yaml").read_text() == "cidr: MTAwLjY0LjAuMC8xMA==\n"
    assert (root / "application/apps/web/b.yaml").read_text() == "1 100.64.0.0/10"
    assert (root / "application/apps/web/a.yaml").read_text() == "{{ Port }}"
    assert (root / "scripts/run.sh").read_text() == "docker inspect --format '{{ Port }}'"
    assert (root / "scripts/made.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/binary").read_bytes() == b"\0{{ Port }}\xff"
    assert (root / "charts/web/x.tmpl").exists()
    assert not (root / "charts/web/x").exists()
    assert not list(root.rglob(".*"))


def test_rendering_again_with_other_values_starts_from_the_templates(root: Path) -> None:
    templates.render_tree(root, ENV)
    assert templates.render_tree(root, {**ENV, "Port": "2", "PodCIDR": "x"}) == [
        "application/apps/web/b.yaml",
        "manifests/sub/b.yaml",
        "scripts/made.sh",
    ]
    assert (root / "scripts/made.sh").read_text() == "echo 2"


def test_nothing_is_written_when_a_name_is_missing(root: Path) -> None:
    (root / "manifests/z.yaml").write_text("\n{{ Other }}")
    (root / "etc/z.tmpl").write_text("{{ .More }}")
    with pytest.raises(InputError) as caught:
        templates.render_tree(root, ENV)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("etc/z.tmpl:1", "More is not defined"),
        ("manifests/z.yaml:2", "Other is not defined"),
    ]
    assert (root / "manifests/app.yaml").read_text() == "port: {{ Port }}\n"


def test_links_are_not_written_through(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "file.yaml"
    outside.write_text("{{ Port }}")
    (root / "manifests/link.yaml").symlink_to(outside)
    (root / "etc/hard").hardlink_to(outside)
    (root / "manifests/dir").symlink_to(outside.parent)
    assert "manifests/link.yaml" not in templates.render_tree(root, ENV)
    assert outside.read_text() == "{{ Port }}"
    assert (root / "etc/hard").read_text() == "8443"


def test_the_cases(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "manifests").mkdir()
    kubeadm = (CASES / "sealer/pkg/env/test/template/kubeadm.yaml.tmpl").read_text()
    (tmp_path / "etc/kubeadm.yaml.tmpl").write_text(kubeadm)
    dashboard = (CASES / "dashboard-port/dashboard.yaml").read_text()
    (tmp_path / "manifests/dashboard.yaml").write_text(dashboard)
    templates.render_tree(tmp_path, {"DashBoardPort": "8443", "PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"})
    assert "targetPort: 8443\n" in (tmp_path / "manifests/dashboard.yaml").read_text()
    assert (tmp_path / "etc/kubeadm.yaml").read_text().endswith("podSubnet: 100.64.0.0/10\n  serviceSubnet: 10.96.0.0/22")
