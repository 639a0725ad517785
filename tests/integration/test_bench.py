"""Benchmarks that need no cluster, at their smallest size: both sides do what they should. Their figures mean nothing here."""

from __future__ import annotations

import pytest

from harness.host import tools
from tests.bench import run

CHEAP = ("archive", "capture", "fan-out", "push-pull", "slow-link")


@pytest.mark.parametrize("name", CHEAP)
def test_bench_smoke_run_measures_both_sides(name: str) -> None:
    found = run.smoke(name)
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in (found, *found.get("more", ())))


def test_bench_find_smoke_run_misses_less_than_peer_with_helm_or_without() -> None:
    found = run.smoke("find")
    assert found["counts"]["ours"] < found["counts"]["peer"]
    assert found["charts"] is (tools.present_helm() is not None)
