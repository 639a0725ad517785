"""Wildcards in the names of one segment of a path: ``*``, ``?``, ``[a-z]``."""

from __future__ import annotations

import re


def present(text: str) -> bool:
    """Return True when a path has a wildcard in it."""
    return any(char in text for char in "*?[")


def pattern(segment: str) -> re.Pattern[str]:
    """Go's filepath.Match, which Docker uses: ``[^a]`` negates and a leading dot is nothing special, unlike in fnmatch.

    Raises ValueError for a segment that is not valid.
    """
    parts: list[str] = []
    pieces: list[str] = []
    position = 0
    while position < len(segment):
        char = segment[position]
        close = segment.find("]", position + 2) if char == "[" else -1
        if close > 0:
            inner = segment[position + 1 : close].replace("[", r"\[").replace("&&", r"&\&")
            pieces.append(f"[{inner}]")
            position = close
        elif char == "\\" and position + 1 < len(segment):
            position += 1
            pieces.append(re.escape(segment[position]))
        elif char == "*":
            parts.append("".join(pieces))
            pieces.clear()
        else:
            pieces.append("." if char == "?" else re.escape(char))
        position += 1
    last = "".join(pieces)
    # Text between two stars is matched once, at its first place: trying every place would take exponential time.
    expression = last if not parts else parts[0] + "".join(f"(?>.*?{part})" for part in parts[1:] if part) + ".*" + last
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as wrong:
        raise ValueError(str(wrong)) from wrong
