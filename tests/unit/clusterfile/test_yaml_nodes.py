"""YAML with positions: invalid YAML, duplicate keys, types of scalars."""

from __future__ import annotations

import pytest

from harness.clusterfile.yaml_nodes import FaultReport, documents
from harness.errors import InputError

from .reading import document, faults, hints, read, spec_text


def plain(text: str) -> object:
    report = FaultReport("f")
    (node,) = documents(text, report)
    report.finish()
    return node.plain()


def told(text: str) -> list[tuple[str, str]]:
    report = FaultReport("f")
    documents(text, report)
    return [(fault.where, fault.message) for fault in report.faults]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("0755", 0o755),
        ("0x10", 16),
        ("-1_000", -1000),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("22:22", "22:22"),
        ("2020-01-01", "2020-01-01"),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("y", "y"),
        ("'yes'", "yes"),
        ("!!str 5", "5"),
        ("08", 8.0),
    ],
)
def test_documents_scalars_have_types_that_kubernetes_reads(written: str, value: object) -> None:
    found = plain(f"a: {written}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_documents_keys_keep_written_text() -> None:
    assert plain("on: 1\n8080: 2\nnull: 3\n") == {"on": 1, "8080": 2, "null": 3}


def test_documents_aliases_and_merge_keys_are_resolved() -> None:
    text = "base: &b {a: 1, b: {c: 1}}\nother: &o {a: 2, d: 4}\nuse:\n  <<: [*b, *o]\n  b: 2\nagain: *b\n"
    found = plain(text)
    assert isinstance(found, dict)
    assert found["use"] == {"a": 1, "d": 4, "b": 2}
    assert found["again"] == {"a": 1, "b": {"c": 1}}


def test_documents_alias_cycle_deep_nesting_and_alias_bomb_are_refused() -> None:
    assert told("a: &x [*x]\n") == [("f:1", "cannot be read: it holds itself, by an alias")]
    assert told("b: 1\n---\na:\n " + "[" * 500 + "]" * 500) == [("f:4", "cannot be read: it is nested more than 100 levels deep")]
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8))
    ((where, message),) = told(bomb)
    assert where.startswith("f:")
    assert "more than 100000 values" in message


def test_documents_depth_counts_through_nested_aliases() -> None:
    steps = [f"a0: &a0 {'[' * 60}{']' * 60}", *(f"a{n}: &a{n} {'[' * 60}*a{n - 1}{']' * 60}" for n in range(1, 40))]
    assert [message for _, message in told("\n".join(steps))] == ["cannot be read: it is nested more than 100 levels deep"]


def test_documents_duplicate_keys_are_reported_at_any_depth() -> None:
    text = "a: 1\nb:\n  c: 1\n  d: {e: 1, e: 2}\n  c: 2\na: 3\n"
    assert told(text) == [
        ("f:4 .b.d.e", "is given twice; the first is in line 4"),
        ("f:5 .b.c", "is given twice; the first is in line 3"),
        ("f:6 .a", "is given twice; the first is in line 1"),
    ]


@pytest.mark.parametrize(
    ("text", "where", "part"),
    [
        ("a: 1\n\tb: 2\n", "f:2", "the line is indented with a tab"),
        ("a: [1, 2\nb: 3\n", "f:2", "is not YAML"),
        ("a: b: c\n", "f:1", "is not YAML"),
        ("a: 'x\n", "f:", "is not YAML"),
        ("a: 1\nb: \x07\n", "f:2", "a character that YAML does not allow"),
        ("a: !mine x\n", "f:1 .a", "the tag !mine is not understood"),
        ("a: !!int x\n", "f:1 .a", "the tag !!int is not understood"),
        ("a: *none\n", "f:1", "is not YAML"),
        ("a: {{ Port }}\n", "f:1 .a", "a key must be text"),
        ("<<: 5\n", "f:1", "<< takes a mapping"),
    ],
)
def test_documents_invalid_yaml_reports_line(text: str, where: str, part: str) -> None:
    first = told(text)[0]
    assert first[0].startswith(where)
    assert part in first[1]


def test_documents_after_invalid_document_are_still_read() -> None:
    text = "a: [\n---\nb: {c: 1, c: 2}\n---\n\td: 1\n---\ne: 1\n"
    report = FaultReport("f")
    found = documents(text, report)
    assert [node.plain() for node in found] == [{"b": {"c": 1}}, {"e": 1}]
    assert [fault.where.split(" ")[0] for fault in report.faults][1:] == ["f:3", "f:5"]
    assert len(report.faults) == 3


def test_documents_separator_inside_block_scalar_does_not_split() -> None:
    text = "---\na: |\n  x\n  ---\n  y\n--- # next\n---\n...\n%YAML 1.1\n---\nb: 1\n"
    report = FaultReport("f")
    assert [node.plain() for node in documents(text, report)] == [{"a": "x\n---\ny\n"}, {"b": 1}]
    assert report.faults == ()


def test_parse_slash_comments_are_reported_with_later_faults() -> None:
    with pytest.raises(InputError) as caught:
        read("// Copyright\n//\n// Licence\n\n" + spec_text("imge: x"))
    assert [str(fault).split("\n")[0] for fault in caught.value.faults] == [
        "Clusterfile:1: // begins no comment in YAML",
        "Clusterfile:10 .spec.imge: imge is not known here",
    ]


