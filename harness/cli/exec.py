"""Run a command on the machines of a cluster."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from harness import untrusted
from harness.cli import completion
from harness.cli.options import NamedCluster, NodesAccess, Output, option
from harness.cli.output import say
from harness.cli.program import WithCommand, command_words
from harness.cli.root import app


@app.command("exec", cls=WithCommand)
def execute(
    *,
    context: typer.Context,
    cluster: NamedCluster,
    role: Annotated[
        str | None,
        option(
            "--role",
            help="Only on machines with this role: control-plane, worker, or a role of your own.",
            metavar="ROLE",
            complete=completion.values("control-plane", "worker"),
        ),
    ] = None,
    on: Annotated[list[str] | None, option("--on", help="Only on these machines: addresses or names.", metavar="IP[,IP...]")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Machines at a time.", metavar="N", min=1)] = 16,
    access: NodesAccess,
    output: Output,
) -> None:
    """Run a command on all machines of a cluster at once, as root.

    One word after -- is shell text, several are a program and its arguments. Exits with 6 if the command failed on a machine, with 5 if
    a machine could not be reached. On a terminal, control characters of the output are printed as \\x1b, so that no machine can
    steer it; in a pipe or a file the output is unchanged.
    """
    from harness.lifecycle import exec as lifecycle_exec

    command = lifecycle_exec.shell_text(command_words(context))
    chosen = [word.strip() for one in on or () for word in one.split(",") if word.strip()]
    control_plane, workers = access.members(cluster.name)
    outcomes = lifecycle_exec.execute(
        command, name=cluster.name, control_plane=control_plane, workers=workers, role=role, on=chosen, jobs=jobs,
        show=None if output.is_json else _show_line,
    )  # fmt: skip
    output.printed({"command": command, "nodes": [outcome.to_json() for outcome in outcomes]})
    lifecycle_exec.judge(outcomes)


def _show_line(name: str, stream: str, line: str) -> None:
    target = sys.stderr if stream == "stderr" else sys.stdout
    if target.isatty():
        say(f"{name}: {line}", file=target, flush=True)
    else:
        # For a program or a file: as the machine printed it.
        print(f"{untrusted.shown(name)}: {line}", file=target, flush=True)
