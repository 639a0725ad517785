"""Values in place of those that are known only when an image runs."""

from __future__ import annotations

import re

import pytest

from harness.build.stand_ins import narrowest, place_of, stand_in
from harness.cloudimage import ExpectedValue, ValueType
from harness.templates.plain import placeholders

LABEL = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")


def made(text: str, value: ExpectedValue | None = None, number: int = 0) -> str | None:
    places = [place_of(found) for found in placeholders(text, "manifests/a.yaml") if found.name == "A"]
    return stand_in(value or ExpectedValue("A"), narrowest(places), number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("spec: {ports: [{port: {{ A }}}]}", "18080"),
        ("targetPort: {{ A }}", "18080"),
        ("containers:\n- ports:\n  - containerPort: {{ A }}", "18080"),
        ("ports:\n- nodePort: {{ A }}", "31080"),
        ("replicas: {{ A }}", "1"),
        ("terminationGracePeriodSeconds: {{ A }}", "10"),
        ("hostNetwork: {{ A }}", "true"),
        ("resources: {limits: {memory: {{ A }}}}", "64Mi"),
        ("resources: {requests: {storage: {{ A }}}}", "1Gi"),
        ("loadBalancerIP: {{ A }}", "192.0.2.1"),
        ("schedule: {{ A }}", "0 0 1 1 *"),
        ("imagePullPolicy: {{ A }}", "IfNotPresent"),
        ("image: {{ A }}", None),
        ("image: 'nginx:{{ A }}'", None),
        ("image: nginx:{{ A }}", None),
    ],
)
def test_stand_in_fits_its_place(text: str, expected: str | None) -> None:
    assert made(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "metadata: {name: {{ A }}}",
        "data: {port: {{ A }}}",
        "metadata: {labels: {replicas: {{ A }}}}",
        "targetPort: '{{ A }}'",
        "a: x-{{ A }}",
    ],
)
def test_stand_in_for_other_field_is_dns_label(text: str) -> None:
    name = made(text, ExpectedValue("A"))
    assert name is not None
    assert LABEL.fullmatch(name)


def test_stand_in_of_long_name_fits_port_name_limit() -> None:
    name = made("name: {{ A }}", ExpectedValue("The_Longest_Name_That_There_Is"), 12)
    assert name is not None
    assert LABEL.fullmatch(name)
    assert len(name) <= 15


def test_stand_ins_of_two_ports_differ() -> None:
    assert [made("nodePort: {{ A }}", number=number) for number in (0, 1)] == ["31080", "31081"]


def test_stand_in_for_several_places_fits_narrowest_place() -> None:
    assert made("a: {{ A }}\nnodePort: {{ A }}\nport: {{ A }}") == "31080"
    assert made("name: {{ A }}\nimage: {{ A }}") is None


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (ValueType("integer", minimum=5, maximum=7), "a: {{ A }}", "5"),
        (ValueType("integer", minimum=20000, maximum=20001), "port: {{ A }}", "20000"),
        (ValueType("number"), "a: {{ A }}", "1"),
        (ValueType("boolean"), "a: {{ A }}", "true"),
        (ValueType(enum=("small", "large")), "a: {{ A }}", "small"),
        (ValueType(pattern="^[0-9]+$"), "port: {{ A }}", "18080"),
        (ValueType(pattern="^LIC-"), "a: {{ A }}", None),
    ],
)
def test_stand_in_satisfies_declared_type(kind: ValueType, text: str, expected: str | None) -> None:
    assert made(text, ExpectedValue("A", type=kind)) == expected


def test_stand_in_takes_matching_example_of_author() -> None:
    (place,) = (place_of(found) for found in placeholders("image: {{ A }}", "a.yaml"))
    assert stand_in(ExpectedValue("A", type=ValueType(pattern="^n")), place, 0, ("x:1", "nginx:1")) == "nginx:1"


def test_place_of_records_type_for_unambiguous_port_keys_only() -> None:
    def kind(text: str) -> ValueType:
        (found,) = placeholders(text, "a.yaml")
        return place_of(found).type

    assert kind("ports: [{containerPort: {{ A }}}]") == ValueType("integer", minimum=1, maximum=65535)
    assert kind("ports: [{port: {{ A }}}]") == ValueType("integer", minimum=1, maximum=65535)
    assert kind("nodePort: {{ A }}") == ValueType("integer", minimum=30000, maximum=32767)
    # A name of a port is taken there, too.
    assert kind("targetPort: {{ A }}") == ValueType()
    assert kind("httpGet: {port: {{ A }}}") == ValueType()
