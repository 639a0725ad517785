"""Preflight checks: some forty-five rules over the facts about machines. Nothing is asked and nothing is done here."""

from harness.lifecycle.checks.preflight import machine, network, system  # noqa: F401 -- they add their checks, in this order
from harness.lifecycle.checks.preflight.core import (
    CHECKS,
    VXLAN_PORT,
    ProbeResult,
    Target,
    Wanted,
    evaluate,
    ours,
    ports_of,
    same_names,
    ways,
)
from harness.lifecycle.checks.preflight.machine import SLOW_SYNC
from harness.lifecycle.checks.preflight.network import clock

__all__ = [
    "CHECKS", "SLOW_SYNC", "VXLAN_PORT",
    "ProbeResult", "Target", "Wanted", "clock", "evaluate", "ours", "ports_of", "same_names", "ways",
]  # fmt: skip
