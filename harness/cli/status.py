"""State of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.options import NamedCluster, NodesAccess, Output
from harness.cli.output import say, short, table
from harness.cli.root import app


@app.command()
def status(*, cluster: NamedCluster, access: NodesAccess, output: Output) -> None:
    """Show the state of a cluster."""
    from harness.lifecycle import status as lifecycle_status

    state = lifecycle_status.status(cluster.name, *access.members(cluster.name))
    if not output.printed(state):
        _show_status(state)


def _show_status(state: Mapping[str, Any]) -> None:
    health = "healthy" if state["healthy"] else "not healthy"
    say(f"{state['name']}  {health}, Kubernetes {state['kubernetes'] or 'does not answer'}")
    if state["image"]:
        say(f"image  {state['image']}  {short(state['digest'])}")
    if state["change"]:
        change = state["change"]
        say(f"{change['kind']}  to {change['to']}, begun at {change['since']}, has not come to its end")
    serving = sum(one["active"] for one in state["registry"])
    counts = [f"{counted['ready']} of {counted['total']} {kind}s" for kind, counted in state["workloads"].items()]
    say(f"ready  {', '.join(counts) or 'nothing'}; {serving} of {len(state['registry'])} registries{_balancers(state['balancers'])}\n")
    table(
        ("NODE", "ADDRESS", "ROLES", "READY", "VERSION", "RUNTIME"),
        [
            (
                one["name"],
                one["address"] or "-",
                ",".join(one["roles"]),
                "yes" if one["ready"] else "no",
                one["version"] or "-",
                one["runtime"] or "-",
            )
            for one in state["nodes"]
        ],
    )
    for problem in state["notReady"]:
        say(f"\n{problem['object']}: {problem['reason']}")
        for line in (*problem["events"], *problem["log"]):
            say(f"    {line}")
    for one in state["balancers"]:
        if not one["active"]:
            say(f"\n{one['address']}: its balancer to the control-plane nodes does not run: systemctl status slipway-balancer")
    for one in state["unreachable"]:
        say(f"\n{one['address']}: {one['reason']}")


def _balancers(balancers: Sequence[Mapping[str, Any]]) -> str:
    active = sum(one["active"] for one in balancers)
    kinds = " and ".join(sorted({one["kind"] for one in balancers}))
    return f", {active} of {len(balancers)} balancers ({kinds})" if balancers else ""
