"""Texts of tests, machines and clusters as a report keeps them: cut, and without secrets."""

from __future__ import annotations

from harness import log, untrusted
from harness.clusterfile import secrets
from harness.report.model import TextBlock

_TAIL = 3
"""One part of so many is kept of the end of a text; the rest of its begin."""


def clean(text: str, most: int) -> str:
    """A text without secrets and colours; of one with more than ``most`` characters the begin and the end."""
    # Before the secrets are looked for, which takes time in proportion to the text; a secret at the cut is not recognized by its end alone.
    margin = _margin(most)
    if len(text) > margin:
        text = _cut(text, margin)
    return _cut(secrets.hidden(log.hidden(untrusted.uncoloured(text)), log.GONE), most)


def _margin(most: int) -> int:
    """Characters that are looked through for secrets to keep ``most`` of them."""
    return 4 * most + (64 << 10)


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    tail = most // _TAIL
    head = most - tail
    return f"{text[:head]}\n... {len(text) - head - tail} characters left out ...\n{text[len(text) - tail :]}"


def last_lines(title: str, text: str, lines: int, most: int) -> TextBlock:
    """The last lines of a log, at most ``most`` characters of them, from the begin of a line."""
    total = text.count("\n") + bool(text and not text.endswith("\n"))
    # A machine may print far more than it was asked for.
    end = text[-_margin(most) :]
    listed = clean(end, len(end)).splitlines()
    kept: list[str] = []
    size = 0
    for line in reversed(listed[-lines:]):
        shown = line if len(line) <= 1000 else f"{line[:1000]}... ({len(line) - 1000} characters more)"
        size += len(shown) + 1
        if size > most and kept:
            break
        kept.append(shown)
    return TextBlock(title, "\n".join(reversed(kept)), max(0, total - len(kept)))
