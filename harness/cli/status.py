"""State of a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.options import Json, NamedCluster, NodesAccess
from harness.cli.output import print_json, say, short, table, wants_json
from harness.cli.root import app


@app.command()
def status(*, cluster: NamedCluster, access: NodesAccess, output: Json = "text") -> None:
    """Show the state of a cluster."""
    from harness.lifecycle import status as states

    as_json = wants_json(output)
    found = states.status(cluster.name, *access.members())
    print_json(found) if as_json else _show_status(found)


def _show_status(found: Mapping[str, Any]) -> None:
    health = "healthy" if found["healthy"] else "not healthy"
    say(f"{found['name']}  {health}, Kubernetes {found['kubernetes'] or 'does not answer'}")
    if found["image"]:
        say(f"image  {found['image']}  {short(found['digest'])}")
    if found["change"]:
        change = found["change"]
        say(f"{change['kind']}  to {change['to']}, begun at {change['since']}, has not come to its end")
    serving = sum(one["active"] for one in found["registry"])
    counts = [f"{counted['ready']} of {counted['total']} {kind}s" for kind, counted in found["workloads"].items()]
    say(f"ready  {', '.join(counts) or 'nothing'}; {serving} of {len(found['registry'])} registries{_balancers(found['balancers'])}\n")
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
            for one in found["nodes"]
        ],
    )
    for problem in found["notReady"]:
        say(f"\n{problem['object']}: {problem['reason']}")
        for line in (*problem["events"], *problem["log"]):
            say(f"    {line}")
    for one in found["balancers"]:
        if not one["active"]:
            say(f"\n{one['address']}: its balancer to the control-plane nodes does not run: systemctl status slipway-balancer")
    for one in found["unreachable"]:
        say(f"\n{one['address']}: {one['reason']}")


def _balancers(found: Sequence[Mapping[str, Any]]) -> str:
    active = sum(one["active"] for one in found)
    kinds = " and ".join(sorted({one["kind"] for one in found}))
    return f", {active} of {len(found)} balancers ({kinds})" if found else ""
