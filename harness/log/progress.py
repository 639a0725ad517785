"""Bytes on their way, shown behind a step: how many of how many, how fast, how long yet."""

from __future__ import annotations

import collections
import threading
import time

from harness import log

_WINDOW = 8.0
"""Seconds that the shown rate looks back."""
_EVERY = 0.2
"""Seconds between two changes of what is shown."""


class Meter:
    """Counts towards ``total`` bytes and writes it into ``shown.note``. Safe for many threads; a count may be taken back."""

    def __init__(self, shown: log.ProgressStep, total: int) -> None:
        self.shown = shown
        self.total = total
        self.done = 0
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._seen: collections.deque[tuple[float, int]] = collections.deque([(self._began, 0)])

    def add(self, count: int) -> None:
        """``count`` bytes more; fewer than none when they have to be moved again."""
        with self._lock:
            self.done += count
            now = time.monotonic()
            if now - self._seen[-1][0] < _EVERY:
                return
            self._seen.append((now, self.done))
            while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW:
                self._seen.popleft()
            self.shown.note = self._text()

    def skip(self, count: int) -> None:
        """``count`` bytes need not be moved after all."""
        with self._lock:
            self.total -= count

    def _text(self) -> str:
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        rate = (after - before) / (end - begin) if end > begin else 0.0
        text = f"{log.size(max(self.done, 0))} of {log.size(self.total)}"
        if rate <= 0:
            return text
        seconds = max(self.total - self.done, 0) / rate
        return f"{text}, {log.size(rate)}/s, {log.duration(seconds)} left"

    def finish(self, what: str = "") -> None:
        """Show what it came to."""
        seconds = max(time.monotonic() - self._began, 1e-3)
        rate = f", {log.size(self.done / seconds)}/s" if self.done >= 1_000_000 else ""
        self.shown.note = f"{log.size(max(self.done, 0))}{rate}" + (f", {what}" if what else "")
