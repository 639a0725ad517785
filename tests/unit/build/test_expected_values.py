"""Values that the files of an image expect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.build.expected_values import ImageValues, TemplateFile, find
from harness.cloudimage import ExpectedValue, ImageApp, ValueType
from harness.errors import InputError

CASES = Path(__file__).parents[2] / "cases"
FOREIGN = Path(__file__).parents[1] / "templates/foreign"


def file(path: str, text: str) -> TemplateFile:
    return TemplateFile(path, text, path)


def names(found: ImageValues) -> dict[str, bool]:
    """Each value, and whether it is required."""
    return {value.name: value.required for value in found.values}


def test_find_dashboard_port_is_required_with_port_as_stand_in() -> None:
    found = find([file("manifests/dashboard.yaml", (CASES / "dashboard-port/dashboard.yaml").read_text())], {})
    assert found.values == (ExpectedValue("DashBoardPort", ("manifests/dashboard.yaml:11",), required=True),)
    assert found.stand_ins == {"DashBoardPort": "18080"}
    assert found.environment({}) == {"DashBoardPort": "18080"}
    assert found.environment({"DashBoardPort": "8443"}) == {"DashBoardPort": "8443"}
    assert found.used({"DashBoardPort": "8443"}) == {}
    assert found.missing({}, booting=True) == []
    assert ImageValues.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("path", sorted(FOREIGN.glob("*.yaml")), ids=lambda path: path.stem)
def test_find_templates_of_other_programs_expect_no_values(path: Path) -> None:
    assert find([file(f"manifests/{path.name}", path.read_text())], {"Port": "80"}) == ImageValues()


def test_find_env_becomes_default_and_all_places_are_listed() -> None:
    text = "a: {{ Port }}\nb: '{{ .Port }}'\nc: |\n  {{ Port }} {{ Port }}\n"
    found = find([file("manifests/a.yaml", text), file("etc/b.conf", "{{ Port }}")], {"Port": "80", "Unused": "1"})
    (value,) = found.values
    assert value.where == ("manifests/a.yaml:1", "manifests/a.yaml:2", "manifests/a.yaml:4", "etc/b.conf:1")
    assert (value.default, value.required, found.stand_ins) == ("80", False, {})


def test_find_name_expected_by_one_file_is_expected_in_all_files() -> None:
    found = find([file("etc/a.conf", "{{ Port }}"), file("manifests/b.yaml", "p: {{ Port }}\nq: '{{ .Port }} {{ .Other }}'")], {})
    (value,) = found.values
    assert value.where == ("etc/a.conf:1", "manifests/b.yaml:1", "manifests/b.yaml:2")
    assert value.required


def test_find_go_and_jinja_templates_expect_values_missing_in_output() -> None:
    text = "{{ if .Debug }}{{ .Level }}{{ end }}\nspec:\n  replicas: {{ .Replicas }}\n  x: {{ .Port | quote }}\n"
    jinja = "{% for n in range(2) %}\n- nodePort: {{ Node }}\n{% endfor %}"
    found = find([file("manifests/a.yaml.tmpl", text), file("etc/b.yaml.j2", jinja)], {"Port": "1"})
    assert names(found) == {"Node": True, "Port": False, "Replicas": True}
    assert found.stand_ins == {"Node": "31080", "Replicas": "1"}
    by_name = {value.name: value for value in found.values}
    assert by_name["Replicas"].where == ("manifests/a.yaml.tmpl:3",)
    assert by_name["Replicas"].type == ValueType("integer", minimum=0)
    assert by_name["Node"].where == ("etc/b.yaml.j2:2",)
    assert by_name["Port"].where == ("manifests/a.yaml.tmpl:4",)


def test_find_application_files_take_defaults_from_application_env() -> None:
    web = ImageApp("web", "kube", env={"Port": "1"})
    files = [file("application/apps/web/a.yaml.tmpl", "a: {{ .Port }}"), file("application/apps/db/a.yaml.tmpl", "a: {{ .Size }}")]
    assert names(find(files, {}, [web])) == {"Port": False, "Size": True}


def test_find_cluster_names_are_not_expected_values() -> None:
    found = find([file("manifests/a.yaml.tmpl", "{{ .HostIP }} {{ .PodCIDR }}"), file("etc/a.yaml", "a: {{ SvcCIDR }}")], {})
    assert found.values == ()
    assert found.cluster == {"HostIP": "192.0.2.1", "PodCIDR": "192.0.2.0/24", "SvcCIDR": "198.51.100.0/24"}


def test_missing_image_value_without_stand_in_is_reported_when_booting() -> None:
    found = find([file("manifests/a.yaml", "containers:\n- image: {{ Image }}")], {})
    (fault,) = found.missing({}, booting=True)
    assert (fault.where, fault.message) == (
        "manifests/a.yaml:2",
        "Image has no value, and nothing can stand in for it while the image is built",
    )
    assert "slipway build -e Image=VALUE" in str(fault.hint)
    assert found.missing({}, booting=False) == []
    assert found.missing({"Image": "nginx:1"}, booting=True) == []
    # Files are rendered all the same, to find their faults.
    assert "Image" in found.environment({})


def test_missing_given_value_of_wrong_type_is_reported() -> None:
    found = find([file("manifests/a.yaml", "nodePort: {{ Node }}")], {})
    assert [fault.message for fault in found.missing({"Node": "80"}, booting=True)] == ["'80' is not from 30000 to 32767"]


SCHEMA = json.dumps(
    {
        "properties": {
            "Port": {"type": "integer", "default": 8080, "description": "where it listens"},
            "Tag": {"examples": ["1.25"]},
            "Phrase": {"writeOnly": True},
            "Site": {"description": "for the launch command"},
        },
        "required": ["Site"],
    },
    indent=1,
)


def test_schema_declares_describes_and_has_defaults() -> None:
    text = "a: {{ Port }}\nimage: nginx:{{ Tag }}\nb: '{{ .Phrase }}'\n"
    found = find([file("manifests/a.yaml", text)], {}, schema=(SCHEMA, "etc/values.schema.json"))
    assert names(found) == {"Phrase": True, "Port": False, "Site": True, "Tag": True}
    by_name = {value.name: value for value in found.values}
    assert by_name["Port"] == ExpectedValue(
        "Port", ("manifests/a.yaml:1",), "8080", description="where it listens", type=ValueType("integer")
    )
    assert by_name["Phrase"].secret
    assert by_name["Site"].where == ()
    assert found.defaults == {"Port": "8080"}
    assert found.stand_ins["Tag"] == "1.25"


def test_find_env_refused_by_schema_raises_input_error_with_lines() -> None:
    with pytest.raises(InputError) as caught:
        find([], {"Port": "x", "Phrase": "secret"}, schema=(SCHEMA, "etc/values.schema.json"))
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("etc/values.schema.json:13", "Phrase is writeOnly, and ENV Phrase writes it into the image in clear"),
        ("etc/values.schema.json:3", "ENV Port=x is not a whole number"),
    ]


def test_find_env_overrides_schema_default_with_warning() -> None:
    found = find([], {"Port": "80"}, schema=(SCHEMA, "etc/values.schema.json"))
    assert found.defaults == {}
    assert [warning.where for warning in found.warnings] == ["etc/values.schema.json:3"]


def test_find_value_described_by_base_keeps_its_type() -> None:
    base = ExpectedValue("Port", description="of the base", type=ValueType("integer", minimum=1024), secret=True)
    (value,) = find([file("manifests/a.yaml", "targetPort: {{ Port }}")], {}, inherited=[base]).values
    assert (value.type, value.description, value.secret) == (base.type, "of the base", True)


def test_find_secret_env_is_not_recorded_as_default() -> None:
    (value,) = find([file("manifests/a.yaml", "a: {{ DbPassword }}")], {"DbPassword": "hunter2"}).values
    assert (value.secret, value.default) == (True, None)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a: x{{ Prot }}", "{{ Prot }} is left as text, since nothing declares Prot", "did you mean Port?"),
        ("a: {{ .Size }}", "{{ .Size }} is left as text, since nothing declares Size", "write {{ Size }}, or declare it"),
    ],
)
def test_find_undeclared_placeholder_warns_with_hint(text: str, message: str, hint: str) -> None:
    (warning,) = find([file("manifests/a.yaml", f"b: 1\n{text}\n")], {"Port": "1"}).warnings
    assert (warning.where, warning.message) == ("manifests/a.yaml:2", message)
    assert hint in str(warning.hint)


def test_find_capitalized_placeholder_outside_yaml_warns() -> None:
    found = find([file("etc/app.conf", "a={{ DbHost }}\nb={{ host }} {{ .Tag }}\n")], {})
    assert [(warning.where, warning.hint) for warning in found.warnings] == [
        ("etc/app.conf:1", "if it is a value of the image, declare it: ENV DbHost=..., or in etc/values.schema.json")
    ]


def test_find_template_name_invalid_as_variable_raises_input_error() -> None:
    with pytest.raises(InputError) as caught:
        find([file("etc/a.conf.tmpl", "a\n{{ .Na\u00efve }} {{ D\u00b2 }} {{ .Port }}\n")], {})
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("etc/a.conf.tmpl:2", "Na\u00efve is not a name for a variable, so no value can be given"),
        ("etc/a.conf.tmpl:2", "D\u00b2 is not a name for a variable, so no value can be given"),
    ]
