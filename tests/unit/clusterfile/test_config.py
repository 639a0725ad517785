"""Config documents: what is written into the files of a rootfs."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Mapping

import pytest
import yaml

from harness.clusterfile import Config
from harness.clusterfile.config import apply_configs, deep_merge, new_files
from harness.errors import InputError

from .reading import document, faults, hints, read


def configs(*specs: str) -> tuple[Config, ...]:
    return read("---\n".join(document("Config", spec, name=f"c{index}") for index, spec in enumerate(specs))).configs


def written(spec: str, files: Mapping[str, bytes] | None = None) -> str:
    """The one file that a Config writes."""
    (found,) = apply_configs(configs(spec), files or {}).values()
    return found.decode()


def refused(spec: str, files: Mapping[str, bytes] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        apply_configs(configs(spec), files or {})
    (fault,) = caught.value.faults
    assert fault.where == "Clusterfile:1 Config c0"
    return fault.message


MERGE = "path: etc/a.yaml\nstrategy: merge\ndata: |\n"


def test_config_text_data_is_written_unchanged() -> None:
    assert written("path: etc/motd\ndata: |\n  # keep\n  a:   b\n") == "# keep\na:   b\n"
    assert written("path: etc/a.yaml\ndata: ''\n", {"etc/a.yaml": b"x"}) == ""
    assert written("path: etc/a.yaml\ndata: 5\n") == "5"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/a.yaml", "a: 1\nb:\n  - x\n"),
        ("etc/a.conf", "a: 1\nb:\n  - x\n"),
        ("etc/a.json", '{\n  "a": 1,\n  "b": [\n    "x"\n  ]\n}\n'),
        ("etc/a.toml", 'a = 1\nb = [\n    "x",\n]\n'),
        ("etc/a.toml.tmpl", 'a = 1\nb = [\n    "x",\n]\n'),
    ],
)
def test_config_mapping_data_is_written_in_format_of_path(path: str, text: str) -> None:
    assert written(f"path: {path}\ndata: {{a: 1, b: [x]}}\n") == text


def test_config_path_is_normalized_below_rootfs_or_application_folder() -> None:
    found = configs("path: /etc/a.yaml\ndata: a", "path: values/./b.yaml\nappName: shop\ndata: b", "path: etc//c\ndata: c")
    assert sorted(apply_configs(found, {})) == ["application/apps/shop/values/b.yaml", "etc/a.yaml", "etc/c"]


def test_config_merge_into_missing_file_writes_data() -> None:
    assert written(MERGE + "  a: {b: 1}\n") == "a: {b: 1}\n"


def test_config_merge_is_deep_and_replaces_lists() -> None:
    file = b"# gone\na:\n  b: 1\n  c: {d: [1, 2], e: 3}\nf: old\n"
    assert yaml.safe_load(written(MERGE + "  a:\n    c: {d: [9], g: 4}\n  f: {h: 1}\n", {"etc/a.yaml": file})) == {
        "a": {"b": 1, "c": {"d": [9], "e": 3, "g": 4}},
        "f": {"h": 1},
    }


def test_config_merge_changes_all_yaml_documents_and_adds_none() -> None:
    file = b"---\na: 1\n---\n# nothing\n---\nb: 2\n---\n"
    text = written(MERGE + "  b: 3\n", {"etc/a.yaml": file})
    assert list(yaml.safe_load_all(text)) == [{"a": 1, "b": 3}, {"b": 3}]


def test_config_merge_false_null_and_empty_values_override() -> None:
    file = b"a: true\nb: 5\nc: x\nd: [1]\n"
    assert yaml.safe_load(written(MERGE + "  a: false\n  b: 0\n  c: null\n  d: []\n", {"etc/a.yaml": file})) == {
        "a": False,
        "b": 0,
        "c": None,
        "d": [],
    }


def test_config_merge_keeps_template_placeholders() -> None:
    file = b'spec:\n  targetPort: {{ DashBoardPort }}\n  host: "{{ .Host }}"\n  image: {{ Registry }}/a:1\n'
    text = written(MERGE + "  spec: {extra: '{{ Extra }}', nodePort: 30000}\n", {"etc/a.yaml": file})
    assert text == (
        'spec:\n  targetPort: {{ DashBoardPort }}\n  host: "{{ .Host }}"\n  image: {{ Registry }}/a:1\n'
        '  extra: "{{ Extra }}"\n  nodePort: 30000\n'
    )


def test_config_merge_into_json_and_toml_keeps_other_keys() -> None:
    json_file = b'{"a": {"b": [1], "c": "yes"}, "n": 1.5}'
    assert json.loads(written("path: etc/a.json\nstrategy: merge\ndata: {a: {b: [2]}, n: on}\n", {"etc/a.json": json_file})) == {
        "a": {"b": [2], "c": "yes"},
        "n": True,
    }
    containerd = b'version = 2 # comment\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "old"\nmax = 5\n'
    table = 'plugins."io.containerd.grpc.v1.cri"'
    toml_data = f'[{table}]\n  sandbox_image = "new"\n  [{table}.registry]\n  config_path = "/x"\n'
    yaml_data = "plugins: {io.containerd.grpc.v1.cri: {sandbox_image: new, registry: {config_path: /x}}}\n"
    for data in (toml_data, yaml_data):
        spec = "path: etc/config.toml\nstrategy: merge\ndata: |\n" + "".join(f"  {row}\n" for row in data.splitlines())
        assert tomllib.loads(written(spec, {"etc/config.toml": containerd})) == {
            "version": 2,
            "plugins": {"io.containerd.grpc.v1.cri": {"sandbox_image": "new", "max": 5, "registry": {"config_path": "/x"}}},
        }


def test_config_later_document_merges_into_earlier_output() -> None:
    found = configs("path: etc/a.yaml\ndata: 'a: 1'", MERGE + "  b: 2\n", "path: etc/a.yaml\nstrategy: merge\ndata: {a: 3}")
    assert yaml.safe_load(apply_configs(found, {"etc/a.yaml": b"old: 1\n"})["etc/a.yaml"]) == {"a": 3, "b": 2}


def test_apply_configs_reads_files_through_function() -> None:
    asked = []

    def tree(path: str) -> bytes | None:
        asked.append(path)
        return b"a: 1\n"

    assert apply_configs(configs(MERGE + "  b: 2\n"), tree) == {"etc/a.yaml": b"a: 1\nb: 2\n"}
    assert asked == ["etc/a.yaml"]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("process", "text"),
    [
        ("value", "config:\n  usrname: root\n  passwd: xxx\n"),
        ("toJson", '{"config":{"passwd":"xxx","usrname":"root"}}'),
        ("value|toJson", 'config: \'{"passwd":"xxx","usrname":"root"}\'\n'),
        ("value|toJson|toBase64", "config: eyJwYXNzd2QiOiJ4eHgiLCJ1c3JuYW1lIjoicm9vdCJ9\n"),
        ("toBase64", encoded("config:\n  usrname: root\n  passwd: xxx\n")),
        ("toJson|toBase64", encoded('{"config":{"passwd":"xxx","usrname":"root"}}')),
    ],
)
def test_config_process_applies_steps_left_to_right(process: str, text: str) -> None:
    data = "config:\n  usrname: root\n  passwd: xxx\n"
    spec = f"path: etc/a\nprocess: '{process}'\ndata: |\n" + "".join(f"  {row}\n" for row in data.splitlines())
    assert written(spec) == text


def test_config_process_value_step_encodes_mapping_values() -> None:
    assert written("path: etc/a\nprocess: value|toBase64\ndata: {a: text, b: 5, c: true, d: null}\n") == (
        f"a: {encoded('text')}\nb: {encoded('5')}\nc: {encoded('true')}\nd: ''\n"
    )


SECRET = b"""---
apiVersion: v1
kind: ConfigMap
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {old: eA==, user: eA==}
"""


@pytest.mark.parametrize("strategy", ["overwrite", "merge"])
def test_config_to_secret_writes_values_into_secret_document(strategy: str) -> None:
    spec = f"path: manifests/s.yaml\nstrategy: {strategy}\nprocess: value|toJson|toBase64|toSecret\ndata: {{user: {{a: 1}}}}\n"
    config_map, secret = yaml.safe_load_all(written(spec, {"manifests/s.yaml": SECRET}))
    assert config_map == {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}
    assert secret["data"] == {"old": "eA==", "user": encoded('{"a":1}')}
    assert secret["metadata"] == {"name": "s"}


def test_config_to_secret_without_encoding_step_encodes_text() -> None:
    spec = "path: s.yaml\nprocess: toSecret\ndata: |\n  password: geheim\n  port: 5\n"
    assert yaml.safe_load(written(spec, {"s.yaml": b"kind: Secret\n"})) == {
        "kind": "Secret",
        "data": {"password": encoded("geheim"), "port": encoded("5")},
    }


@pytest.mark.parametrize(
    ("spec", "files", "part"),
    [
        (MERGE + "  - a\n", {"etc/a.yaml": b"a: 1"}, "the data for etc/a.yaml must be a mapping"),
        (MERGE + "  a: 1\n  ---\n  b: 2\n", {"etc/a.yaml": b"a: 1"}, "the data for etc/a.yaml are 2 documents"),
        (MERGE + "  a: [\n", {"etc/a.yaml": b"a: 1"}, "the data for etc/a.yaml is not YAML: line "),
        (MERGE + "  a: 1\n", {"etc/a.yaml": b"a: 1\nb: [\n"}, "etc/a.yaml of the image is not YAML: line "),
        (MERGE + "  a: 1\n", {"etc/a.yaml": b"a: 1\na: 2\n"}, "etc/a.yaml of the image is not YAML: line 2 .a: is given twice"),
        (MERGE + "  a: 1\n", {"etc/a.yaml": b"- a\n"}, "etc/a.yaml of the image holds something else than mappings"),
        (MERGE + "  a: 1\n", {"etc/a.yaml": b"\xff\xfe"}, "etc/a.yaml of the image is not text"),
        (MERGE + "  a: 1\n", {"etc/a.yaml": b"{{ if .A }}\na: 1\n{{ end }}\n"}, "etc/a.yaml of the image is not YAML"),
        ("path: a.json\nstrategy: merge\ndata: {a: 1}", {"a.json": b"{x}"}, "a.json of the image is not JSON: line 1"),
        ("path: a.json\nstrategy: merge\ndata: {a: 1}", {"a.json": b"[1]"}, "a.json of the image holds no mapping"),
        ("path: a.toml\nstrategy: merge\ndata: {a: 1}", {"a.toml": b"a"}, "a.toml of the image is not TOML"),
        ("path: a.toml\nstrategy: merge\ndata: {a: ~}", {"a.toml": b"a = 1"}, "the data for a.toml: a: TOML has no null"),
        ("path: a.toml\nstrategy: merge\ndata: 'a b'", {"a.toml": b"a = 1"}, "the data for a.toml is neither TOML nor a mapping"),
        ("path: a\nprocess: value|toBase64\ndata: {a: {b: 1}}", {}, "toBase64 takes text, and a value is a mapping or a list"),
        (
            "path: a\nprocess: ' toJson | value | toBase64 '\ndata: {a: {b: 1}}",
            {},
            "toBase64 takes text, and a value is a mapping or a list",
        ),
        ("path: a\nprocess: value|toJson\ndata: text", {}, "the data for a must be a mapping"),
        ("path: a.yaml\nprocess: toSecret\ndata: {a: b}", {}, "toSecret: the image has no a.yaml"),
        ("path: a.yaml\nprocess: toSecret\ndata: {a: b}", {"a.yaml": b"kind: Pod"}, "toSecret: a.yaml of the image holds no Secret"),
        ("path: a.yaml\ndata: '<redacted xx>'", {}, "the data for a.yaml was not kept"),
    ],
)
def test_apply_configs_impossible_change_reports_document_and_file(spec: str, files: Mapping[str, bytes], part: str) -> None:
    assert part in refused(spec, files)


def test_apply_configs_reports_all_faults() -> None:
    found = configs(MERGE + "  - a\n", "path: etc/b\ndata: b", "path: c.yaml\nprocess: toSecret\ndata: {a: b}")
    with pytest.raises(InputError) as caught:
        apply_configs(found, {"etc/a.yaml": b"a: 1"})
    assert [fault.where for fault in caught.value.faults] == ["Clusterfile:1 Config c0", "Clusterfile:17 Config c2"]


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ("path: ../a\ndata: b", "5 .spec.path", "../a leaves the rootfs"),
        ("path: etc/../../a\ndata: b", "5 .spec.path", "etc/../../a leaves the rootfs"),
        ("path: etc/\ndata: b", "5 .spec.path", "etc/ is a folder"),
        ("path: /\ndata: b", "5 .spec.path", "/ is a folder"),
        ("data: b", "4 .spec.path", "is missing"),
        ("path: a", "4 .spec", "data is missing"),
        ("path: a\ndata: [b]", "6 .spec.data", "must be text or a mapping, not a list"),
        ("path: a\ndata: b\nstrategy: mrge", "7 .spec.strategy", "mrge is not known here"),
        (
            "path: a\ndata: b\nstrategy: merge",
            "7 .spec.strategy",
            "a is a text of which slipway knows no structure: nothing can be merged into it",
        ),
        ("path: a\ndata: b\nprocess: toJSON", "7 .spec.process", "toJSON is not a step"),
        (
            "path: a.yaml\ndata: b\nprocess: toSecret|value",
            "7 .spec.process",
            "toSecret puts the values into the file: no step can follow it",
        ),
        ("path: a.txt\ndata: b\nprocess: toSecret", "7 .spec.process", "toSecret puts values into a Secret, and a.txt holds none"),
        ("path: a\ndata: b\nappName: ../x", "7 .spec.appName", "'../x' is not a name of an application"),
        ("path: a\ndata: b\nappname: x", "7 .spec.appname", "appname is not known here"),
    ],
)
def test_config_invalid_spec_reports_path_and_message(spec: str, where: str, message: str) -> None:
    assert faults(document("Config", spec)) == [(where, message)]


def test_config_unknown_process_step_hint_names_nearest() -> None:
    assert hints(document("Config", "path: a\ndata: b\nprocess: value|tobase64")) == ["did you mean toBase64?"]


def test_apply_configs_path_outside_rootfs_is_refused() -> None:
    with pytest.raises(InputError, match="leaves the rootfs"):
        apply_configs([Config("x", "../../etc/passwd", "a")], {})


def test_deep_merge_changes_neither_side() -> None:
    one, two = {"a": {"b": [1]}}, {"a": {"b": [2], "c": 1}}
    assert deep_merge(one, two) == {"a": {"b": [2], "c": 1}}
    assert one == {"a": {"b": [1]}}
    assert two == {"a": {"b": [2], "c": 1}}


def test_config_repr_omits_data() -> None:
    (found,) = configs("path: a\ndata: {password: geheim}")
    assert "geheim" not in repr(found)


def test_new_files_reports_missing_paths_with_nearest_name() -> None:
    found = configs("path: etc/mysql-valus.yaml\ndata: 'a: 1'", "path: etc/there.yaml\ndata: x", "path: etc/made.conf\ndata: x")
    present = ["etc/mysql-config.yaml", "manifests/x.yaml", "etc/there.yaml.tmpl"]
    assert [(fault.where, fault.message, fault.hint) for fault in new_files([*found, *found], present)] == [
        ("Clusterfile:1 Config c0", "the image has no etc/mysql-valus.yaml: the file is new", "did you mean etc/mysql-config.yaml?"),
        ("Clusterfile:15 Config c2", "the image has no etc/made.conf: the file is new", None),
    ]
    assert new_files(found, [*present, "etc/mysql-valus.yaml", "etc/made.conf"]) == ()
