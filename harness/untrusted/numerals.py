"""Numbers that come from outside, as values and as text."""

from __future__ import annotations

import re

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message, shown

LARGEST_INT = (1 << 63) - 1


def integer(value: object, *, what: str, minimum: int = 0, maximum: int = LARGEST_INT, error: type[SlipwayError] = StoreError) -> int:
    """Return ``value`` when it is a whole number in the range; booleans, floats and text are not."""
    if type(value) is not int or not minimum <= value <= maximum:
        raise error(message(what, f"{shown(str(value))[:80]!r} is not a number from {minimum} to {maximum}"))
    return value


def number(text: object, *, base: int = 10, maximum: int = LARGEST_INT) -> int | None:
    """The whole number that a text spells in ASCII digits of ``base``; None for everything else, also for one above ``maximum``.

    ``str.isdigit`` and ``int`` disagree about digits such as a superscript two, and ``int`` takes signs, blanks and underscores.
    """
    if not isinstance(text, str) or not re.fullmatch(r"[0-9A-Fa-f]{1,64}", text):
        return None
    try:
        value = int(text, base)
    except ValueError:
        return None
    return value if value <= maximum else None


def decimal(text: object) -> float | None:
    """The finite number, not below 0, that a text spells, as ``12.5`` or ``2.5e-05``; None for everything else."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,32}(?:\.[0-9]{0,32})?(?:e[+-]?[0-9]{1,2})?", text):
        return None
    return float(text)
