"""The name of a file after rendering."""

from __future__ import annotations

import pytest

from harness.templates.job import output_name


@pytest.mark.parametrize(
    ("path", "name"), [("a.yaml", "a.yaml"), ("a.yaml.tmpl", "a.yaml"), ("d/a.j2", "d/a"), ("a.tmpl.j2", "a.tmpl"), (".tmpl", "")]
)
def test_output_name_template_suffix_is_removed(path: str, name: str) -> None:
    assert output_name(path) == name
