"""Regular expressions that come from outside."""

from __future__ import annotations

import pytest

from harness.untrusted import Pattern


@pytest.mark.parametrize(
    ("pattern", "accepted", "refused"),
    [
        ("", ["", "x"], []),
        ("b", ["abc"], ["", "a", "B"]),
        ("^[a-z]+$", ["abc"], ["", "a1", "A", "a\n"]),
        ("^(?:a|bc)*d?$", ["", "abcad", "d"], ["b", "dd"]),
        (r"^\d{2,3}$", ["12", "123"], ["1", "1234", "x"]),
        (r"^\w{2}\W\S\s\D$", ["ab-x a"], ["ab-x 1"]),
        ("^a{2}$", ["aa"], ["a", "aaa"]),
        ("^a{2,}$", ["aa", "aaaaa"], ["a"]),
        ("^.+@[^@]+$", ["a@b"], ["a@", "a\n@b@"]),
        (r"^[\w.\-\]]+$", ["a.b-]"], ["a b"]),
        (r"^a\.b\n$", ["a.b\n"], ["axb\n"]),
        ("^[^a-c]$", ["d"], ["b"]),
        ("^[a-]$", ["-", "a"], ["b"]),
        ("^(a*)*$", ["aaa", ""], ["b"]),
        ("^(a|)$", ["", "a"], ["aa"]),
        ("^(a{0,2}){2}$", ["", "aaaa"], ["aaaaa"]),
    ],
)
def test_pattern_matches_like_json_schema(pattern: str, accepted: list[str], refused: list[str]) -> None:
    compiled = Pattern(pattern)
    assert [text for text in accepted if not compiled.matches(text)] == []
    assert [text for text in refused if compiled.matches(text)] == []


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "^(a*a*)*b$", "((((a*)*)*)*)*b", "(.*)*x", "^a*a*a*a*a*a*a*a*b$"])
def test_pattern_backtracking_bomb_ends_without_match(pattern: str) -> None:
    assert not Pattern(pattern).matches("a" * 60 + "c")


def test_pattern_text_needing_too_much_work_is_refused() -> None:
    with pytest.raises(ValueError, match="is too long for its pattern"):
        Pattern("(?:(?:a?){1000}){1000}b").matches("a" * 100)
    with pytest.raises(ValueError, match="is longer than 65536 characters"):
        Pattern("a").matches("a" * 70_000)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("a" * 1001, "is longer than 1000"),
        ("(", r"lacks a \)"),
        (")", r"has a \) without"),
        ("[a", "ends too early"),
        ("a\\", "ends too early"),
        ("*a", r"has a \* that belongs to nothing"),
        ("a**", r"has a \* after a repetition"),
        ("a+?", r"has a \? after a repetition"),
        ("a{x}", r"has a \{ that is not"),
        ("a{", r"has a \{ that is not"),
        ("a{1001}", "repeats more than 1000 times"),
        ("a{99999999999}", "repeats more than 1000 times"),
        ("a{3,2}", "repeats at least 3 and at most 2"),
        ("^*", "repeats an anchor"),
        ("(?=a)", r"has a \(\? that is not"),
        (r"\b", r"has \\b, which is not supported"),
        (r"(a)\1", r"has \\1, which is not supported"),
        (r"\p{L}", r"has \\p, which is not supported"),
        ("[z-a]", "has a range that is not one"),
        ("[a-\\d]", "has a range that is not one"),
        ("(" * 100, "is nested too deeply"),
    ],
)
def test_pattern_unsupported_syntax_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Pattern(pattern)