def test_parse_byte_order_mark_and_crlf_are_accepted() -> None:
    text = "\ufeff" + spec_text("cmd: [a]").replace("\n", "\r\n")
    found = read(text).cluster
    assert found is not None
    assert found.commands == ("a",)


@pytest.mark.parametrize("text", ["", "\n# nothing\n", "---\n---\n", "~\n"])
def test_parse_text_without_documents_is_refused(text: str) -> None:
    assert faults(text) == [("1", "contains no document")]


@pytest.mark.parametrize(
    ("text", "where", "message", "hint"),
    [
        ("kind: Cluste\n", "1 .kind", "Cluste is not a kind of a Clusterfile", "did you mean Cluster?"),
        ("kind: plugin\n", "1 .kind", "plugin is not a kind of a Clusterfile", "did you mean Plugin?"),
        ("kind: Pod\n", "1 .kind", "Pod is not a kind of a Clusterfile", "manifests of Kubernetes go into the image"),
        ("apiVersion: slipway.dev/v1\n", "1 .kind", "is missing", "known: Cluster, Config"),
        ("- a\n", "1", "a document must be a mapping, not a list", "apiVersion: slipway.dev/v1"),
        ("text\n", "1", "a document must be a mapping, not text", "apiVersion: slipway.dev/v1"),
        (
            "kind: Infra\napiVersion: sealer.io/v2\n",
            "1 .kind",
            "Infra was proposed for sealer, which never reads it",
            "hosts of the Cluster",
        ),
    ],
)
def test_parse_unknown_kind_reports_line_and_hint(text: str, where: str, message: str, hint: str) -> None:
    assert faults(text) == [(where, message)]
    assert hint in (hints(text)[0] or "")


def test_parse_unknown_api_version_is_refused_with_nearest() -> None:
    text = spec_text("cmd: [a]", version="sealer.io/v3")
    assert faults(text) == [("1 .apiVersion", "sealer.io/v3 is not known here")]
    assert hints(text) == ["did you mean sealer.io/v2?"]
    text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: KubeletConfiguration\n"
    assert faults(text) == [("1 .apiVersion", "kubeadm.k8s.io/v1beta3 is not a version of KubeletConfiguration")]
    assert faults("kind: ClusterConfiguration\n") == [("1 .apiVersion", "is missing")]


@pytest.mark.parametrize(
    "version",
    [
        "zlink.aliyun.com/v1alpha1",
        "sealer.aliyun.com/v1alpha1",
        "sealer.cloud/v1",
        "sealer.cloud/v2",
        "sealer.io/v1",
        "sealer.io/v2",
        "slipway.dev/v1",
    ],
)
def test_parse_cluster_of_any_api_version_accepts_old_and_new_host_keys(version: str) -> None:
    old = read(spec_text("masters: {ipList: [10.0.0.1]}\nnodes: {ipList: [10.0.0.2]}", version=version)).cluster
    new = read(spec_text("hosts: [{ips: [10.0.0.1], roles: [master]}, {ips: [10.0.0.2], roles: [node]}]", version=version)).cluster
    assert old == new
    assert old is not None
    assert (old.control_plane, old.workers) == (("10.0.0.1",), ("10.0.0.2",))


def test_parse_spec_key_at_top_level_hint_names_spec() -> None:
    text = "apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {name: c, labls: {}}\nimage: a\nspec: {image: a}\nhost: x\n"
    assert faults(text) == [
        ("3 .metadata.labls", "labls is not known here"),
        ("4 .image", "image is not known here"),
        ("6 .host", "host is not known here"),
    ]
    assert hints(text)[:2] == ["did you mean labels?", "it belongs into spec: spec.image"]


def test_parse_second_cluster_or_application_is_refused() -> None:
    one = spec_text("cmd: [a]")
    app = document("Application", "launchApps: [a]")
    assert faults("---\n".join([one, one, app, app])) == [
        ("8", "a second Cluster; the first is in line 1"),
        ("21", "a second Application; the first is in line 15"),
    ]


def test_parse_placeholders_are_replaced_by_env_and_others_stay() -> None:
    from harness.clusterfile.parse import parse

    text = spec_text("image: '{{ Registry }}/shop:{{ .Tag }}'").replace("  image: shop:1.0\n", "") + "---\n"
    text += document("Config", "path: etc/a.yaml\ndata: |\n  a: {{ Port }}\n  b: {{ .HostIP }}")
    found = parse(text, "Clusterfile", env={"Registry": "r.example.com", "Tag": "2.0", "Port": "80"})
    assert found.cluster is not None
    assert found.cluster.image == "r.example.com/shop:2.0"
    assert found.configs[0].data == "a: 80\nb: {{ .HostIP }}\n"
    with pytest.raises(InputError) as caught:
        parse(text, "Clusterfile")
    assert caught.value.faults[0].hint == "give the name a value: -e NAME=VALUE"


@pytest.mark.parametrize("text", ["[" * 990, "{a: " * 990, "a:\n" + "- " * 990])
def test_parse_deep_nesting_is_refused_with_line(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.faults[0].where.startswith("Clusterfile:")
