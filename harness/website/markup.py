"""Templates whose pages hold all that they show, and nothing of a stranger as HTML.

Every text is escaped, and so are its control characters and bidirectional marks. The policy of a page (Content-Security-Policy) allows
its own style and script, by their digests, and nothing else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup

from harness import untrusted

LONGEST = 2000
"""Characters of a text of an image that a page of the catalogue shows."""
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath fill='%230b6bcb' d='M2 9h12l-2 5H4zM7 2h2v6H7zM4 5h3v3H4zM9 5h3v3H9z'/%3E%3C/svg%3E"
)


def environment(folder: Path, style: str, script: str = "", *, longest: int = LONGEST) -> jinja2.Environment:
    """The templates of a folder. ``style`` and ``script`` are texts of this package; of others ``longest`` characters are shown."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=functools.partial(_shown, longest),
    )
    made.globals |= {
        "style": Markup(style),  # noqa: S704 -- a file of this package, as the next
        "script": Markup(script),  # noqa: S704
        "policy": policy(style, script),
        "icon": _ICON,
    }
    made.filters |= {"breakable": _breakable}
    return made


def policy(style: str, script: str = "") -> str:
    """The Content-Security-Policy of every page: its own style and script by their digests, the icon, nothing else."""
    scripts = f"script-src {_allowed(script)}; " if script else ""
    trusted = "; require-trusted-types-for 'script'" if script else ""
    return f"default-src 'none'; style-src {_allowed(style)}; {scripts}img-src data:; base-uri 'none'; form-action 'none'{trusted}"


def _allowed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(longest: int, value: object) -> object:
    """Value of an expression of a template before it is escaped."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return "" if value is None else value
    text = value if len(value) <= longest else f"{value[:longest]}... ({len(value) - longest} characters more)"
    return untrusted.shown(text, lines=True)


def _breakable(name: str) -> Markup:
    """A name that may be broken behind each slash."""
    return Markup("/<wbr>").join(untrusted.shown(name).split("/"))
