"""READMEs of strangers as HTML: CommonMark without HTML and without pictures; links lead to http and https only."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from harness import untrusted
from harness.untrusted import UntrustedTree

LIMIT = 64 << 10
"""Bytes."""
FILE = "README.md"
_DEEPER = 2
"""Levels that a heading moves down: the page has its own above it."""


def read(folder: Path, name: str) -> str:
    """The README of the folder ``name`` below ``folder``; empty when it has none. Raises StoreError for one that is not text."""
    try:
        return UntrustedTree(folder).read_text(f"{name}/{FILE}", limit=LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return ""


def render(text: str) -> Markup:
    """The HTML of a README."""
    parser = MarkdownIt("commonmark", {"html": False}).disable(["html_block", "html_inline", "image"])
    parser.validateLink = is_web_link  # type: ignore[method-assign, assignment]
    tokens = parser.parse(untrusted.shown(text, lines=True))
    _soften(tokens)
    # Its renderer escapes every text and every attribute, and nothing in the tokens is HTML.
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704


def is_web_link(address: str) -> bool:
    """Return True for an address that a page may link to: http or https, with a host."""
    try:
        parts = urllib.parse.urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and address.isprintable()


def _soften(tokens: Sequence[Token]) -> None:
    """Move headings below those of the page, and mark links as those of a stranger."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1:]) + _DEEPER)}"
        elif token.type == "link_open":
            token.attrSet("rel", "nofollow noopener noreferrer")
        elif token.type == "fence":
            token.info = ""
        _soften(token.children or ())
