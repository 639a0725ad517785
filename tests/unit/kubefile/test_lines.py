"""The text of a Kubefile, cut into instructions."""

from __future__ import annotations

import pytest

from harness import kubefile
from harness.kubefile.instructions import Copy, Run
from tests.unit.kubefile.reading import fault, faults, parse


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
def test_parse_spelling_variants_of_run_give_same_command(text: str) -> None:
    assert [item.command for item in kubefile.parse(text, "K").of(Run)] == ["a  b"]


def test_parse_escaped_escape_does_not_continue_line() -> None:
    assert parse("FROM scratch\nRUN echo a\\\\\nRUN b").of(Run)[0].command == "echo a\\\\"


def test_parse_escape_directive_counts_only_at_top() -> None:
    assert parse("# a comment\n# escape=`\nFROM scratch\nRUN a \\\n b").of(Run)[0].command == "a  b"
    assert fault("# escape=x\nFROM scratch").message == "'x' cannot be the escape character"
    assert fault("# escape=`\n# escape=`\nFROM scratch").message == "the directive escape is given twice"


def test_run_here_documents_are_read_with_lines() -> None:
    found = parse("FROM scratch\nRUN <<EOF\n  a\n# kept\nEOF\nRUN cat <<'END' > f\nx $Y\nEND\nRUN <<-EOF\n\ta\n\tEOF\nRUN b")
    assert [item.command for item in found.of(Run)] == ["  a\n# kept\n", "cat <<'END' > f\nx $Y\nEND\n", "a\n", "b"]
    assert [item.line for item in found.of(Run)] == [2, 6, 9, 12]


def test_run_unclosed_here_document_is_refused() -> None:
    assert fault("FROM scratch\nRUN <<EOF\na\nb").message == "the here-document is not closed: no line EOF"


def test_run_several_here_documents_are_read_in_order() -> None:
    run = parse('FROM scratch\nRUN cat <<A - <<-"B" > x\none\nA\n\ttwo\n\tB\nENV A=1').of(Run)[0]
    assert run.command == 'cat <<A - <<-"B" > x\none\nA\n\ttwo\nB\n'
    assert fault("FROM scratch\nRUN cat <<A - <<B\none\nA\ntwo").message == "the here-document is not closed: no line B"


def test_copy_and_add_here_documents_become_files() -> None:
    text = 'FROM scratch\nENV V=1\nCOPY <<A <<"B" etc/\nv: "$V" \\$V\nA\nv: $V\nB\nADD --chmod=755 <<-EOF bin/start\n\techo $V\n\tEOF'
    several, one = parse(text).of(Copy)
    assert dict(several.documents) == {"A": 'v: "1" \\$V\n', "B": "v: $V\n"}
    assert (several.sources, several.destination, several.text) == ((), "etc/", "COPY <<A <<B etc/")
    assert (dict(one.documents), one.destination, one.chmod) == ({"EOF": "echo 1\n"}, "bin/start", 0o755)
    wrong = fault("FROM scratch\nCOPY <<A <<B etc/x\nA\nB")
    assert wrong.hint == "end it with a slash: etc/x/"
    assert fault("FROM scratch\nCOPY --from=a <<A etc/x\nA").message == "--from and a here-document exclude each other"


def test_parse_nul_character_is_refused_with_line() -> None:
    assert faults("FROM scratch\nCOPY mani\0fests manifests\nRUN a\0b") == [
        "2: a NUL character in the line",
        "3: a NUL character in the line",
    ]
    assert faults('FROM scratch\nRUN ["a\\u0000b"]') == ["2: a NUL character in a JSON list"]
    assert faults('FROM scratch\nCOPY ["a\\u0000b", "x"]') == ["2: a NUL character in a JSON list"]
