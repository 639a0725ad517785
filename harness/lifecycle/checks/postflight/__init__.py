"""``slipway check --post``: health checks of a running cluster, and its audit against the CIS benchmark."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path

from harness.host import cluster_cache
from harness.lifecycle.checks import findings
from harness.lifecycle.checks.findings import Report

# Each module adds its checks: this is the order in which they are reported.
# isort: off
from harness.lifecycle.checks.postflight import machines, workloads, control_plane as postflight_control_plane, network  # noqa: F401 -- see above

# isort: on
from harness.lifecycle.checks.postflight import cis, core, gather
from harness.lifecycle.checks.postflight.cis import facts as cis_facts
from harness.lifecycle.checks.postflight.core import CHECKS
from harness.lifecycle.cluster import access
from harness.nodes import Machine
from harness.oci.store import Store

__all__ = ["CHECKS", "against_cis", "post"]


def post(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    skip: Collection[str] = (),
    store: Store | None = None,
    home: Path | None = None,
) -> Report:
    """Check the health of a cluster. Raises UsageError when it is not known, NodeError when none of its nodes answers."""
    started = time.monotonic()
    skipped = findings.check_ids(skip, CHECKS)
    with access.opened(access.known(name, control_plane, workers, home=home)) as cluster:
        health = gather.gather(cluster, store or Store.default())
    reported = findings.skip(core.evaluate(health), skipped)
    return Report(name, reported, CHECKS, health.names, time.monotonic() - started, health.roles, health.version or "")


def against_cis(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    skip: Collection[str] = (),
    home: Path | None = None,
) -> Report:
    """Check any cluster against the CIS benchmark. Nothing is changed. Raises as ``post`` does."""
    started = time.monotonic()
    skipped = findings.check_ids(skip, cis.CHECKS)
    with access.opened(access.known(name, control_plane, workers, home=home)) as cluster:
        facts = cis_facts.gather(cluster)
    reported = findings.skip(cis.evaluate(facts), skipped)
    return Report(name, reported, cis.CHECKS, facts.names, time.monotonic() - started, facts.roles)
