"""What is shown of bytes on their way."""

from __future__ import annotations

import threading
import time

import pytest

from harness.log import ProgressStep
from harness.log.progress import Meter
from tests.unit.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


@pytest.fixture
def step() -> ProgressStep:
    return ProgressStep("push web", 0, 0.0)


def test_meter_note_shows_amount_rate_and_time_left(clock: Clock, step: ProgressStep) -> None:
    meter = Meter(step, 100_000_000)
    clock.now += 2
    meter.add(20_000_000)
    assert step.note == "20 MB of 100 MB, 10 MB/s, 8.0 s left"
    clock.now += 2
    meter.add(20_000_000)
    assert step.note == "40 MB of 100 MB, 10 MB/s, 6.0 s left"


def test_meter_rate_is_of_last_seconds(clock: Clock, step: ProgressStep) -> None:
    meter = Meter(step, 1_000_000_000)
    for _ in range(10):
        clock.now += 1
        meter.add(1_000_000)
    for _ in range(10):
        clock.now += 1
        meter.add(50_000_000)
    assert ", 50 MB/s, " in step.note


def test_meter_piece_after_short_time_does_not_update_note(clock: Clock, step: ProgressStep) -> None:
    meter = Meter(step, 1000)
    clock.now += 0.01
    meter.add(500)
    assert not step.note


def test_meter_stalled_transfer_shows_no_time_left(clock: Clock, step: ProgressStep) -> None:
    meter = Meter(step, 10_000)
    clock.now += 1
    meter.add(0)
    assert step.note == "0 B of 10 kB"


def test_meter_repeated_and_skipped_bytes_are_subtracted(clock: Clock, step: ProgressStep) -> None:
    meter = Meter(step, 10_000_000)
    clock.now += 1
    meter.add(5_000_000)
    clock.now += 1
    meter.add(-5_000_000)
    assert step.note == "0 B of 10 MB"
    meter.skip(4_000_000)
    clock.now += 1
    meter.add(6_000_000)
    assert step.note.startswith("6.0 MB of 6.0 MB")
    assert step.note.endswith("0.0 s left")


def test_meter_finish_shows_total_and_average_rate(clock: Clock, step: ProgressStep) -> None:
    meter = Meter(step, 30_000_000)
    clock.now += 3
    meter.add(30_000_000)
    meter.finish("3 blobs")
    assert step.note == "30 MB, 10 MB/s, 3 blobs"
    little = Meter(step, 900)
    little.add(900)
    little.finish()
    assert step.note == "900 B"


def test_meter_counts_bytes_of_all_threads(step: ProgressStep) -> None:
    meter = Meter(step, 8000)

    def count() -> None:
        for _ in range(1000):
            meter.add(1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.done == 8000
