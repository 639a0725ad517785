"""The boot of a cluster as a chart: a row for each step, and in it a bar for each machine that did it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from harness import log
from harness.report.model import BootStep

WIDTH = 1000
"""Units of a whole row."""
COLOURS = 7
"""Classes ``c0`` to ``c6`` of the style are of machines; ``c7`` is of this machine."""
_THINNEST = 3.0
"""Width of the bar of a step that took no time: it is to be seen."""
_TICKS = 6
MOST_ROWS = 120


@dataclasses.dataclass(frozen=True)
class StepBar:
    """The bar of a step on one machine, in units of its row."""

    colour: str
    x: float
    y: float
    width: float
    height: float
    where: str
    words: str
    """``12 s from 4.0 s on``."""
    failed: bool


@dataclasses.dataclass(frozen=True)
class StepRow:
    """A step. ``begin`` and ``length`` are of all of its machines together, as text."""

    title: str
    height: float
    bars: tuple[StepBar, ...]
    begin: str
    length: str


@dataclasses.dataclass(frozen=True)
class BootChart:
    """A chart. ``ticks`` are evenly spaced times as text, from its begin to its end; ``legend`` are colours and machines."""

    rows: tuple[StepRow, ...]
    ticks: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    more: int = 0


def chart(steps: Sequence[BootStep], machines: Sequence[str], shown: Mapping[str, str]) -> BootChart:
    """Draw steps in the order in which they began. ``machines`` are names in the order of their colours, ``shown`` their short names."""
    end = max((step.started + step.seconds for step in steps), default=0.0)
    tick = _tick(end)
    count = max(1, math.ceil(end / tick - 1e-9))
    total = tick * count
    by_title: dict[str, list[BootStep]] = {}
    for step in sorted(steps, key=lambda step: step.started):
        by_title.setdefault(step.title, []).append(step)
    colours = {name: f"c{index % COLOURS}" for index, name in enumerate(machines)}
    rows = [_row(title, of_title, total, machines, colours, shown) for title, of_title in by_title.items()]
    legend = [(colours[name], shown.get(name, name)) for name in machines if any(step.where == name for step in steps)]
    if any(step.where not in colours for step in steps):
        legend.append(("c7", "this machine"))
    return BootChart(tuple(rows[:MOST_ROWS]), _times(tick, count), tuple(legend), max(0, len(rows) - MOST_ROWS))


def _row(
    title: str, steps: Sequence[BootStep], total: float, machines: Sequence[str], colours: Mapping[str, str], shown: Mapping[str, str]
) -> StepRow:
    order = {name: index for index, name in enumerate(machines)}
    places = sorted({step.where for step in steps}, key=lambda place: order.get(place, len(order)))
    thickness = 14.0 if len(places) == 1 else max(4.0, min(9.0, 48 / len(places)))
    bars = []
    for step in steps:
        x = WIDTH * step.started / total
        width = max(_THINNEST, WIDTH * step.seconds / total)
        bars.append(
            StepBar(
                colours.get(step.where, "c7"),
                round(min(x, WIDTH - _THINNEST), 2),
                places.index(step.where) * thickness,
                round(min(width, WIDTH - min(x, WIDTH - _THINNEST)), 2),
                thickness,
                shown.get(step.where, step.where) or "this machine",
                f"{log.duration(step.seconds)}, from {log.duration(step.started)} on",
                step.failed,
            )
        )
    begin = min(step.started for step in steps)
    length = max(step.started + step.seconds for step in steps) - begin
    return StepRow(title, thickness * len(places), tuple(bars), log.duration(begin), log.duration(length))


def _tick(end: float) -> float:
    """A round time of which at most _TICKS make the whole chart."""
    for unit in (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600):
        if end <= unit * _TICKS:
            return float(unit)
    return math.ceil(end / _TICKS / 3600) * 3600.0


def _times(tick: float, count: int) -> tuple[str, ...]:
    """Times with the unit behind the last one: ``0``, ``15``, ``30 s``; ``0:00``, ``1:00 min``."""
    seconds = [tick * number for number in range(count + 1)]
    if seconds[-1] < 100:
        texts, unit = [f"{second:.0f}" for second in seconds], "s"
    else:
        texts, unit = [f"{int(second) // 60}:{int(second) % 60:02d}" for second in seconds], "min"
    return (*texts[:-1], f"{texts[-1]} {unit}")
