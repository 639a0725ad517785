"""Delete a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.options import NamedCluster, NodesAccess, Output, Yes, confirmed
from harness.cli.output import say
from harness.cli.root import app


@app.command()
def delete(
    *,
    cluster: NamedCluster,
    access: NodesAccess,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget the cluster on this machine; its machines are gone.")] = False,
    yes: Yes = False,
    output: Output,
) -> None:
    """Remove a cluster and leave its machines as they were found. Data of its applications is lost."""
    from harness.lifecycle import delete as lifecycle_delete

    name = cluster.name
    if forget:
        was_known = lifecycle_delete.forget(name)
        if not output.printed({"name": name, "forgotten": was_known}):
            say(f"forgot {name}" if was_known else f"nothing to forget: no cluster {name} is known on this machine")
        return
    machines = access.members(cluster.name)
    work = lifecycle_delete.prepare(name, *machines)
    if not yes:
        say(f"cluster {name} on {', '.join(node.address for node in work.ssh.nodes)}")
        confirmed("Delete it, with all data of its applications?")
    result = lifecycle_delete.delete(name, *machines)
    if output.printed(result):
        return
    say(f"deleted {name}: {len(result.cleaned)} machines cleaned, {len(result.untouched)} untouched, {len(result.unreachable)} not reached")
    for address, reason in result.unreachable.items():
        say(f"  {address}: {reason}")
