"""The machines of a cluster as a drawing (SVG): control-plane nodes above the line that is the API, workers below it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from harness.report.model import CaseOutcome, CheckedCase, ReportedCluster, ReportedMachine

BOX_WIDTH, BOX_HEIGHT = 236, 92
_GAP = 20
_BUS = 46
"""Height of the line between both roles, with its label."""
_MARGIN = 2
MOST = 24
"""Machines that are drawn; the drawing says how many more there are."""
_LONGEST = 26
"""Letters of a line in a box."""

CONTROL_PLANE = "control-plane"


@dataclasses.dataclass(frozen=True)
class MachineUse:
    """Checks that ran commands on a machine."""

    checks: int = 0
    failed: int = 0

    @property
    def words(self) -> str:
        if not self.checks:
            return "not touched by a check"
        return f"{self.checks} check{'' if self.checks == 1 else 's'}{f', {self.failed} failed' if self.failed else ''}"


@dataclasses.dataclass(frozen=True)
class MachineBox:
    """A machine in the drawing, in units of its view box."""

    kind: str
    """Class of the style: ``control-plane``, ``worker``, or with `` bad`` behind it."""
    x: float
    y: float
    lines: tuple[str, ...]
    title: str

    @property
    def middle(self) -> float:
        return self.x + BOX_WIDTH / 2


@dataclasses.dataclass(frozen=True)
class MachineLink:
    """A vertical line from a box to the line of the API."""

    x: float
    begin: float
    end: float


@dataclasses.dataclass(frozen=True)
class TopologyDrawing:
    """A drawing. ``bus`` is the height of the line of the API; None in a cluster of one role."""

    width: float
    height: float
    boxes: tuple[MachineBox, ...]
    links: tuple[MachineLink, ...]
    bus: float | None
    members: int
    """Of etcd: one on each control-plane node."""
    more: int = 0

    @property
    def etcd(self) -> float:
        """The place of the words about etcd: behind the first line from above."""
        return self.links[0].x + 8 if self.links else 0.0


def uses(cases: Iterable[CheckedCase], machines: Sequence[ReportedMachine]) -> dict[str, MachineUse]:
    """Count the checks that touched each machine, by its name: they ran a command there, or looked at it."""
    names = {machine.name: machine.name for machine in machines} | {machine.address: machine.name for machine in machines}
    checks: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    for case in cases:
        places = [one.where for one in case.commands] + [one.where for one in case.observations]
        touched = {names[place] for place in places if place in names}
        bad = {names[one.where] for one in case.observations if one.where in names and one.outcome is CaseOutcome.FAILED}
        if case.outcome is CaseOutcome.FAILED and not case.observations:
            bad = touched
        checks.update(touched)
        failed.update(bad)
    return {machine.name: MachineUse(checks[machine.name], failed[machine.name]) for machine in machines}


def draw(cluster: ReportedCluster, shown: Mapping[str, str], used: Mapping[str, MachineUse], columns: int) -> TopologyDrawing:
    """Draw a cluster with at most so many boxes in a row. ``shown`` are short names of machines, ``used`` what checks did there."""
    listed = sorted(cluster.machines, key=lambda machine: machine.role != CONTROL_PLANE)[:MOST]
    control_plane = [machine for machine in listed if machine.role == CONTROL_PLANE]
    workers = [machine for machine in listed if machine.role != CONTROL_PLANE]
    columns = max(1, min(columns, max(len(control_plane), len(workers))))
    width = columns * (BOX_WIDTH + _GAP) - _GAP + 2 * _MARGIN
    top = _boxes(control_plane, _MARGIN, columns, width, shown, used)
    bottom_of_top = max((box.y + BOX_HEIGHT for box in top), default=float(_MARGIN))
    bus = bottom_of_top + _BUS / 2 if control_plane and workers else None
    below = _boxes(workers, bottom_of_top + (_BUS if bus else 0), columns, width, shown, used)
    links = [MachineLink(box.middle, box.y + BOX_HEIGHT, bus) for box in top if bus]
    links += [MachineLink(box.middle, bus, box.y) for box in below if bus]
    height = max((box.y + BOX_HEIGHT for box in (*top, *below)), default=0.0) + _MARGIN
    more = len(cluster.machines) - len(listed)
    return TopologyDrawing(width, height, (*top, *below), tuple(links), bus, len(control_plane), more)


def _boxes(
    machines: Sequence[ReportedMachine],
    top: float,
    columns: int,
    width: float,
    shown: Mapping[str, str],
    used: Mapping[str, MachineUse],
) -> list[MachineBox]:
    """Boxes in rows; a row that is not full stands in the middle."""
    boxes = []
    for first in range(0, len(machines), columns):
        row = machines[first : first + columns]
        left = (width - (len(row) * (BOX_WIDTH + _GAP) - _GAP)) / 2
        y = top + first // columns * (BOX_HEIGHT + _GAP)
        boxes += [_box(machine, left + index * (BOX_WIDTH + _GAP), y, shown, used) for index, machine in enumerate(row)]
    return boxes


def _box(machine: ReportedMachine, x: float, y: float, shown: Mapping[str, str], used: Mapping[str, MachineUse]) -> MachineBox:
    use = used.get(machine.name, MachineUse())
    kind = CONTROL_PLANE if machine.role == CONTROL_PLANE else "worker"
    role = "control plane" if machine.role == CONTROL_PLANE else machine.role
    facts = ", ".join(part for part in (role, machine.architecture) if part)
    lines = tuple(_short(line) for line in (shown.get(machine.name, machine.name), facts, use.words))
    return MachineBox(f"{kind} bad" if use.failed else kind, x, y, lines, f"{machine.name} ({machine.address}): {facts}; {use.words}")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
