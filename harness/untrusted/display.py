"""Text that comes from outside, as it may stand in a message, in a log or on a terminal."""

from __future__ import annotations

import re
import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def uncoloured(text: str) -> str:
    """Remove the sequences that only colour a text; all others stay, and are escaped where the text is shown."""
    return _COLOURS.sub("", text)


def message(what: str, problem: str) -> str:
    return f"{what}: {problem}" if what else problem


def shown(text: str, *, lines: bool = False) -> str:
    """``text`` for a terminal or a log: control characters, bidirectional marks and lone surrogates are escaped.

    Line feeds and tabs stay with ``lines``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _harmless(character) or (lines and character in "\n\t") else _escaped(character) for character in text)


def _harmless(character: str) -> bool:
    return character not in _BIDI and unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
