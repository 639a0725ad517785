"""Jinja in the process that its templates may bring down."""

from __future__ import annotations

import pytest

from harness import templates
from harness.templates import jinja
from harness.templates.job import Job

ENV = {"Port": "8443"}

FOREVER = "{% set l = range(99999) | list %}{% for a in l %}{% for b in l %}{% endfor %}{% endfor %}"
MEMORY = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
CRASH = "{{ [1] | batch(10 ** 10, 'x') | list }}"


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        (FOREVER, "it takes more time or memory than a template may"),
        (MEMORY, "it takes more memory than a template may"),
        (CRASH, "it takes more memory than a template may"),
    ],
    ids=["time", "memory", "list"],
)
def test_render_all_with_bomb_reports_fault_and_renders_other_templates(monkeypatch: pytest.MonkeyPatch, bomb: str, reason: str) -> None:
    # An ordinary template takes milliseconds.
    monkeypatch.setattr(jinja, "SECONDS", 2)
    texts = ["a: {{ Port }}", bomb, "b: {{ Port }}", "\n{{ None1 }}"]
    first, broken, second, undefined = templates.render_all([Job(text, ENV, f"{index}.j2") for index, text in enumerate(texts)])
    assert (first, second) == ("a: 8443", "b: 8443")
    assert not isinstance(broken, str)
    assert [(fault.where, fault.message) for fault in broken] == [("1.j2:1", reason)]
    assert not isinstance(undefined, str)
    assert [(fault.where, fault.message) for fault in undefined] == [("3.j2:2", "None1 is not defined")]


def test_render_all_more_jobs_than_one_process_takes_keeps_order() -> None:
    jobs = [Job(f"{number} {{{{ Port }}}}", ENV, "a.j2") for number in range(40)]
    assert templates.render_all(jobs) == [f"{number} 8443" for number in range(40)]


def test_render_text_with_any_line_break_comes_back_whole() -> None:
    text = "a\u2028b\x85c\x1cd\r\n{{ Port }}\r\n"
    assert templates.render(text, ENV, "a.j2") == text.replace("{{ Port }}", "8443")
