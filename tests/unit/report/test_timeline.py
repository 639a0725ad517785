"""The chart of a boot: rows, bars, times."""

from __future__ import annotations

import pytest

from harness.report import timeline
from harness.report.model import BootStep
from harness.report.timeline import WIDTH
from tests.unit.report.examples import NAMES, STEPS


def test_chart_has_row_for_each_step_with_bar_for_each_machine() -> None:
    chart = timeline.chart(STEPS, NAMES, {name: name[-8:] for name in NAMES})
    assert [row.title for row in chart.rows] == [
        "make 3 machines", "send the image", "start containerd", "start the control plane", "run the launch commands",
    ]  # fmt: skip
    assert [len(row.bars) for row in chart.rows] == [1, 3, 3, 1, 1]
    assert [bar.colour for bar in chart.rows[1].bars] == ["c0", "c1", "c2"]
    assert len({bar.y for bar in chart.rows[1].bars}) == 3
    assert chart.rows[1].length == "12 s"
    assert chart.rows[1].bars[0].words == "9.5 s, from 6.3 s on"
    assert chart.legend == (("c0", "-plane-1"), ("c1", "worker-1"), ("c2", "worker-2"), ("c7", "this machine"))
    assert chart.ticks == ("0", "15", "30", "45", "60", "75 s")


def test_chart_bars_stay_within_row_and_are_seen() -> None:
    steps = [BootStep("a", "m0", 0.0, 0.0), BootStep("b", "m0", 99.9, 0.1), BootStep("c", "m0", 100.0, 0.0, failed=True)]
    for row in timeline.chart(steps, ["m0"], {}).rows:
        for bar in row.bars:
            assert bar.width >= 2.9
            assert 0 <= bar.x <= bar.x + bar.width <= WIDTH + 0.01
            assert bar.y + bar.height <= row.height
    assert timeline.chart(steps, ["m0"], {}).rows[2].bars[0].failed


@pytest.mark.parametrize(
    ("end", "ticks"),
    [
        (0.5, ("0", "1 s")),
        (60.0, ("0", "10", "20", "30", "40", "50", "60 s")),
        (110.0, ("0:00", "0:20", "0:40", "1:00", "1:20", "1:40", "2:00 min")),
        (1500.0, ("0:00", "5:00", "10:00", "15:00", "20:00", "25:00 min")),
    ],
)
def test_chart_times_are_round_and_cover_boot(end: float, ticks: tuple[str, ...]) -> None:
    assert timeline.chart([BootStep("a", "", 0.0, end)], [], {}).ticks == ticks


def test_chart_of_very_long_boot_has_few_ticks() -> None:
    assert len(timeline.chart([BootStep("a", "", 0.0, 1e6)], [], {}).ticks) <= 7


def test_chart_rows_beyond_limit_are_counted() -> None:
    steps = [BootStep(f"step {number}", "", number, 1.0) for number in range(timeline.MOST_ROWS + 5)]
    chart = timeline.chart(steps, [], {})
    assert (len(chart.rows), chart.more) == (timeline.MOST_ROWS, 5)


def test_chart_of_many_machines_keeps_bars_apart() -> None:
    names = [f"n{number}" for number in range(40)]
    (row,) = timeline.chart([BootStep("a", name, 0.0, 1.0) for name in names], names, {}).rows
    assert len({bar.y for bar in row.bars}) == 40
    assert row.height == 160.0
