"""Jinja templates, rendered in the process of the test."""

from __future__ import annotations

import pytest

from harness import templates
from harness.errors import InputError
from harness.templates.job import StandIn
from tests.unit.templates.environment import ENV


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
def test_jinja_template_expressions_and_filters_are_rendered(text: str, expected: str) -> None:
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
def test_jinja_template_invalid_expression_reports_line(text: str, where: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, ENV, "a.j2")
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [(where, message)]


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
def test_jinja_template_that_grows_or_fails_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        templates.render(text, ENV, "a.j2")
    (fault,) = caught.value.faults
    assert f"{fault.where.removeprefix('a.j2:')}: {fault.message}".startswith(message)


def test_jinja_template_stand_in_records_undefined_names() -> None:
    stand_in = StandIn("<", ">")
    assert templates.render("{{ One }}{{ Port }}", ENV, "a.j2", missing=stand_in) == "<One>8443"
    assert stand_in.names == ["One"]
