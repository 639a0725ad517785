"""Values that no machine could make right: ``--plan`` and the run itself refuse them alike, and no machine is asked for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage, log
from harness.cloudimage import ExpectedValue, Info, PlatformImage, ValueType
from harness.clusterfile import Clusterfile, write
from harness.clusterfile.parse import parse
from harness.errors import CheckError, InputError, SlipwayError, UsageError
from harness.lifecycle import run
from harness.lifecycle.cluster import request
from harness.lifecycle.provision import ipvs, rootfs
from harness.lifecycle.steps import validation
from harness.nodes.ssh import SshConnections
from harness.oci.layer import scan, write_layer
from harness.oci.model import Platform
from harness.oci.store import Store
from tests.unit.lifecycle.test_run import FACTS, asked, build, machines, store

__all__ = ["store"]

CLUSTER = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: prod}
spec: {image: web, %s, hosts: [{ips: [10.0.0.1], roles: [master]}]}
"""
FILES = {"etc/slipway.yaml": FACTS}


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> None:
        pytest.fail("a machine is asked")

    monkeypatch.setattr(SshConnections, "connect", asked)


def planned(wanted: Clusterfile, store: Store, options: run.RunOptions | None = None) -> object:
    return run.plan(run.prepare(wanted, store, options))


BOTH = pytest.mark.parametrize("verb", [planned, run.run])
Verb = Callable[[Clusterfile, Store], object]


def refused(verb: Verb, store: Store, kind: type[SlipwayError], said: str, **changes: Any) -> None:
    with pytest.raises(kind, match=said):
        verb(asked(1, 1, **changes), store)


@BOTH
@pytest.mark.parametrize(
    ("env", "kind", "said"),
    [
        ({"PodCIDR": "10.0.0.0/33"}, InputError, "PodCIDR"),
        ({"PodCIDR": "100.64.0.0/31"}, InputError, "PodCIDR"),
        ({"PodCIDR": "10.96.0.0/16", "SvcCIDR": "10.96.1.0/24"}, InputError, "overlap"),
        ({"SvcCIDR": "10.96.0.0/22,fd00:10:96::/112"}, InputError, "CIDR"),
        ({"IPv6DualStack": "true"}, InputError, "both families are asked for"),
        ({"PodCIDR": "10.0.0.0/16"}, CheckError, r"10\.0\.0\.1.*: lies in PodCIDR 10\.0\.0\.0/16"),
        ({"CertSANs": "api.example.com, a b"}, InputError, "CertSANs a b: .*host name"),
    ],
)
def test_validation_impossible_networks_and_names_are_refused(
    verb: Verb, store: Store, env: dict[str, str], kind: type[SlipwayError], said: str
) -> None:
    build(store)
    refused(verb, store, kind, said, env=env)


def test_validation_skipped_check_is_skipped_in_plan(store: Store) -> None:
    build(store)
    assert planned(asked(1, 1, env={"PodCIDR": "10.0.0.0/16"}), store, run.RunOptions(skip_checks=frozenset({"networks"})))


@BOTH
def test_validation_ipv6_machine_address_is_refused(verb: Verb, store: Store) -> None:
    build(store)
    refused(verb, store, CheckError, "IPv6-only clusters are not supported", control_plane=machines("fd00::1"))


@BOTH
def test_validation_template_values_without_source_are_refused_together_with_place(verb: Verb, store: Store) -> None:
    build(store, files={**FILES, "manifests/web.yaml.tmpl": "a: 1\nport: {{ .Port }}\n", "etc/addons/x.yaml": "size: {{ Size }}\n"})
    places = {"Port": "manifests/web.yaml.tmpl:2", "Size": "etc/addons/x.yaml:1"}
    for env, missing in (({}, ["Size", "Port"]), ({"Size": "1"}, ["Port"]), ({"Port": "80"}, ["Size"])):
        with pytest.raises(InputError) as caught:
            verb(asked(1, 1, env=env), store)
        assert [(fault.where, fault.message) for fault in caught.value.faults] == [
            (places[name], f"{name} is not defined") for name in missing
        ]
    assert planned(asked(1, 1, env={"Size": "1", "Port": "80"}), store)


