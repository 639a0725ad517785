"""Go templates: a reader of their own, small because there are only strings.

Translated into Jinja, text that only Jinja marks would change.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from harness.errors import Fault
from harness.templates import jinja
from harness.templates.job import JINJA, StandIn, output_name
from harness.templates.output import MOST_FAULTS, LimitedOutput, LineNumbers, TooMuchError, shortened, undefined

_COMMENT = re.compile(r"\{\{(?P<left>-(?=\s))?\s*/\*")
_COMMENT_END = re.compile(r"\*/\s*(?P<right>(?<=\s)-)?\}\}")
_ACTION = re.compile(r"\{\{(?P<left>-(?=\s))?")
_ACTION_TEXT = re.compile(r"""(?:"(?:\\.|[^"\\])*+"|`[^`]*+`|[^{}"`]|\{(?!\{)|\}(?!\}))*+""", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:(\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(-?\d+)|(\$?\.[A-Za-z_]\w*)|([A-Za-z_]\w*)|([()|]))")
_WORK = 16
"""Characters that functions may go through, for each that a template may render to."""
_SCAN = 64
"""Characters that are looked at for the ends of actions, for each of a template."""
_WIDEST = 1000
_DEEPEST = 50
"""Parentheses in parentheses."""
_LARGEST_LINE = 64 << 10


# Go templates: a reader of their own, small because there are only strings. Translated into Jinja, text that only Jinja marks would change.


@dataclasses.dataclass(frozen=True)
class _Undefined:
    name: str


_Value = str | bool | _Undefined


class _GoError(Exception):
    """An action that is not understood."""


@dataclasses.dataclass
class _Branch:
    """An ``if`` that is open: whether the text here is wanted, and whether an earlier branch was."""

    outer: bool
    active: bool
    taken: bool
    line: int


def _truth(value: _Value) -> bool:
    """As in Go: a text is true when there is any, ``"false"`` too."""
    return not isinstance(value, _Undefined) and bool(value)


def _shown(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _decode(value: str) -> str:
    try:
        return jinja.decode(value)
    except ValueError as wrong:
        raise _GoError(str(wrong)) from wrong


def _indent(width: str, text: str) -> str:
    if int(width) > _WIDEST or (text.count("\n") + 1) * int(width) > jinja.limit(text):
        raise _GoError(f"indent {width[:20]} is too wide")
    return "\n".join(" " * int(width) + row for row in text.split("\n"))


# What takes an undefined name as empty, as Go does with a missing key.
_LENIENT: dict[str, Callable[..., _Value]] = {
    "and": lambda *values: next((value for value in values if not _truth(value)), values[-1]),
    "default": lambda default, value: value if _truth(value) else default,
    "eq": lambda first, *others: first in others,
    "ne": lambda first, other: first != other,
    "not": lambda value: not _truth(value),
    "or": lambda *values: next((value for value in values if _truth(value)), values[-1]),
}
_STRICT: dict[str, Callable[..., str]] = {
    "b64dec": _decode,
    "b64enc": jinja.encode,
    "indent": _indent,
    "lower": str.lower,
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "quote": jinja.quote,
    "squote": lambda value: f"'{value}'",
    "trim": str.strip,
    "upper": str.upper,
}


class _Action(NamedTuple):
    """``{{ body }}`` between two positions, None being the body of a comment. ``left`` and ``right``: the blanks beside it go."""

    start: int
    end: int
    body: str | None
    left: bool
    right: bool


def _actions(text: str) -> Iterator[_Action]:
    """The actions of a Go template, in order; braces that begin none are text. Raises TooMuchError."""
    scan = _SCAN * len(text) + _LARGEST_LINE
    ended: re.Match[str] | None = None
    commented = True
    position = 0
    while (begin := _ACTION.search(text, position)) is not None:
        start, position = begin.start(), begin.start() + 1
        comment = _COMMENT.match(text, start) if commented else None
        if comment is not None:
            if ended is None or ended.start() < comment.end():
                ended = _COMMENT_END.search(text, comment.end())
            # Without an end there is none for the comments that follow either.
            commented = ended is not None
            if ended is not None:
                position = ended.end()
                yield _Action(start, position, None, bool(comment["left"]), bool(ended["right"]))
                continue
        body = _ACTION_TEXT.match(text, begin.end())
        assert body is not None, "it matches nothing too"
        # A quote that is not closed was looked for up to the end.
        end = body.end()
        scan -= end - start + (len(text) - end if text[end : end + 1] in ('"', "`") else 0)
        if scan < 0:
            raise TooMuchError("it has too many braces and quotes that are not closed")
        if text.startswith("}}", end):
            position = end + 2
            inner = body[0]
            right = inner.endswith("-") and inner[-2:-1].isspace()
            yield _Action(start, position, inner[:-1] if right else inner, begin["left"] is not None, right)


