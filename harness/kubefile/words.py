"""Words and variables as a Dockerfile reads them: quotes, escapes, ``$NAME``, ``${NAME:-default}``.

Follows the published Dockerfile reference, so that what an author knows of Dockerfiles holds for Kubefiles.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Collection, Mapping

from harness import process

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]")
LONGEST = process.LONGEST_ARGUMENT
"""Characters that the variables of a word or command may stand for. A value that names itself twice doubles with each line."""
_DEEPEST = 50
"""Levels of ``${A:-${B:-...}}``."""

_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)|([A-Za-z_][A-Za-z0-9_]*))")


@dataclasses.dataclass(frozen=True)
class Expansion:
    """A word after expansion, its quotes removed; ``undefined`` are the undefined names in it, in order."""

    text: str
    undefined: tuple[str, ...]


def split(text: str, escape: str = "\\") -> list[str]:
    """The words of a line, apart at blanks outside quotes. Quotes and escapes stay in the words, for ``expand`` to resolve."""
    words: list[str] = []
    begin, quote, position = -1, "", 0
    while position < len(text):
        char = text[position]
        if not quote and char.isspace():
            if begin >= 0:
                words.append(text[begin:position])
            begin = -1
            position += 1
            continue
        if begin < 0:
            begin = position
        if char == escape and quote != "'" and position + 1 < len(text):
            position += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        position += 1
    return [*words, text[begin:]] if begin >= 0 else words


def expand(word: str, values: Mapping[str, str], escape: str = "\\") -> Expansion:
    """Replace variables and remove quotes: single quotes keep all, double quotes keep blanks, ``escape`` keeps the next character.

    Raises ValueError for an unfinished ``${``, an unknown modifier, the message of ``${NAME:?message}``, and a text that gets too long.
    """
    reader = _WordReader(word, values, escape)
    text = reader.read("")
    return Expansion(text, tuple(dict.fromkeys(reader.undefined)))


def expand_document(text: str, values: Mapping[str, str], escape: str = "\\") -> Expansion:
    """Replace the variables of a here-document. Quotes and escapes stay; an escaped ``$`` is no variable.

    Raises ValueError as ``expand``.
    """
    reader = _WordReader(text, values, escape)
    expanded = reader.read_document()
    return Expansion(expanded, tuple(dict.fromkeys(reader.undefined)))


def _too_long(text: str) -> ValueError:
    return ValueError(f"{text[:80]}{'...' if len(text) > 80 else ''}: its variables stand for more than {LONGEST} characters")


class _WordReader:
    def __init__(self, text: str, values: Mapping[str, str], escape: str) -> None:
        self.text = text
        self.values = values
        self.escape = escape
        self.position = 0
        self.undefined: list[str] = []
        self._depth = 0
        self._taken = 0

    def _next(self) -> str:
        char = self.text[self.position : self.position + 1]
        self.position += 1
        return char

    def read(self, end: str) -> str:
        """Up to ``end`` (consumed), or to the end of the text when ``end`` is empty."""
        parts: list[str] = []
        while self.position < len(self.text):
            char = self._next()
            if end and char == end:
                return "".join(parts)
            if char == "'":
                parts.append(self._quoted())
            elif char == '"':
                parts.append(self._double_quoted())
            elif char == "$":
                parts.append(self._variable())
            else:
                parts.append(self._next() if char == self.escape else char)
        if end:
            raise ValueError(f"{self.text}: '{end}' is missing")
        return "".join(parts)

    def read_document(self) -> str:
        """All of the text, with quotes as characters like others."""
        parts: list[str] = []
        while self.position < len(self.text):
            char = self._next()
            if char == "$":
                parts.append(self._variable())
            else:
                parts.append(char + self._next() if char == self.escape else char)
        return "".join(parts)

    def _quoted(self) -> str:
        close = self.text.find("'", self.position)
        if close < 0:
            raise ValueError(f"{self.text}: a single quote is not closed")
        quoted = self.text[self.position : close]
        self.position = close + 1
        return quoted

    def _double_quoted(self) -> str:
        parts: list[str] = []
        while self.position < len(self.text):
            char = self._next()
            if char == '"':
                return "".join(parts)
            if char == "$":
                parts.append(self._variable())
            elif char == self.escape:
                after = self._next()
                parts.append(after if after in ('"', "$", self.escape) else char + after)
            else:
                parts.append(char)
        raise ValueError(f"{self.text}: a double quote is not closed")

    def _variable(self) -> str:
        braced = self.text.startswith("{", self.position)
        name = _NAME.match(self.text, self.position + braced)
        if name is None:
            if braced:
                raise ValueError(f"{self.text}: no variable name after '${{'")
            return "$"
        self.position = name.end()
        return self._braced(name[0]) if braced else self._plain(name[0])

    def _plain(self, name: str) -> str:
        if name not in self.values:
            self.undefined.append(name)
        return self._value(name)

    def _value(self, name: str) -> str:
        value = self.values.get(name, "")
        self._taken += len(value)
        if self._taken > LONGEST:
            raise _too_long(self.text)
        return value

    def _braced(self, name: str) -> str:
        char = self._next()
        if char == "}":
            return self._plain(name)
        counts_empty = char == ":"
        if counts_empty:
            char = self._next()
        if not char:
            raise ValueError(f"{self.text}: '}}' is missing")
        if char not in ("-", "+", "?"):
            raise ValueError(f"{self.text}: after ${{{name} only }} :- :+ :? may stand")
        value = self.values.get(name)
        present = bool(value) if counts_empty else value is not None
        # The part that is not taken is read all the same, but what is undefined in it does not matter.
        undefined_before = len(self.undefined)
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError(f"{self.text[:80]}: more than {_DEEPEST} variables within each other")
        alternative = self.read("}")
        self._depth -= 1
        if present == (char != "+"):
            del self.undefined[undefined_before:]
        if char == "+":
            return alternative if present else ""
        if present:
            return self._value(name)
        if char == "?":
            raise ValueError(f"{name} is not set: {alternative or 'it must be'}")
        return alternative


def json_list(text: str) -> list[str] | None:
    """The strings of a JSON list, or None when the text may be something else, such as ``[ -f x ]``.

    Raises ValueError for a text that begins with ``["`` and is not a valid list.
    """
    if not text.startswith("["):
        return None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as wrong:
        if re.match(r'\[(\s*\]|")', text):
            raise ValueError(f"not a JSON list: {wrong.msg} at character {wrong.pos + 1}") from wrong
        return None
    except RecursionError as wrong:
        raise ValueError("a JSON list must hold strings only") from wrong
    if not all(isinstance(item, str) for item in value):
        raise ValueError("a JSON list must hold strings only")
    if any("\0" in item for item in value):
        raise ValueError("a NUL character in a JSON list")
    return list(value)


def substitute(command: str, values: Mapping[str, str]) -> str:
    """Write ``values`` into a shell command where it names them, quoted as the place asks; every other variable is the shell's.

    Nothing is changed in single quotes or after a backslash, as in the shell itself. Raises ValueError for a ``${NAME%...}`` of one of
    ``values``: what the shell would do to it cannot be done here; and for a command that gets too long.
    """
    parts: list[str] = []
    position, double, size = 0, False, 0
    while position < len(command):
        char = command[position]
        if char == "\\":
            parts.append(command[position : position + 2])
            position += 2
            continue
        if char == "'" and not double:
            close = command.find("'", position + 1)
            close = len(command) - 1 if close < 0 else close
            parts.append(command[position : close + 1])
            position = close + 1
            continue
        if char == '"':
            double = not double
        reference = _REFERENCE.match(command, position) if char == "$" else None
        if reference and (reference[1] or reference[2]) in values:
            end = reference.end() if reference[2] else _closing_brace(command, reference.end())
            value = expand(command[position:end], values).text
            size += len(value)
            if size > LONGEST:
                raise _too_long(command)
            parts.append(_for_double_quotes(value) if double else " ".join(shlex.quote(word) for word in value.split()))
            position = end
            continue
        parts.append(char)
        position += 1
    return "".join(parts)


def referenced(command: str, names: Collection[str]) -> frozenset[str]:
    """The subset of ``names`` that a shell command takes the value of, by the rules of ``substitute``."""
    noted = _NotedNames(names)
    substitute(command, noted)
    return frozenset(noted.noted)


class _NotedNames(dict[str, str]):
    """Values of nothing, which note what they are asked for."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names
        self.noted: set[str] = set()

    def __contains__(self, name: object) -> bool:
        if name in self.names:
            self.noted.add(str(name))
        return False


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    while position < len(text) and depth:
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        position += 1
    return position


def _for_double_quotes(value: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", value)
