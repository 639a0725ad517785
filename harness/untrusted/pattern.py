"""Regular expressions that come from outside, matched in time that their author cannot choose.

Python's ``re`` tries one way after the other, so ``(a+)+$`` takes an hour for forty letters. Here all positions that a part can end at are
followed together, and the work is counted.

The language is what JSON Schema recommends of ECMA-262: letters, ``.``, ``[a-z]``, ``\\d \\w \\s`` (ASCII), ``( )``, ``(?: )``, ``|``,
``* + ? {m,n}``, and ``^ $``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

LONGEST = 1000
"""Characters of a pattern."""
LONGEST_TEXT = 64 << 10
"""Characters of a text."""
_MOST_REPEATS = 1000
_DEEPEST = 20
_WORK = 2_000_000
"""Characters that a match may look at."""

_Test = Callable[[str], bool]
_DIGITS = frozenset("0123456789")
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_") | _DIGITS
_SPACE = frozenset(" \t\n\r\f\v\u00a0\ufeff\u2028\u2029")
_SETS: dict[str, frozenset[str]] = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}


@dataclasses.dataclass(frozen=True)
class _One:
    """One character."""

    accepts: _Test


@dataclasses.dataclass(frozen=True)
class _Anchor:
    end: bool


@dataclasses.dataclass(frozen=True)
class _Sequence:
    parts: tuple[_Node, ...]


@dataclasses.dataclass(frozen=True)
class _Choice:
    parts: tuple[_Node, ...]


@dataclasses.dataclass(frozen=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _One | _Anchor | _Sequence | _Choice | _Repeat


class Pattern:
    """A regular expression. Raises ValueError for one that is not valid, or that is not in the language above."""

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ValueError(f"is longer than {LONGEST} characters")
        self.text = text
        self._node = _Parser(text).parse()

    def matches(self, text: str) -> bool:
        """Return True when the pattern matches somewhere in ``text``, as JSON Schema means it.

        Raises ValueError for a text that is too long for this pattern.
        """
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"is longer than {LONGEST_TEXT} characters")
        return bool(_Match(text).ends(self._node, frozenset(range(len(text) + 1))))


class _Match:
    def __init__(self, text: str) -> None:
        self._text = text
        self._work = _WORK

    def ends(self, node: _Node, starts: frozenset[int]) -> frozenset[int]:
        """Every position at which ``node`` can end when it begins at one of ``starts``."""
        self._work -= len(starts) + 1
        if self._work < 0:
            raise ValueError("is too long for its pattern")
        if isinstance(node, _One):
            text = self._text
            return frozenset(at + 1 for at in starts if at < len(text) and node.accepts(text[at]))
        if isinstance(node, _Anchor):
            return starts & {len(self._text) if node.end else 0}
        if isinstance(node, _Sequence):
            for part in node.parts:
                if not starts:
                    break
                starts = self.ends(part, starts)
            return starts
        if isinstance(node, _Choice):
            return frozenset().union(*(self.ends(part, starts) for part in node.parts))
        return self._repeated(node, starts)

    def _repeated(self, node: _Repeat, starts: frozenset[int]) -> frozenset[int]:
        for _ in range(node.least):
            starts = self.ends(node.part, starts)
        reached, fresh, count = starts, starts, node.least
        # A position that was reached with fewer repeats can do all that it can do with more.
        while fresh and (node.most is None or count < node.most):
            fresh = self.ends(node.part, fresh) - reached
            reached |= fresh
            count += 1
        return reached


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def parse(self) -> _Node:
        node = self._choice()
        if self._at < len(self._text):
            raise ValueError("has a ) without (")
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        letter = self._peek()
        if not letter:
            raise ValueError("ends too early")
        self._at += 1
        return letter

    def _choice(self) -> _Node:
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Choice(tuple(parts))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _atom(self) -> _Node:
        letter = self._take()
        if letter in "^$":
            return _Anchor(letter == "$")
        if letter == "(":
            return self._group()
        if letter == "[":
            return _One(self._class())
        if letter == ".":
            return _One(lambda other: other not in "\n\r\u2028\u2029")
        if letter == "\\":
            escaped = self._escape()
            return _One(escaped if callable(escaped) else escaped.__eq__)
        if letter in "*+?{}]":
            raise ValueError(f"has a {letter} that belongs to nothing; write \\{letter}")
        return _One(letter.__eq__)

    def _group(self) -> _Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("is nested too deeply")
        if self._peek() == "?":
            if not self._text.startswith("?:", self._at):
                raise ValueError("has a (? that is not (?: and not supported")
            self._at += 2
        node = self._choice()
        if self._peek() != ")":
            raise ValueError("lacks a )")
        self._at += 1
        self._depth -= 1
        return node

    def _quantified(self, node: _Node) -> _Node:
        letter = self._peek()
        bounds = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(letter)
        if bounds is not None:
            self._at += 1
        elif letter == "{":
            bounds = self._braces()
        if bounds is None:
            return node
        if isinstance(node, _Anchor):
            raise ValueError("repeats an anchor")
        if self._peek() in ("*", "+", "?", "{"):
            raise ValueError(f"has a {self._peek()} after a repetition")
        return _Repeat(node, *bounds)

    def _braces(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        first, comma, last = self._text[self._at + 1 : max(end, self._at + 1)].partition(",")
        if end < 0 or not (first.isascii() and first.isdigit()) or not (last == "" or (last.isascii() and last.isdigit())):
            raise ValueError("has a { that is not {m}, {m,} or {m,n}; write \\{")
        if len(first) > 4 or len(last) > 4 or max(int(first), int(last or 0)) > _MOST_REPEATS:
            raise ValueError(f"repeats more than {_MOST_REPEATS} times")
        self._at = end + 1
        least, most = int(first), int(last) if last else None if comma else int(first)
        if most is not None and most < least:
            raise ValueError(f"repeats at least {least} and at most {most} times")
        return least, most

    def _escape(self) -> str | _Test:
        """A character, or a test for a set of them."""
        letter = self._take()
        if letter.lower() in _SETS:
            characters = _SETS[letter.lower()]
            return characters.__contains__ if letter.islower() else lambda other: other not in characters
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter.isalnum():
            raise ValueError(f"has \\{letter}, which is not supported")
        return letter

    def _class(self) -> _Test:
        negative = self._peek() == "^"
        self._at += negative
        letters: set[str] = set()
        ranges: list[tuple[str, str]] = []
        tests: list[_Test] = []
        while self._peek() != "]":
            first = self._member()
            if callable(first):
                tests.append(first)
            elif self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                self._at += 1
                last = self._member()
                if callable(last) or last < first:
                    raise ValueError("has a range that is not one")
                ranges.append((first, last))
            else:
                letters.add(first)
        self._at += 1

        def accepts(letter: str) -> bool:
            inside = letter in letters or any(low <= letter <= high for low, high in ranges) or any(test(letter) for test in tests)
            return inside != negative

        return accepts

    def _member(self) -> str | _Test:
        letter = self._take()
        return self._escape() if letter == "\\" else letter
