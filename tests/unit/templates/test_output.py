"""The output of a template: its limit and its lines."""

from __future__ import annotations

import pytest

from harness.templates import jinja
from harness.templates.output import LimitedOutput, LineNumbers, TooMuchError, shortened


def test_line_numbers_growing_positions_are_counted() -> None:
    lines = LineNumbers("a\nb\n\nc")
    assert [lines.at(position) for position in (0, 1, 2, 4, 5)] == [1, 1, 2, 3, 4]


def test_limited_output_beyond_limit_is_refused() -> None:
    output = LimitedOutput("x")
    output.add("a" * jinja.limit("x"))
    assert len(str(output)) == output.limit
    with pytest.raises(TooMuchError, match=f"more than {output.limit} characters"):
        output.add("b")


def test_shortened_long_text_ends_with_ellipsis() -> None:
    assert shortened("a" * 120) == "a" * 120
    assert shortened("a" * 121) == "a" * 120 + "..."
