"""Templates of pages: what is escaped, and what the policy of a page allows."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import jinja2
import pytest

from harness.website import markup


def rendered(folder: Path, template: str, text: object, *, longest: int = markup.LONGEST) -> str:
    (folder / "page.html").write_text(template)
    return markup.environment(folder, "p { color: red }", longest=longest).get_template("page.html").render(text=text)


def test_environment_escapes_markup_control_characters_and_bidirectional_marks(tmp_path: Path) -> None:
    text = rendered(tmp_path, "<p>{{ text }}</p>", "<b>\x1b[31m\u202e{{ 7*7 }}\n\tline")
    assert text == "<p>&lt;b&gt;\\x1b[31m\\u202e{{ 7*7 }}\n\tline</p>"


def test_environment_cuts_long_text_and_counts_rest(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{{ text }}", "x" * 12, longest=10) == f"{'x' * 10}... (2 characters more)"


def test_environment_missing_value_is_error_and_none_is_empty(tmp_path: Path) -> None:
    assert rendered(tmp_path, "[{{ text }}]", None) == "[]"
    with pytest.raises(jinja2.UndefinedError):
        rendered(tmp_path, "{{ other }}", "")


def test_environment_style_of_package_is_not_escaped_and_named_by_policy(tmp_path: Path) -> None:
    text = rendered(tmp_path, "<style>{{ style }}</style>{{ policy }}", "")
    assert "<style>p { color: red }</style>" in text
    assert base64.b64encode(hashlib.sha256(b"p { color: red }").digest()).decode() in text


def test_policy_without_script_allows_no_script() -> None:
    assert "script" not in markup.policy("p {}")
    assert "script-src 'sha256-" in markup.policy("p {}", "1;")
    for text in (markup.policy("p {}"), markup.policy("p {}", "1;")):
        assert text.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in text


def test_breakable_name_is_escaped_and_broken_behind_slashes(tmp_path: Path) -> None:
    assert rendered(tmp_path, "{{ text | breakable }}", "a/<b>/\u202e") == "a/<wbr>&lt;b&gt;/<wbr>\\u202e"
