"""Errors: what several faults of one kind read as."""

from __future__ import annotations

from harness import errors


def test_summary_of_one_part_is_that_part_without_details() -> None:
    assert errors.summary(["a"]) == ("a", None)


def test_summary_of_several_parts_counts_others_and_lists_all() -> None:
    assert errors.summary(["a", "b", "c"]) == ("a and 2 more", "a\nb\nc")
