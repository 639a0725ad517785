"""Words and variables, by the rules of the Dockerfile reference."""

from __future__ import annotations

import pytest

from harness.kubefile import words

VALUES = {"A": "1", "B": "two words", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", ["a", "b"]),
        ("  a \t b  ", ["a", "b"]),
        ('a "b c" d', ["a", '"b c"', "d"]),
        ("a 'b c'", ["a", "'b c'"]),
        ('k="v w"x y', ['k="v w"x', "y"]),
        (r"a\ b c", [r"a\ b", "c"]),
        (r"'a\' b", [r"'a\'", "b"]),
        ("", []),
    ],
)
def test_split_separates_words_and_keeps_quotes(text: str, expected: list[str]) -> None:
    assert words.split(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("$A", "1"),
        ("${A}x", "1x"),
        ("$Ax", ""),
        ("x$A/$A", "x1/1"),
        ("${B}", "two words"),
        ("'$A'", "$A"),
        ('"$A b"', "1 b"),
        (r"\$A", "$A"),
        (r'"\$A"', "$A"),
        (r'"a\b"', r"a\b"),
        (r"a\b", "ab"),
        ("a$", "a$"),
        ("$-", "$-"),
        ("${A:-d}", "1"),
        ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${NONE-d}", "d"),
        ("${A:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NONE:+x}", ""),
        ("${NONE:-${A}}", "1"),
        ("${NONE:-a}b}", "ab}"),
        ("${NONE:-'a}'}", "a}"),
        ("${A:?must}", "1"),
        ("${NONE:-/opt/x}/y", "/opt/x/y"),
    ],
)
def test_expand_follows_dockerfile_rules(word: str, expected: str) -> None:
    assert words.expand(word, VALUES).text == expected


def test_expand_with_backtick_escape_keeps_backslash() -> None:
    assert words.expand(r"C:\dir\$A `$A", VALUES, "`").text == r"C:\dir\1 $A"


@pytest.mark.parametrize(
    ("word", "undefined"),
    [
        ("$NONE$NONE$OTHER", ("NONE", "OTHER")),
        ("${NONE:-$OTHER}", ("OTHER",)),
        ("${A:-$OTHER}", ()),
        ("${NONE:+$OTHER}", ()),
        ("'$NONE'", ()),
    ],
)
def test_expand_reports_undefined_names(word: str, undefined: tuple[str, ...]) -> None:
    assert words.expand(word, VALUES).undefined == undefined


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("${A", "'}' is missing"),
        ("${A:-x", "'}' is missing"),
        ("${A:=x}", "may stand"),
        ("${A%x}", "may stand"),
        ("${}", "no variable name"),
        ("'a", "not closed"),
        ('"a', "not closed"),
        ("${NONE:?say it}", "NONE is not set: say it"),
    ],
)
def test_expand_invalid_word_raises_value_error(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words.expand(word, VALUES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["a", "b c"]', ["a", "b c"]),
        ("[]", []),
        ("a b", None),
        ("[ -f x ] && y", None),
        ('[ "$A" = 1 ] || y', None),
        ("[ab].yaml d/", None),
    ],
)
def test_json_list_parses_json_and_returns_none_for_other_text(text: str, expected: list[str] | None) -> None:
    assert words.json_list(text) == expected


@pytest.mark.parametrize("text", ['["a"', '["a",]', "['a']x[", '["a", 1]', '["a"] b', "[1]"])
def test_json_list_of_malformed_json_raises_value_error(text: str) -> None:
    if text.startswith("['"):
        assert words.json_list(text) is None
    else:
        with pytest.raises(ValueError, match="JSON"):
            words.json_list(text)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("echo $A ${A} $NONE ${NONE:-x}", "echo 1 1 $NONE ${NONE:-x}"),
        ("echo '$A' \\$A", "echo '$A' \\$A"),
        ('echo "v$A"', 'echo "v1"'),
        ("helm $B", "helm two words"),
        ('helm "$B"', 'helm "two words"'),
        ("echo ${EMPTY:-${A}}", "echo 1"),
        ("awk '{print $1}' x$A", "awk '{print $1}' x1"),
        ("it's $A", "it's $A"),
    ],
)
def test_substitute_keeps_shell_syntax_and_unknown_names(command: str, expected: str) -> None:
    assert words.substitute(command, VALUES) == expected


def test_substitute_quotes_shell_metacharacters() -> None:
    values = {"X": 'a;b $(c) "d" `e`'}
    assert words.substitute("echo $X", values) == "echo 'a;b' '$(c)' '\"d\"' '`e`'"
    assert words.substitute('echo "$X"', values) == 'echo "a;b \\$(c) \\"d\\" \\`e\\`"'


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("$A" * 3, "stand for more than"),
        ("${A:-x}" * 3, "stand for more than"),
        ("${B:-" * 3000 + "}" * 3000, "within each other"),
    ],
    ids=["plain", "default", "nested"],
)
def test_expand_over_length_or_depth_limit_raises_value_error(word: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        words.expand(word, {"A": "x" * (words.LONGEST // 2)})


def test_substitute_over_length_limit_raises_value_error() -> None:
    with pytest.raises(ValueError, match="stand for more than"):
        words.substitute("$A " * 3, {"A": "x" * (words.LONGEST // 2)})


def test_expand_and_substitute_accept_long_text_without_variables() -> None:
    text = "x" * (words.LONGEST + 1)
    assert words.expand(text, {}).text == text
    assert words.substitute(text, {"A": "b"}) == text


def test_json_list_deeply_nested_raises_value_error() -> None:
    with pytest.raises(ValueError, match="strings only"):
        words.json_list("[" * 100_000)


def test_referenced_returns_only_expanded_names() -> None:
    command = """echo $A ${B:-$C} '$D' \\$E "$F" $G$Other"""
    assert words.referenced(command, set("ABCDEFGH")) == frozenset("ABCFG")
