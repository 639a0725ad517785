"""Collect logs of a cluster for support."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from harness import log
from harness.cli.options import FORMER_FILE, NamedCluster, NodesAccess, Output, option, target
from harness.cli.output import say
from harness.cli.root import app


@app.command()
def logs(
    *,
    cluster: NamedCluster,
    file: Annotated[Path | None, target("Write to this file.  [default: NAME-logs-DATE.tar.gz]"), FORMER_FILE] = None,
    since: Annotated[str | None, option("--since", help="Only what is younger: 30m, 1h, 2d.", metavar="TIME")] = None,
    access: NodesAccess,
    output: Output,
) -> None:
    """Collect logs and facts of a cluster for support. The file has no secrets in it."""
    import datetime

    from harness.lifecycle import logs as lifecycle_logs

    span = lifecycle_logs.since_of(since) if since else None
    path = file or Path(f"{cluster.name}-logs-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.tar.gz")
    result = lifecycle_logs.bundle(path, cluster.name, *access.members(cluster.name), since=span)
    if output.printed(result):
        return
    say(f"{result.file}: {result.files} files, {log.size(result.size)}")
    for address, reason in result.unreachable.items():
        say(f"  {address}: {reason}; nothing of it is there")
    for missing, reason in result.missing.items():
        say(f"  {missing}: {reason}")