class GoTemplate:
    def __init__(self, text: str, env: Mapping[str, str], path: str, missing: StandIn | None, faults: list[Fault]) -> None:
        self.text = text
        self.env = env
        self.path = path
        self.missing = missing
        self.faults = faults
        self.branches: list[_Branch] = []
        self._lines = LineNumbers(text)
        self._output_text = LimitedOutput(text)
        self._work = _WORK * self._output_text.limit

    def render(self) -> str:
        position, trim, line = 0, False, 1
        output = self._output_text
        try:
            for action in _actions(self.text):
                between = self.text[position : action.start]
                between = between.lstrip() if trim else between
                output.add(self._wanted(between.rstrip() if action.left else between))
                if action.body is not None:
                    line = self._lines.at(action.start)
                    output.add(self._act(action.body.strip(), line))
                position, trim = action.end, action.right
                if len(self.faults) >= MOST_FAULTS:
                    return ""
            rest = self.text[position:]
            output.add(self._wanted(rest.lstrip() if trim else rest))
        except TooMuchError as wrong:
            self.faults.append(Fault(f"{self.path}:{line}", str(wrong)))
        for branch in self.branches[: MOST_FAULTS - len(self.faults)]:
            self.faults.append(Fault(f"{self.path}:{branch.line}", "this if has no end", "{{ end }}"))
        return str(output)

    def _wanted(self, text: str) -> str:
        return "" if self.branches and not self.branches[-1].active else text

    def _act(self, body: str, line: int) -> str:
        word, _, rest = body.partition(" ")
        try:
            if word in ("if", "else", "end"):
                self._branch(word, rest.strip(), line)
                return ""
            if word in ("range", "with", "define", "template", "block", "include"):
                raise _GoError(f"{word} is not supported: an environment has no lists")
            return self._output(body, line) if self._wanted("x") else ""
        except _GoError as wrong:
            hint = f"Jinja can do more: call the file {output_name(self.path)}{JINJA}"
            self.faults.append(Fault(f"{self.path}:{line}", f"{{{{ {shortened(body)} }}}}: {shortened(str(wrong))}", hint))
            return ""

    def _branch(self, word: str, rest: str, line: int) -> None:
        if word == "if":
            outer = not self.branches or self.branches[-1].active
            active = outer and _truth(self._evaluate(rest))
            self.branches.append(_Branch(outer, active, active, line))
            return
        if not self.branches:
            raise _GoError("there is no if before it")
        branch = self.branches[-1]
        if word == "end":
            self.branches.pop()
            return
        condition = rest.removeprefix("if").strip()
        branch.active = branch.outer and not branch.taken and (not rest or _truth(self._evaluate(condition)))
        branch.taken = branch.taken or branch.active

    def _output(self, body: str, line: int) -> str:
        value = self._evaluate(body)
        if not isinstance(value, _Undefined):
            return _shown(value)
        if self.missing is not None:
            return self.missing(value.name)
        self.faults.append(undefined(self.path, line, value.name))
        return ""

    def _evaluate(self, text: str) -> _Value:
        tokens = list(_tokens(text))
        value, position = self._pipeline(tokens, 0, 0)
        if position < len(tokens):
            raise _GoError(f"{tokens[position]!r} is not expected")
        return value

    def _pipeline(self, tokens: Sequence[str], position: int, depth: int) -> tuple[_Value, int]:
        if depth > _DEEPEST:
            raise _GoError("its parentheses are nested too deeply")
        value, position = self._call(tokens, position, [], depth)
        while position < len(tokens) and tokens[position] == "|":
            value, position = self._call(tokens, position + 1, [value], depth)
        return value, position

    def _call(self, tokens: Sequence[str], position: int, piped: list[_Value], depth: int) -> tuple[_Value, int]:
        function = tokens[position] if position < len(tokens) else ""
        if function not in _LENIENT and function not in _STRICT:
            if piped:
                raise _GoError(f"{function!r} is not a function; known: {', '.join(sorted([*_LENIENT, *_STRICT]))}")
            return self._operand(tokens, position, depth)
        arguments: list[_Value] = []
        position += 1
        while position < len(tokens) and tokens[position] not in ("|", ")"):
            value, position = self._operand(tokens, position, depth)
            arguments.append(value)
        return self._apply(function, [*arguments, *piped]), position

    def _apply(self, function: str, arguments: list[_Value]) -> _Value:
        size = sum(len(value) for value in arguments if isinstance(value, str))
        self._work -= size + 1
        if size > self._output_text.limit or self._work < 0:
            raise TooMuchError("its values are larger than its output may be")
        try:
            if function in _LENIENT:
                return _LENIENT[function](*arguments)
            undefined = next((value for value in arguments if isinstance(value, _Undefined)), None)
            return undefined or _STRICT[function](*(_shown(value) for value in arguments if not isinstance(value, _Undefined)))
        except (TypeError, IndexError, ValueError) as wrong:
            raise _GoError(f"{function} does not take these {len(arguments)} arguments") from wrong

    def _operand(self, tokens: Sequence[str], position: int, depth: int) -> tuple[_Value, int]:
        word = tokens[position] if position < len(tokens) else ""
        if word == "(":
            value, position = self._pipeline(tokens, position + 1, depth + 1)
            if position >= len(tokens) or tokens[position] != ")":
                raise _GoError("a ) is missing")
            return value, position + 1
        if word[:1] in ('"', "`"):
            return _literal(word), position + 1
        if word.lstrip("-").isdigit():
            return word, position + 1
        if word in ("true", "false"):
            return word == "true", position + 1
        name = word.lstrip("$.")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise _GoError(f"{word!r} is not expected" if word else "something is missing at its end")
        return self.env.get(name, _Undefined(name)), position + 1


def _tokens(text: str) -> Iterator[str]:
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _GoError(f"{text[position:].strip()!r} is not understood")
        yield match[0].strip()
        position = match.end()


def _literal(token: str) -> str:
    if token.startswith("`"):
        return token[1:-1]
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), token[1:-1])
