"""Text of others on a terminal."""

from __future__ import annotations

from harness import untrusted


def test_shown_escapes_control_characters() -> None:
    assert untrusted.shown("a\x1b[31m\u202eb\n\udc80é") == "a\\x1b[31m\\u202eb\\n\\udc80é"
    assert untrusted.shown("a\tb\nc\r", lines=True) == "a\tb\nc\\r"


def test_uncoloured_removes_colours_only() -> None:
    assert untrusted.uncoloured("\x1b[1;31mred\x1b[0m \x1b[2J\x1b]0;title") == "red \x1b[2J\x1b]0;title"
