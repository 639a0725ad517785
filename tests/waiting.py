"""Waiting in tests: for a condition, never for a time. The only limit is for what hangs, on however busy a machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

HANG = 600.0
"""Seconds after which something hangs. No test judges by less."""

Value = TypeVar("Value")


def until(condition: Callable[[], Value], what: object = "", *, pause: float = 0.02) -> Value:
    """Return the first true value of a condition, which is asked again and again. Fails after ``HANG`` seconds.

    ``what`` describes what was waited for; when it can be called, it does so once that has failed.
    """
    deadline = time.monotonic() + HANG
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it hangs: {what() if callable(what) else what}"
        time.sleep(pause)
    return value
