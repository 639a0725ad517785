"""What machines must be before anything on them is changed: all are asked at once, and all that is wrong is told at once."""

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
    """The facts about one machine. Raises NodeError when it gives none."""
    before = time.time()
    try:
        text = node.run(SCRIPT, timeout=300).stdout
        return parse(text, before, time.time())
    except (ValueError, CommandError) as error:
        raise NodeError(
            f"{node.address}: its facts cannot be read: {error}", hint="it must be Linux with a POSIX shell and /proc"
        ) from error


def gather(nodes: Sequence[Node]) -> list[MachineFacts]:
    """The facts about all machines, asked at the same time. Raises NodeError that tells of each that gives none."""
    return each(nodes, ask)


def examine(
    nodes: Mapping[str, Node],
    targets: Sequence[Target],
    wanted: Wanted,
    members: Sequence[Target] = (),
    away: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """Try what can be tried on machines of which the facts are known, and judge them.

    ``nodes`` are by address. ``members`` are in the cluster already; ``away`` are those of them that do not answer, addresses by name.
    """
    tried = {target.address: target for target in probes.tried(nodes, targets, wanted, members)}
    new, old = ([tried[one.address] for one in group] for group in (targets, members))
    return (*preflight.judge(new, wanted, old), *preflight.same_names(targets, away or {}))


def skipping(ids: Collection[str], option: str = "--skip-check") -> frozenset[str]:
    """The ids of checks that somebody goes on in spite of. Raises UsageError for one that is none, or that is needed."""
    return findings.check_ids(ids, CHECKS, option)


def require(found: Sequence[Finding], skip: Collection[str] = ()) -> str:
    """Show the warnings. Raises CheckError that tells all faults at once. Returns how much was looked at, in words."""
    findings.require(findings.skip(found, skip))
    machines = len({finding.where for finding in found})
    return f"{len({finding.check for finding in found})} checks on {machines} machine{'s' if machines > 1 else ''}"