def test_validation_value_missing_for_one_machine_is_refused(store: Store) -> None:
    build(store, files={**FILES, "etc/disk.conf": "disk: {{ Disk }}\n"})
    given = {"10.0.0.1": {"Disk": "sda"}}
    with pytest.raises(InputError, match="Disk"):
        planned(asked(1, 1, host_env=given), store)
    assert planned(asked(1, 1, host_env={**given, "10.0.0.101": {"Disk": "sdb"}}), store)


def test_validation_renders_once_for_machines_with_same_values(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    rendered = rootfs.rendered

    def counted(*words: Any) -> Any:
        calls.append(words)
        return rendered(*words)

    monkeypatch.setattr(rootfs, "rendered", counted)
    build(store)
    planned(asked(3, 20, host_env={"10.0.0.101": {"Disk": "sdb"}}), store)
    assert len(calls) == 2


@BOTH
@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("etc/kubeadm.yml", "kind: [", "is not YAML"),
        ("etc/containerd/config.toml", "not toml", "is not TOML"),
    ],
)
def test_validation_unreadable_image_file_is_refused(verb: Verb, store: Store, path: str, text: str, said: str) -> None:
    build(store, files={**FILES, path: text})
    refused(verb, store, InputError, f"{path}: {said}")


@BOTH
def test_validation_missing_private_key_or_invalid_user_is_refused(verb: Verb, store: Store, tmp_path: Path) -> None:
    build(store)
    refused(verb, store, UsageError, "no such private key", control_plane=machines("10.0.0.1", key=tmp_path / "absent"))
    refused(verb, store, UsageError, "neither an address nor a user", workers=machines("10.0.0.7", user="a b"))


@BOTH
def test_validation_virtual_address_inside_pod_cidr_is_refused_with_ipvs(verb: Verb, store: Store) -> None:
    build(store)

    def wanted(balancing: str) -> Clusterfile:
        env = f"[PodCIDR=192.168.0.0/16, {ipvs.VARIABLES[4]}=192.168.3.4]"
        return request.effective(parse(CLUSTER % f"loadBalancing: {balancing}, env: {env}", "Clusterfile"))

    with pytest.raises(CheckError, match="lies in PodCIDR"):
        verb(wanted("ipvs"), store)
    assert planned(wanted("auto"), store)


def application(store: Store, files: dict[str, str], **info: Any) -> None:
    root = store.root.parent / "root-app"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    layer = write_layer(scan(root), store)
    described = Info(type="app", launch=("kubectl apply -f manifests",), **info)
    image = PlatformImage(Platform.parse("linux/amd64"), (layer.descriptor,), (layer.diff_id,), info=described)
    store.tag("shop", cloudimage.write(store, [image]))


APPLICATION = f"""{CLUSTER % "env: []"}---
apiVersion: slipway.dev/v1
kind: Application
metadata: {{name: shop}}
spec: {{image: shop, env: [%s]}}
"""


@BOTH
def test_validation_application_without_template_value_is_refused(verb: Verb, store: Store) -> None:
    build(store)
    application(store, {"manifests/shop.yaml": "port: {{ Port }}\nnetwork: {{ PodCIDR }}\n"})

    def wanted(env: str) -> Clusterfile:
        return request.effective(parse(APPLICATION % env, "Clusterfile"))

    with pytest.raises(InputError, match="Port"):
        verb(wanted(""), store)
    assert planned(wanted("Port=80"), store)


def test_validation_ordinary_values_are_accepted(store: Store) -> None:
    build(store)
    assert planned(asked(3, 2, env={"CertSANs": "api.example.com,*.example.com,10.1.2.3"}), store)


def test_check_members_judges_joining_machines_only(store: Store) -> None:
    build(store, files={**FILES, "etc/disk.yaml": "disk: {{ Disk }}\n"})
    spec = run.prepare(asked(1, 1, env={"Disk": "sda"}), store).spec

    def judged(network: str, **host: str) -> None:
        changed = dataclasses.replace(spec, env={"PodCIDR": network}, host_env={"10.0.0.101": host})
        validation.check_members(changed, changed.workers)

    judged("10.0.0.0/26", Disk="sdb")
    with pytest.raises(InputError, match="Disk"):
        judged("10.0.0.0/26")
    with pytest.raises(CheckError, match=r"10\.0\.0\.101: lies in PodCIDR"):
        judged("10.0.0.64/26", Disk="sdb")


VALUES = (
    ExpectedValue("Port", ("manifests/web.yaml:3",), required=True, description="where it listens", type=ValueType("integer")),
    ExpectedValue("Realm", ("manifests/web.yaml:4",), required=True),
    ExpectedValue("SitePhrase", required=True, secret=True),
)


