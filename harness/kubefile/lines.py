"""The text of a Kubefile, cut into instructions: parser directives, comments, continuation lines, here-documents."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from harness.errors import Fault

_HEREDOC = re.compile(r"\d*<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_DIRECTIVE = re.compile(r"#\s*(escape|syntax|check)\s*=\s*(\S+)\s*", re.IGNORECASE)
_CHOICES = re.compile(r"#\s*one of:\s*(.+)", re.IGNORECASE)
"""A comment on the line before an ARG: the values that it may have."""


@dataclasses.dataclass(frozen=True)
class HereDocument:
    """One here-document: its delimiter, its lines as they are written, and how its opening says to read them."""

    name: str
    body: str
    quoted: bool = False
    """``<<"EOF"``: variables in it stay as they are."""
    tabs: bool = False
    """``<<-EOF``: tabs at the beginning of its lines are removed."""

    @property
    def text(self) -> str:
        """Its content as a file."""
        return re.sub(r"^\t+", "", self.body, flags=re.MULTILINE) if self.tabs else self.body


@dataclasses.dataclass(frozen=True)
class InstructionLine:
    """One instruction of the text: ``word`` in capitals, ``rest`` with continuation lines joined, then its here-documents."""

    number: int
    word: str
    rest: str
    documents: tuple[HereDocument, ...] = ()
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
    faults = [
        Fault(f"{path}:{number}", "a NUL character in the line", "remove it; an editor may hide it")
        for number, row in enumerate(rows, start=1)
        if "\0" in row
    ]
    # Read without it, to find the other faults too.
    rows = [row.replace("\0", "") for row in rows]
    escape = _escape(rows, path, faults)
    return KubefileText(tuple(_lines(rows, escape, path, faults)), escape, tuple(faults))


def first_word(text: str) -> tuple[str, str]:
    """The first word, and what follows it without blanks around."""
    first, *rest = text.split(maxsplit=1)
    return first, rest[0].rstrip() if rest else ""


def heredocs(rest: str) -> list[re.Match[str]]:
    """The words that open here-documents, in order."""
    return [match for word in rest.split() if (match := _HEREDOC.fullmatch(word))]


def script(command: str, documents: Sequence[HereDocument]) -> str:
    """A RUN with here-documents. One alone is the script; else the shell reads them, as everywhere."""
    if len(documents) == 1 and heredocs(command)[0][0] == command:
        return documents[0].text
    return command + "\n" + "".join(f"{document.body}{document.name}\n" for document in documents)


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
        documents = []
        for opening in heredocs(rest) if word.upper() in ("RUN", "COPY", "ADD") else ():
            body = _body(rows, opening)
            if body is None:
                faults.append(Fault(f"{path}:{number}", f"the here-document is not closed: no line {opening[3]}"))
                break
            documents.append(HereDocument(opening[3], body, quoted=bool(opening[2]), tabs=bool(opening[1])))
        yield InstructionLine(number, word.upper(), rest, tuple(documents), choices)
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
