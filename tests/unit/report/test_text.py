"""Texts of a report: cut, and without secrets and colours."""

from __future__ import annotations

from harness import log
from harness.report import text


def test_clean_replaces_secrets_and_removes_colours_only() -> None:
    log.hide("open-sesame")
    assert text.clean("\x1b[1;31mpassword: hunter2hunter2\x1b[0m", 1000) == "password: ***"
    assert text.clean("said open-sesame twice", 1000) == "said *** twice"
    assert text.clean("\x1b[32mok\x1b[0m \x1b[2J", 1000) == "ok \x1b[2J"


def test_clean_long_text_keeps_begin_and_end() -> None:
    shown = text.clean("a" * 100 + "b" * 100, 60)
    assert shown == f"{'a' * 40}\n... 140 characters left out ...\n{'b' * 20}"


def test_clean_secret_that_a_cut_would_divide_is_replaced_first() -> None:
    shown = text.clean("x" * 30 + "\nDB_PASSWORD=hunter2hunter2hunter2\n" + "y" * 200, 60)
    assert "hunter" not in shown


def test_clean_enormous_text_is_cut_before_it_is_read() -> None:
    assert len(text.clean("x" * (8 << 20), 100)) < 200


def test_last_lines_keeps_end_of_log_and_counts_rest() -> None:
    block = text.last_lines("kubelet", "\n".join(f"line {number}" for number in range(10)), 3, 1000)
    assert (block.title, block.text, block.left_out) == ("kubelet", "line 7\nline 8\nline 9", 7)


def test_last_lines_within_size_begins_at_line_and_keeps_one() -> None:
    assert text.last_lines("x", "first\nsecond\nthird", 10, 13).text == "second\nthird"
    long = text.last_lines("x", "z" * 5000, 10, 100)
    assert long.text == f"{'z' * 1000}... (4000 characters more)"


def test_last_lines_of_enormous_log_reads_end_only_and_counts_all_lines() -> None:
    block = text.last_lines("kubelet", "a line of a log\n" * (1 << 20), 3, 1000)
    assert (block.text, block.left_out) == ("a line of a log\na line of a log\na line of a log", (1 << 20) - 3)


def test_last_lines_of_empty_log_is_empty() -> None:
    assert (text.last_lines("x", "", 10, 100).text, text.last_lines("x", "", 10, 100).left_out) == ("", 0)
