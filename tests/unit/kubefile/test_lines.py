"""The text of a Kubefile, cut into instructions."""

from __future__ import annotations

import pytest

from harness import kubefile
from harness.kubefile.instructions import Run
from tests.unit.kubefile.reading import fault, parse


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch\nRUN a \\\n b",
        "FROM scratch\r\nRUN a \\\r\n b\r\n",
        "\ufeffFROM scratch\nRUN a \\\n b",
        "FROM scratch\nRUN a \\  \n b",
        "from scratch\n  run\ta \\\n b",
        "# escape=`\nFROM scratch\nRUN a `\n b",
        "# syntax=docker/dockerfile:1\n# Escape = `\nFROM scratch\nRUN a `\n b",
        "FROM scratch\nRUN a \\\n\n# no\n b",
        "FROM scratch\nRUN a \\\n b \\",
        "FROM scratch\n\\\n\nRUN a \\\n b",
    ],
)
def test_the_same_instruction_in_every_dress(text: str) -> None:
    assert [item.command for item in kubefile.parse(text, "K").of(Run)] == ["a  b"]


def test_an_escaped_escape_continues_nothing() -> None:
    assert parse("FROM scratch\nRUN echo a\\\\\nRUN b").of(Run)[0].command == "echo a\\\\"


def test_the_escape_directive_counts_only_at_the_top() -> None:
    assert parse("# a comment\n# escape=`\nFROM scratch\nRUN a \\\n b").of(Run)[0].command == "a  b"
    assert fault("# escape=x\nFROM scratch").message == "'x' cannot be the escape character"
    assert fault("# escape=`\n# escape=`\nFROM scratch").message == "the directive escape is given twice"


def test_here_documents_of_run() -> None:
    found = parse("FROM scratch\nRUN <<EOF\n  a\n# kept\nEOF\nRUN cat <<'END' > f\nx $Y\nEND\nRUN <<-EOF\n\ta\n\tEOF\nRUN b")
    assert [item.command for item in found.of(Run)] == ["  a\n# kept\n", "cat <<'END' > f\nx $Y\nEND\n", "a\n", "b"]
    assert [item.line for item in found.of(Run)] == [2, 6, 9, 12]


def test_a_here_document_must_end() -> None:
    assert fault("FROM scratch\nRUN <<EOF\na\nb").message == "the here-document is not closed: no line EOF"
    assert fault("FROM scratch\nCOPY <<EOF file\na\nEOF").message == "COPY cannot read a here-document"
