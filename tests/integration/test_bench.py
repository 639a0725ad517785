"""Benchmarks that need no cluster, at their smallest size: both sides do what they should. Their figures mean nothing here."""

from __future__ import annotations

import pytest

from harness import engine
from harness.images import Builder, bundled
from harness.nodes.container import IMAGE
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.bench import run

CHEAP = ("archive", "capture", "fan-out", "push-pull", "slow-link")


@pytest.mark.parametrize("name", CHEAP)
def test_a_benchmark_works(name: str) -> None:
    if name == "fan-out":
        Builder(Store.default(), tuple(bundled())).engine_image(engine.connect(), Reference.parse(IMAGE))
    found = run.smoke(name)
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in (found, *found.get("more", ())))
