"""Sizes as a picture: one bar (SVG), a segment for each part, and a legend with the same colours."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from harness import log

WIDTH = 1000
COLOURS = 8
"""Classes ``c0`` to ``c7`` of the style."""


@dataclasses.dataclass(frozen=True)
class SizedPart:
    """A part of an image: a layer, or a container image. ``size`` is in bytes."""

    title: str
    digest: str
    size: int


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part in the picture; ``x`` and ``width`` are in WIDTH units of the whole bar."""

    part: SizedPart
    colour: int
    x: float
    width: float
    share: str
    """As ``12 %``."""

    @property
    def size(self) -> str:
        return log.size(self.part.size)


@dataclasses.dataclass(frozen=True)
class SizeBar:
    """A bar of segments, in the order of the parts."""

    segments: tuple[Segment, ...]
    total: int

    @property
    def size(self) -> str:
        return log.size(self.total)


def _percent(size: int, total: int) -> str:
    share = 100 * size / total if total else 0
    return "<1 %" if 0 < share < 1 else f"{share:.0f} %"


def bar(parts: Sequence[SizedPart]) -> SizeBar:
    """The bar of some parts. An empty part has a legend and no width."""
    total = sum(part.size for part in parts)
    segments: list[Segment] = []
    before = 0
    for number, part in enumerate(parts):
        x, end = (WIDTH * size / total if total else 0.0 for size in (before, before + part.size))
        segments.append(Segment(part, number % COLOURS, round(x, 2), round(end - x, 2), _percent(part.size, total)))
        before += part.size
    return SizeBar(tuple(segments), total)
