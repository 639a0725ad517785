"""Bars of sizes."""

from __future__ import annotations

from harness.website.picture import WIDTH, SizedPart, bar


def test_segments_fill_the_bar_by_size() -> None:
    made = bar([SizedPart("a", "sha256:a", 1), SizedPart("b", "sha256:b", 3)])
    assert [(one.x, one.width, one.share) for one in made.segments] == [(0, WIDTH / 4, "25 %"), (WIDTH / 4, 3 * WIDTH / 4, "75 %")]
    assert (made.total, made.size) == (4, "4 B")


def test_a_small_part_is_not_nothing() -> None:
    assert bar([SizedPart("a", "", 1), SizedPart("b", "", 999)]).segments[0].share == "<1 %"


def test_empty_parts_have_no_width() -> None:
    assert [(one.x, one.width, one.share) for one in bar([SizedPart("a", "", 0)]).segments] == [(0, 0, "0 %")]
    assert bar([]).segments == ()


def test_colours_repeat() -> None:
    assert [one.colour for one in bar([SizedPart("a", "", 1)] * 10).segments] == [*range(8), 0, 1]
