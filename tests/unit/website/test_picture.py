"""Bars of sizes."""

from __future__ import annotations

from harness.website.picture import WIDTH, SizedPart, bar


def test_bar_segments_are_proportional_to_size() -> None:
    made = bar([SizedPart("a", "sha256:a", 1), SizedPart("b", "sha256:b", 3)])
    assert [(one.x, one.width, one.share) for one in made.segments] == [(0, WIDTH / 4, "25 %"), (WIDTH / 4, 3 * WIDTH / 4, "75 %")]
    assert (made.total, made.size) == (4, "4 B")


def test_bar_small_part_shows_less_than_one_percent() -> None:
    assert bar([SizedPart("a", "", 1), SizedPart("b", "", 999)]).segments[0].share == "<1 %"


def test_bar_empty_parts_have_zero_width() -> None:
    assert [(one.x, one.width, one.share) for one in bar([SizedPart("a", "", 0)]).segments] == [(0, 0, "0 %")]
    assert bar([]).segments == ()


def test_bar_colours_repeat_after_eight_segments() -> None:
    assert [one.colour for one in bar([SizedPart("a", "", 1)] * 10).segments] == [*range(8), 0, 1]
