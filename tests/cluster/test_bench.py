"""Benchmarks that make clusters, at their smallest size: both sides do what they should. Their figures mean nothing here."""

from __future__ import annotations

import pytest

from tests.bench import run
from tests.integration.test_bench import CHEAP

OTHERS = tuple(name for name in run.names() if name not in (*CHEAP, "find"))


@pytest.mark.parametrize("name", OTHERS)
def test_bench_smoke_run_makes_clusters_on_both_sides(name: str, kubernetes: str) -> None:
    assert kubernetes
    measured = run.smoke(name)
    # A step may take no time that two digits show.
    assert measured["ours"] > 0
    assert all(row["ours"] >= 0 and (row["peer"] is None or row["peer"] > 0) for row in (measured, *measured.get("more", ())))
