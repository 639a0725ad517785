"""The language of what users and contributors read: help texts, documents and docstrings (docs/contributing/style.md)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import sources
from tests.unit.test_docs import PAGES, root

PROJECT = Path(__file__).parents[2]

OPENING = re.compile(r"^(What|Whether|Who|How|Where|Those)\b")
"""A help text or a docstring opens with a noun phrase or an imperative."""
TELLING = re.compile(r"\b(?:is|are|was|were) told\b|\btells\b", re.IGNORECASE)
"""Programs report, warn, raise and print."""
NAMELESS = re.compile(r"\bwhoever\b|\b(?:some|no|every|any)body\b|\b(?:ours|theirs|anew)\b", re.IGNORECASE)
"""A text names the actor."""
EXEMPT = {
    "docs/contributing/style.md",  # lists the words
}


def faults(text: str, *, opening: bool) -> Iterator[str]:
    """What the style page refuses in a text."""
    for pattern in (OPENING, TELLING, NAMELESS) if opening else (TELLING, NAMELESS):
        if wrong := pattern.search(text.strip()):
            yield wrong[0]


def help_texts() -> Iterator[tuple[str, str]]:
    """Every ``help=`` and ``short_help=`` of the package, and the help of every command: where, text."""
    for path in sorted((PROJECT / "harness").rglob("*.py")):
        for node in sources.nodes(path):
            if isinstance(node, ast.keyword) and node.arg in ("help", "short_help"):
                parts = [child.value for child in ast.walk(node.value) if isinstance(child, ast.Constant) and isinstance(child.value, str)]
                yield f"{path.relative_to(PROJECT)}:{node.value.lineno}", "".join(parts)
    waiting = [("slipway", root())]
    for name, command in waiting:
        yield name, command.help or ""
        waiting += [(f"{name} {word}", child) for word, child in getattr(command, "commands", {}).items()]


def docstrings() -> Iterator[tuple[str, str]]:
    """Every docstring of the package, also those behind a field or a constant: where, text."""
    for path in sorted((PROJECT / "harness").rglob("*.py")):
        for node in sources.nodes(path):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                yield f"{path.relative_to(PROJECT)}:{node.lineno}", node.value.value.strip()


def messages() -> Iterator[tuple[str, str]]:
    """Every text of more than a word that the package may print, docstrings left out: where, text."""
    for path in sorted((PROJECT / "harness").rglob("*.py")):
        nodes = sources.nodes(path)
        documents = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value and id(node) not in documents:
                yield f"{path.relative_to(PROJECT)}:{node.lineno}", node.value


def prose(text: str) -> str:
    """A page without what programs print and without code."""
    return re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def test_help_texts_are_plain() -> None:
    texts = list(help_texts())
    assert len(texts) > 250
    assert [f"{where}: {wrong}: {text}" for where, text in texts for wrong in faults(text, opening=True)] == []


def test_messages_are_plain() -> None:
    texts = list(messages())
    assert len(texts) > 3000
    assert [f"{where}: {wrong}: {text}" for where, text in texts for wrong in faults(text, opening=False)] == []


def test_docstrings_open_with_noun_or_imperative() -> None:
    texts = list(docstrings())
    assert len(texts) > 2000
    assert [f"{where}: {text.splitlines()[0]}" for where, text in texts if OPENING.search(text)] == []


def test_identifiers_use_terms_of_kubernetes() -> None:
    wrong = {
        f"{path.relative_to(PROJECT)}:{token.start[0]} {token.string}"
        for path in sorted((PROJECT / "harness").rglob("*.py"))
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
        if token.type == tokenize.NAME and "master" in token.string.lower()
    }
    assert wrong == set()


def test_documents_are_plain() -> None:
    assert [f"{page}: {wrong}" for page, text in PAGES.items() if page not in EXEMPT for wrong in faults(prose(text), opening=False)] == []


@pytest.mark.parametrize(
    "text",
    ["Who we are on the machines.", "How long they hold.", "The user is told what is wrong.", "For whoever has the image.", "Made anew."],
)
def test_faults_refused_words_are_reported(text: str) -> None:
    assert list(faults(text, opening=True))


def test_faults_plain_text_is_accepted() -> None:
    assert list(faults("Print the SSH user, and how it logs in.", opening=True)) == []
