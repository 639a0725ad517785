"""Preflight checks of machines before anything on them is changed: all machines at once, with all failures at once."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from harness.errors import CommandError, NodeError
from harness.lifecycle.checks import findings, preflight
from harness.lifecycle.checks.facts import NEEDED, SCRIPT, MachineFacts, parse
from harness.lifecycle.checks.findings import Finding
from harness.lifecycle.checks.preflight import CHECKS, Target, Wanted, ours, probes
from harness.nodes import Node, each

__all__ = ["NEEDED", "MachineFacts", "Target", "Wanted", "ask", "examine", "gather", "ours", "require", "skipping"]


def ask(node: Node) -> MachineFacts:
    """Ask a machine for its facts. Raises NodeError when they cannot be read."""
    before = time.time()
    try:
        text = node.run(SCRIPT, timeout=300).stdout
        return parse(text, before, time.time())
    except (ValueError, CommandError) as error:
        raise NodeError(
            f"{node.address}: its facts cannot be read: {error}", hint="it must be Linux with a POSIX shell and /proc"
        ) from error


def gather(nodes: Sequence[Node]) -> list[MachineFacts]:
    """Ask all machines for their facts in parallel. Raises NodeError with every machine whose facts cannot be read."""
    return each(nodes, ask)


def examine(
    nodes: Mapping[str, Node],
    targets: Sequence[Target],
    wanted: Wanted,
    members: Sequence[Target] = (),
    away: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """Run the probes on machines with known facts, and evaluate all checks.

    ``nodes`` are by address. ``members`` are in the cluster already; ``away`` are members that do not answer, addresses by name.
    """
    probed = {target.address: target for target in probes.probed(nodes, targets, wanted, members)}
    new, old = ([probed[each.address] for each in group] for group in (targets, members))
    return (*preflight.evaluate(new, wanted, old), *preflight.same_names(targets, away or {}))


def skipping(ids: Collection[str], option: str = "--skip-check") -> frozenset[str]:
    """Validate the ids of checks to skip. Raises UsageError for an unknown one, and for one that is needed."""
    return findings.check_ids(ids, CHECKS, option)


def require(results: Sequence[Finding], skip: Collection[str] = ()) -> str:
    """Print the warnings; return the number of checks and machines as text. Raises CheckError with all failures."""
    findings.require(findings.skip(results, skip))
    machines = len({finding.where for finding in results})
    return f"{len({finding.check for finding in results})} checks on {machines} machine{'s' if machines > 1 else ''}"
