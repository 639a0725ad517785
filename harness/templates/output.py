"""The output of a template: its limit, its lines, and the faults in it."""

from __future__ import annotations

from harness.errors import Fault
from harness.templates import jinja

MOST_FAULTS = 100
_SHORT = 120


def undefined(path: str, line: int, name: str) -> Fault:
    hint = f"-e {name}=VALUE, env in the Clusterfile, or ENV {name}=VALUE in the Kubefile"
    return Fault(f"{path}:{line}", f"{name} is not defined", hint)


class LineNumbers:
    """Line numbers of positions that only grow."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1

    def at(self, position: int) -> int:
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


class LimitedOutput:
    """Text that may grow to a limit. Raises TooMuchError."""

    def __init__(self, template: str) -> None:
        self.limit = jinja.limit(template)
        self._room = self.limit
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise TooMuchError(f"it renders to more than {self.limit} characters")
        self._parts.append(text)

    def __str__(self) -> str:
        return "".join(self._parts)


class TooMuchError(Exception):
    """A template takes more than its size allows."""


def shortened(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."
