"""Jinja templates evaluated within limits: what they may do, and what is a fault with its line."""

from __future__ import annotations

from typing import Any

import pytest

from harness.templates.jinja import decode, encode, evaluate, limit, quote

ENV = {"name": "web", "port": "80"}


def rendered(text: str, env: dict[str, str] | None = None) -> str:
    return str(evaluate(text, ENV if env is None else env, None)["text"])


def fault(text: str) -> tuple[int, str, str | None]:
    outcome: dict[str, Any] = evaluate(text, ENV, None)
    ((line, message, name),) = outcome["faults"]
    return line, message, name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ name }}:{{ port }}", "web:80"),
        ("{{ .name }}:{{- .port }}", "web:80"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ name | b64enc }} {{ name | b64enc | b64dec }}", "d2Vi web"),
        ("{{ name | quote }}", '"web"'),
        ("a\r\nb\n", "a\r\nb\r\n"),
        ("<{{ name }}>\n", "<web>\n"),
        ("{{ '%s-%s' % (name, port) }}", "web-80"),
        ("{{ name | center(9) }}|", "   web   |"),
    ],
)
def test_evaluate_renders(text: str, expected: str) -> None:
    assert rendered(text) == expected


def test_evaluate_missing_name_is_a_fault_or_stood_in_for() -> None:
    assert fault("\n{{ other }}") == (2, "'other' is undefined", "other")
    outcome = evaluate("{{ other }}-{{ name }}", ENV, ("<", ">"))
    assert outcome == {"text": "<other>-web", "missing": ["other"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ 'x' * 10000000 }}", "too large"),
        ("{{ 10000000 * 'x' }}", "too large"),
        ("{{ [0] * 10000000 }}", "too large"),
        ("{{ 9 ** 99999 }}", "too large"),
        ("{{ '%99999d' % 1 }}", "pads to more columns"),
        ("{{ '{:99999}'.format(1) }}", "pads to more columns"),
        ("{{ '%99999s' | format(1) }}", "pads to more columns"),
        ("{{ 'x'.ljust(99999) }}", "numbers up to 10000 are taken"),
        ("{{ 'x' | center(99999) }}", "numbers up to 10000 are taken"),
        ("{% for i in range(999999) %}{% endfor %}{% for i in range(2) %}{% endfor %}", "more than 1000000 numbers"),
        ("{% for i in range(100000) %}" + "x" * 100 + "{% endfor %}", "it renders to more than"),
        ("{{ '!' | b64dec }}", "is not base64 of text"),
        ("{% if %}", "Expected an expression"),
        ("{{ name.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
    ],
)
def test_evaluate_template_that_grows_or_fails_is_a_fault(text: str, message: str) -> None:
    line, reason, _ = fault("\n\n" + text)
    assert message in reason
    assert line in (1, 3)


def test_fault_message_is_short() -> None:
    _, message, _ = fault("{{ '" + "!" * 5000 + "' | b64dec }}")
    assert len(message) <= 350


def test_limit_grows_with_the_template() -> None:
    assert limit("x" * 100) - limit("") == 1000


def test_filters_of_texts() -> None:
    assert decode(encode("ä")) == "ä"
    assert quote('a"b\\c') == '"a\\"b\\\\c"'
    with pytest.raises(ValueError, match="is not base64 of text"):
        decode("/w==")
