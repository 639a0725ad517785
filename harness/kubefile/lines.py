"""The text of a Kubefile, cut into instructions: parser directives, comments, continuation lines, here-documents."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from harness.errors import Fault

_HEREDOC = re.compile(r"\d*<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_DIRECTIVE = re.compile(r"#\s*(escape|syntax|check)\s*=\s*(\S+)\s*", re.IGNORECASE)
_CHOICES = re.compile(r"#\s*one of:\s*(.+)", re.IGNORECASE)
"""A comment on the line before an ARG: the values that it may have."""


@dataclasses.dataclass(frozen=True)
class InstructionLine:
    """One instruction of the text: ``word`` in capitals, ``rest`` with continuation lines joined, then the body of a here-document."""

    number: int
    word: str
    rest: str
    body: str | None = None
    choices: tuple[str, ...] = ()
    """Allowed values, from the comment on the line before it."""


@dataclasses.dataclass(frozen=True)
class KubefileText:
    """A Kubefile before its instructions are read. ``escape`` is the escape character that holds for all of it."""

    instructions: tuple[InstructionLine, ...]
    escape: str
    faults: tuple[Fault, ...]


def split_text(text: str, path: str) -> KubefileText:
    """The instructions of the text. ``path`` is its name in faults."""
    rows = [row.removesuffix("\r") for row in text.removeprefix("\ufeff").split("\n")]
    faults: list[Fault] = []
    escape = _escape(rows, path, faults)
    return KubefileText(tuple(_lines(rows, escape, path, faults)), escape, tuple(faults))


def first_word(text: str) -> tuple[str, str]:
    """The first word, and what follows it without blanks around."""
    first, *rest = text.split(maxsplit=1)
    return first, rest[0].rstrip() if rest else ""


def heredoc(rest: str) -> re.Match[str] | None:
    """The first word that opens a here-document."""
    return next((match for word in rest.split() if (match := _HEREDOC.fullmatch(word))), None)


def script(command: str, body: str) -> str:
    """A RUN with a here-document. The document alone is the script; else the shell reads it, as everywhere."""
    opening = heredoc(command)
    if opening is None or opening[0] != command:
        return f"{command}\n{body}{opening[3] if opening else ''}\n"
    return re.sub(r"^\t+", "", body, flags=re.MULTILINE) if opening[1] else body


def _escape(rows: list[str], path: str, faults: list[Fault]) -> str:
    """The character of the directive ``# escape=``. Directives are the first lines only; others have no effect."""
    escape = "\\"
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        match = _DIRECTIVE.fullmatch(row.strip())
        if match is None:
            break
        name, value = match[1].lower(), match[2]
        if name in seen:
            faults.append(Fault(f"{path}:{number}", f"the directive {match[1]} is given twice"))
        seen.add(name)
        if name == "escape" and value in ("\\", "`"):
            escape = value
        elif name == "escape":
            faults.append(Fault(f"{path}:{number}", f"{value!r} cannot be the escape character", "only \\ and ` can"))
    return escape


def _lines(text_rows: list[str], escape: str, path: str, faults: list[Fault]) -> Iterator[InstructionLine]:
    rows = enumerate(text_rows, start=1)
    choices: tuple[str, ...] = ()
    for number, row in rows:
        if not row.strip() or row.lstrip().startswith("#"):
            listed = _CHOICES.fullmatch(row.strip())
            choices = tuple(listed[1].split()) if listed else ()
            continue
        line = _joined(row.lstrip(), rows, escape)
        if not line:
            continue
        word, rest = first_word(line)
        opening = heredoc(rest) if word.upper() in ("RUN", "COPY", "ADD") else None
        body = _body(rows, opening) if opening else None
        if opening and body is None:
            faults.append(Fault(f"{path}:{number}", f"the here-document is not closed: no line {opening[3]}"))
        yield InstructionLine(number, word.upper(), rest, body, choices)
        choices = ()


def _joined(row: str, rows: Iterator[tuple[int, str]], escape: str) -> str:
    """The row with its continuation lines. An escape that is escaped itself continues nothing."""
    continued = re.compile(rf"(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*$")
    line = ""
    while continued.search(row):
        line += continued.sub("", row)
        row = next((text for _, text in rows if text.strip() and not text.lstrip().startswith("#")), "")
    return (line + row).rstrip()


def _body(rows: Iterator[tuple[int, str]], opening: re.Match[str]) -> str | None:
    body = ""
    for _, row in rows:
        if (row.lstrip("\t") if opening[1] else row) == opening[3]:
            return body
        body += row + "\n"
    return None
