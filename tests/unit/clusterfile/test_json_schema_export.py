"""The JSON schema says what the parser says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from harness.clusterfile.json_schema_export import schema
from harness.clusterfile.parse import parse
from harness.clusterfile.schema import KINDS
from harness.clusterfile.yaml_nodes import FaultReport, documents
from harness.errors import InputError

from .reading import CASES, CLUSTERFILES, document, spec_text


def complaints(text: str) -> list[str]:
    """The paths, or messages, of what the schema does not like in the documents of a text."""
    validator = jsonschema.Draft202012Validator(schema())
    found: list[str] = []
    for node in documents(text, FaultReport("f")):
        found += [error.json_path for error in validator.iter_errors(node.plain())]
    return found


def test_schema_is_valid_draft_2020_12_and_plain_json() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads(json.dumps(schema())) == schema()


@pytest.mark.parametrize("name", CLUSTERFILES)
def test_schema_accepts_cases_exactly_when_parser_does(name: str) -> None:
    text = (CASES / name).read_text()
    try:
        parse(text, name)
    except InputError:
        # Marks of comments are gone before a schema sees a document.
        assert complaints(text) or text.startswith("//")
    else:
        assert complaints(text) == []


EVERYTHING = [
    spec_text("env: [A=1]\ncmd: [a]\ncmd_args: {A: 1}\nappNames: ['']\nprovider: CONTAINER\nhosts: [{count: '3', roles: master}]"),
    spec_text(
        "env: {A: 1, B: true, C: ~}\nssh: {passwd: 5, port: '22', encrypted: false, jump: u@h}\nmasters: {ipList: [10.0.0.1], cpu: '4'}"
    ),
    spec_text("ssh: {jump: {host: h, port: 5}}\nhosts: [{ips: 10.0.0.1, roles: [master], labels: {a: 5}, taints: ['a-'], env: [a=b]}]"),
    spec_text("network: {podCIDR: 10.0.0.0/8, interface: eth0}\nregistry: {externalRegistry: {domain: d, plainHttp: true}}\nprovider: ''"),
    spec_text("ssh: ~\nhosts: ~\nregistry: {localRegistry: ~}\ncertificates: {validity: 1y}\nloadBalancing: ~"),
    document("Config", "path: a\ndata: {a: [1]}\nprocess: value|toJson\nstrategy: overwrite"),
    document("Config", "path: a\ndata: 5"),
    document("Plugin", "action: PreInit\n'on': master\ntype: SHELL\ndata: x", version="sealer.io/v1"),
    document("Hook", "phases: [upgrade]\non: [master]\ndata: x"),
    document("Application", "cmds: ~\nlaunchApps: [a]\nconfigs: [{name: a, env: [b=c], files: [{path: a, data: b}], launch: {cmds: [x]}}]"),
    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n",
]


@pytest.mark.parametrize("text", EVERYTHING)
def test_schema_accepts_parsed_documents_of_all_kinds(text: str) -> None:
    parse(text, "Clusterfile")
    assert complaints(text) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (spec_text("imge: x"), "$.spec"),
        (spec_text("ssh: {prt: 1}"), "$.spec.ssh"),
        (spec_text("ssh: {port: 70000}"), "$.spec.ssh.port"),
        (spec_text("ssh: {encrypted: true}"), "$.spec.ssh.encrypted"),
        (spec_text("provider: AliCloud"), "$.spec.provider"),
        (spec_text("hosts: [{ips: [10.0.0.1]}]"), "$.spec.hosts[0]"),
        (spec_text("network: {withoutCNI: true}"), "$.spec.network.withoutCNI"),
        (spec_text("cmd: [5]"), "$.spec.cmd[0]"),
        (spec_text("cmd: [a]", version="slipway.dev/v2"), "$.apiVersion"),
        (spec_text("cmd: [a]").replace("name: c", "name: C_"), "$.metadata.name"),
        (document("Config", "path: a\ndata: b\nstrategy: mrge"), "$.spec.strategy"),
        (document("Plugin", "data: x"), "$.spec"),
        (document("Hook", "phases: [a]\ndata: x", version="sealer.io/v2"), "$.apiVersion"),
        ("apiVersion: kubeadm.k8s.io/v1beta3\nkind: KubeletConfiguration\n", "$.apiVersion"),
        ("apiVersion: v1\nkind: Pod\n", "$.kind"),
        ("kind: Cluster\n", "$"),
    ],
)
def test_schema_refuses_invalid_value_at_path_like_parser(text: str, path: str) -> None:
    with pytest.raises(InputError):
        parse(text, "Clusterfile")
    assert path in complaints(text)


def test_schema_defines_all_kinds_and_spec_keys() -> None:
    definitions: dict[str, Any] = schema()["$defs"]
    assert set(definitions) == set(KINDS)
    for name, kind in KINDS.items():
        if kind.spec is not None:
            spec = definitions[name]["properties"]["spec"]
            assert set(spec["properties"]) == set(kind.spec.fields)
            assert spec["additionalProperties"] is False
