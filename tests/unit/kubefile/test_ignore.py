from pathlib import Path

import pytest

from harness.errors import InputError
from harness.kubefile import ignore


def excluded(lines: str, path: str) -> bool:
    return ignore.parse(lines.splitlines(), ".dockerignore").excluding(path) is not None


@pytest.mark.parametrize(
    ("lines", "path", "outcome"),
    [
        ("secret", "secret", True),
        ("secret", "secret/id", True),
        ("/secret/", "secret/id", True),
        ("./secret", "secret/id", True),
        ("secret", "a/secret", False),
        ("**/secret", "a/b/secret/id", True),
        ("**/secret", "secret", True),
        ("*/secret", "a/secret", True),
        ("*/secret", "a/b/secret", False),
        ("*.key", "a.key", True),
        ("*.key", "a/b.key", False),
        ("**/*.key", "a/b/c.key", True),
        ("**.key", "a/b/c.key", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/x/y/c", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("a[bc]d", "acd", True),
        ("a[^b]e", "abe", False),
        ("a[^b]d", "a/d", False),
        (r"a\*", "a*", True),
        (r"a\*", "ab", False),
        ("a.b", "axb", False),
        ("# comment", "# comment", False),
        (" # x", "# x", True),
        ("*\n!keep", "keep", False),
        ("*\n!keep", "keep/below", False),
        ("*\n!keep", "other", True),
        ("secret\n!secret/public", "secret/public", False),
        ("secret\n!secret/public", "secret/id", True),
        ("!secret/id\nsecret", "secret/id", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\n!README*.md\nREADME-secret.md", "README-public.md", False),
        ("..", "a", False),
        ("a**b", "a/x/b", True),
        ("a**b", "ab", True),
        ("a**b.c?", "ax/y/b.cd", True),
        ("a**b.c", "abxc", False),
        ("a**", "abc/d", True),
    ],
)
def test_excluding_pattern_decides_as_docker(lines: str, path: str, outcome: bool) -> None:
    assert excluded(lines, path) is outcome


def test_excluding_returns_deciding_rule() -> None:
    rule = ignore.parse(["a", "", "**/b"], ".dockerignore").excluding("x/b/c")
    assert rule is not None
    assert rule.where == ".dockerignore:3"


def test_parse_invalid_patterns_are_all_reported() -> None:
    with pytest.raises(InputError) as caught:
        ignore.parse(["!", "a[b", "ok", "a\\", "[z-a]"], ".dockerignore")
    assert [fault.where for fault in caught.value.faults] == [f".dockerignore:{line}" for line in (1, 2, 4, 5)]


def test_excluding_many_stars_ends() -> None:
    assert not excluded("/".join(["**"] * 200) + "/x", "a/" * 100 + "b")
    assert not excluded("**/a/" * 8 + "x", "a/" * 40 + "b")
    with pytest.raises(InputError, match="within a name"):
        excluded("a**" * 30 + "b", "a" * 100)


def test_read_prefers_slipwayignore_and_strips_byte_order_mark(tmp_path: Path) -> None:
    assert ignore.read(tmp_path).rules == ()
    (tmp_path / ".dockerignore").write_text("a\n")
    assert ignore.read(tmp_path).excluding("a")
    (tmp_path / ".slipwayignore").write_text("\ufeffb\r\n")
    assert ignore.read(tmp_path).excluding("b")
    assert not ignore.read(tmp_path).excluding("a")


def test_read_file_not_utf8_raises_input_error(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        ignore.read(tmp_path)