@BOTH
def test_validation_all_missing_expected_values_are_reported_at_once(verb: Verb, store: Store) -> None:
    build(store, files={**FILES, "manifests/web.yaml": "a: 1\nb: 2\nport: {{ Port }}\nrealm: '{{ .Realm }}'\n"}, values=VALUES)
    with pytest.raises(InputError) as caught:
        verb(asked(1, 1, env={"Realm": "x"}), store)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("Port", "has no value, and manifests/web.yaml:3 needs one (where it listens; integer)"),
        ("SitePhrase", "has no value, and the image needs one"),
    ]
    assert caught.value.exit_code == 2
    assert "-e Port=VALUE, or env: {Port: VALUE} in the Clusterfile" in str(caught.value)
    refused(verb, store, InputError, "Port: 'x' is not a whole number", env={"Port": "x", "Realm": "x", "SitePhrase": "p"})
    given = {"Port": "80", "Realm": "x", "SitePhrase": "open sesame"}
    assert planned(asked(1, 1, env=given), store)


def test_validation_secret_value_of_image_is_neither_shown_nor_recorded(store: Store) -> None:
    build(store, values=VALUES)
    given = {"Port": "80", "Realm": "x", "SitePhrase": "open sesame"}
    context = run.prepare(asked(1, 1, env=given), store)
    assert "open sesame" not in write.redacted(context.spec.clusterfile)
    assert "open sesame" not in log.hidden("say open sesame")
    assert "Realm" in write.redacted(context.spec.clusterfile)


def test_validation_config_that_writes_file_makes_its_values_optional(store: Store) -> None:
    build(store, files={**FILES, "manifests/web.yaml": "port: {{ Port }}\n"}, values=VALUES[:1])
    config = f"""{CLUSTER % "env: []"}---
apiVersion: slipway.dev/v1
kind: Config
metadata: {{name: web}}
spec: {{path: manifests/web.yaml, data: 'port: 1'}}
"""
    assert planned(request.effective(parse(config, "Clusterfile")), store)


def test_validation_manifest_with_foreign_templates_is_not_rendered(store: Store) -> None:
    text = "data:\n  a.yml: |\n    title: {{ .Status }}\n    x: {{ Name }}\n  b: '{{ Other }}'\n"
    build(store, files={**FILES, "manifests/web.yaml": text})
    context = run.prepare(asked(1, 0), store)
    assert "manifests/web.yaml" not in validation._supposed(context.spec).files(context.spec.first)


def test_validation_undeclared_names_left_as_text_are_warned_about_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    files = {**FILES, "etc/web.conf": "{{ Site }} {{ HostIP }} {{ Given }} {{ Mode }} {{ Zone }}\n"}
    build(store, files=files, env={"Mode": "fast"})
    given = asked(1, 1, env={"Given": "1"})
    planned(given, store)
    line = "etc/web.conf: {{ Site }} stays as text, since nothing declares Site (and 1 more); if it is a value: -e Site=VALUE"
    assert " ".join(capsys.readouterr().err.split()).count(line) == 1
    planned(asked(1, 0, env={"Given": "1", "Site": "a", "Zone": "b"}), store)
    config = f"""{CLUSTER % "env: []"}---
apiVersion: slipway.dev/v1
kind: Config
metadata: {{name: web}}
spec: {{path: etc/web.conf, data: 'x'}}
"""
    planned(request.effective(parse(config, "Clusterfile")), store)
    # The build of an image with a list has warned.
    build(store, files=files, env={"Mode": "fast"}, values=VALUES[:1])
    planned(asked(1, 0, env={"Port": "80"}), store)
    assert "stays as text" not in capsys.readouterr().err


@BOTH
def test_validation_missing_expected_values_of_application_are_reported(verb: Verb, store: Store) -> None:
    build(store)
    application(store, {"manifests/shop.yaml": "port: {{ Port }}\nrealm: {{ Realm }}\n"}, values=VALUES[:2])
    with pytest.raises(InputError) as caught:
        verb(request.effective(parse(APPLICATION % "", "Clusterfile")), store)
    assert [fault.where for fault in caught.value.faults] == ["shop: Port", "shop: Realm"]
    assert planned(request.effective(parse(APPLICATION % "Port=80, Realm=x", "Clusterfile")), store)
