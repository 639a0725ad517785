"""Values that an image expects: their types, and what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ExpectedValue, Info, ValueType
from harness.cloudimage.values import faults
from harness.clusterfile import secrets
from harness.oci.model import Platform
from harness.oci.store import Store
from tests.unit.cloudimage.examples import put

PORT = ValueType("integer", minimum=1, maximum=65535)


@pytest.mark.parametrize(
    ("kind", "accepted", "refused"),
    [
        (ValueType(), ["", "x"], []),
        (PORT, ["1", "65535", "+80"], ["0", "65536", "x", "", "1.0", "1 ", "٣", "9" * 400]),
        (ValueType("integer", minimum=0), ["0"], ["-1"]),
        (ValueType("number", maximum=1.5), ["1", "-2.25", "1e-3"], ["2", "nan", "inf", "1e999", "0x1"]),
        (ValueType("boolean"), ["true", "false"], ["yes", "True", ""]),
        (ValueType(enum=("a", "b")), ["a"], ["c"]),
        (ValueType(pattern="^[a-z]+$"), ["a"], ["A"]),
    ],
)
def test_value_type_problem_is_reported_only_for_refused_values(kind: ValueType, accepted: list[str], refused: list[str]) -> None:
    assert [text for text in accepted if kind.problem(text)] == []
    assert [text for text in refused if not kind.problem(text)] == []
    assert ValueType.from_json(kind.to_json()) == kind


def test_faults_of_missing_and_invalid_values_are_all_reported() -> None:
    values = (
        ExpectedValue("Port", ("manifests/a.yaml:7",), required=True, description="where the site listens", type=PORT),
        ExpectedValue("Mode", ("manifests/a.yaml:9",), default="fast", type=ValueType(enum=("fast", "safe"))),
        ExpectedValue("LicenseText", required=True, secret=True, type=ValueType(pattern="^LIC-")),
        ExpectedValue("Name", required=True),
    )
    given = {"Mode": "slow", "LicenseText": "hunter2", "Name": "x"}
    found = faults(values, [given])
    assert [(fault.where, fault.message) for fault in found] == [
        ("Port", "has no value, and manifests/a.yaml:7 needs one (where the site listens; integer, from 1 to 65535)"),
        ("Mode", "'slow' is not one of fast, safe (one of fast, safe)"),
        ("LicenseText", "the value that is given does not match ^LIC- (string, matches ^LIC-)"),
    ]
    assert found[0].hint == "-e Port=VALUE, or env: {Port: VALUE} in the Clusterfile"
    assert faults(values, [{**given, "Mode": "safe", "LicenseText": "LIC-1", "Port": "80"}]) == []


def test_faults_hint_names_misspelled_value() -> None:
    (fault,) = faults([ExpectedValue("DashBoardPort", required=True)], [{"DashboardPort": "1", "Other": "2"}])
    assert str(fault.hint).endswith("; DashboardPort is given, which the image does not expect")


def test_faults_consider_each_node_and_env_of_each_application() -> None:
    disk = ExpectedValue("Disk", ("etc/disk.yaml:1",), required=True)
    assert faults([disk], [{"Disk": "sda"}, {}])
    assert not faults([disk], [{"Disk": "sda"}, {"Disk": "sdb"}])
    own = ExpectedValue("Port", ("application/apps/web/a.yaml.tmpl:1",), required=True)
    assert not faults([own], [{}], app_env={"web": {"Port": "1"}})
    assert faults([own], [{}], app_env={"db": {"Port": "1"}})
    assert faults([ExpectedValue("Port", (*own.where, "etc/x.yaml:1"), required=True)], [{}], app_env={"web": {"Port": "1"}})


def test_faults_ignore_values_of_file_replaced_by_config() -> None:
    value = ExpectedValue("Port", ("etc/a.yaml:1",), required=True)
    assert not faults([value], [{}], replaced=lambda path: path == "etc/a.yaml")
    assert faults([value], [{}], replaced=lambda path: path == "etc/b.yaml")


def test_faults_do_not_check_fingerprint_of_secret_against_type() -> None:
    value = ExpectedValue("Key", ("etc/a.yaml:1",), required=True, type=ValueType(pattern="^[a-z]$"))
    assert not faults([value], [{"Key": secrets.fingerprint("x", "here")}])
    assert faults([value], [{"Key": "in-its-place"}])
    assert not faults([value], [{"Key": "in-its-place"}], unknown=("in-its-place",))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a b"},
        {"name": None},
        {"type": "port"},
        {"pattern": "(a"},
        {"pattern": 1},
        {"enum": "a"},
        {"enum": [1]},
        {"minimum": "1"},
        {"minimum": True},
        {"where": "a"},
        {"description": []},
        {"default": 1},
    ],
)
def test_expected_value_from_invalid_json_is_refused(changes: dict[str, Any]) -> None:
    value = {**ExpectedValue("A").to_json(), **changes}
    with pytest.raises((KeyError, TypeError, ValueError)):
        ExpectedValue.from_json(value)


def test_expected_value_text_escapes_control_characters() -> None:
    value = ExpectedValue.from_json({"name": "A", "type": "string", "required": True, "description": "\x1b[2Jx", "where": ["\x07"]})
    assert "\x1b" not in f"{value}{faults([value], [{}])}"
    assert "\x07" not in str(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (ExpectedValue("A", ("a:1", "a:2", "b:1", "c:1"), required=True), "A  required; a:1, a:2, b:1 and 1 more"),
        (ExpectedValue("A", ("a:1",), default="80", type=PORT), "A  default 80, integer, from 1 to 65535; a:1"),
        (ExpectedValue("A", secret=True, description="the key"), "A  optional, secret: the key"),
    ],
)
def test_expected_value_text_shows_default_type_and_places(value: ExpectedValue, text: str) -> None:
    assert str(value) == text


def test_image_values_round_trip_and_are_omitted_when_absent(store: Store) -> None:
    values = (ExpectedValue("LicensePhrase", ("manifests/a.yaml:1",), required=True, secret=True, description="d", type=PORT),)
    assert "values" not in Info().to_json()
    put(store, "web", info=Info(values=values))
    (part,) = cloudimage.read(store, "web").platforms
    assert part.info.values == values
    assert part.platform == Platform("linux", "amd64")
    assert part.info.extra == {}


def test_read_image_registers_names_of_secret_values(store: Store) -> None:
    assert not secrets.is_secret("ReadingPhrase", "true")
    put(store, "web", info=Info(values=(ExpectedValue("ReadingPhrase", secret=True),)))
    cloudimage.read(store, "web")
    assert secrets.is_secret("ReadingPhrase", "true")
    assert not secrets.is_secret("ReadingPhrase", "")
