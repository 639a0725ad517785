"""Nodes of a running cluster: they join, and they are removed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.clusters import Name, SkipCheck, _login, _machines, skipping
from harness.cli.output import Json, Yes, app, pairs, plain, print_json, say, table, wants_json

User = Annotated[str, typer.Option("--user", "-u", help="The SSH user: root, or a user with sudo without a password.")]
Key = Annotated[Path | None, typer.Option("--key", "--pk", help="The SSH key.  [default: the agent and ~/.ssh]", show_default=False)]
Passwd = Annotated[
    str | None,
    typer.Option(
        "--passwd", "-p", help="The SSH password: - asks for it; SLIPWAY_SSH_PASSWORD may hold it.", metavar="-", show_default=False
    ),
]
Port = Annotated[int, typer.Option(help="The SSH port.")]
Via = Annotated[
    list[str] | None,
    typer.Option(help="Control-plane nodes of the cluster, if it is not known on this machine.", metavar="IP[,IP...]", show_default=False),
]
Plan = Annotated[bool, typer.Option("--plan", help="Show the steps and change nothing.")]


@app.command()
def join(
    name: Name = "default",
    masters: Annotated[
        list[str] | None,
        typer.Option(
            "--masters",
            "--master",
            "-m",
            help="Machines that become control-plane nodes; ranges are allowed.",
            metavar="IP[,IP...]",
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option(
            "--nodes", "--node", "-n", help="Machines that become workers; ranges are allowed.", metavar="IP[,IP...]", show_default=False
        ),
    ] = None,
    user: User = "root",
    key: Key = None,
    passwd: Passwd = None,
    port: Port = 22,
    via: Via = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", help="A secret value; the cluster does not store these.", metavar="NAME=VALUE", show_default=False),
    ] = None,
    skip_check: SkipCheck = None,
    timeout: Annotated[float, typer.Option(help="Seconds that the machines may take to become ready.")] = 600,
    plan: Plan = False,
    output: Json = "text",
) -> None:
    """Add nodes to a running cluster. The same command again finishes an interrupted join."""
    from harness.lifecycle import join as joining

    as_json = wants_json(output)
    login = _login(user, port, key, passwd)
    new_masters, new_nodes = _machines(masters, login, "--masters"), _machines(nodes, login, "--nodes")
    given: dict[str, Any] = {
        "via": _machines(via, login, "--via"), "env": pairs(env or [], "--env"), "password": login.password, "timeout": timeout,
        "skip_checks": skipping(skip_check),
    }  # fmt: skip
    if plan:
        with joining.prepared(name, new_masters, new_nodes, **given) as work:
            _show_plan(joining.plan(work), as_json)
        return
    done = joining.join(name, new_masters, new_nodes, **given)
    if as_json:
        print_json(plain(done))
        return
    for kind, names in (("master", done.masters), ("node", done.nodes)):
        if names:
            say(f"{', '.join(names)} joined {name} as {kind}{'s' if len(names) > 1 else ''} in {log.duration(done.seconds)}")
    if done.already:
        say(f"{', '.join(done.already)} belonged to {name} before")


@app.command()
def remove(
    words: Annotated[
        list[str],
        typer.Argument(help="The nodes, by address or name; the name of the cluster may precede them.", metavar="[NAME] IP|NODE"),
    ],
    force: Annotated[bool, typer.Option("--force", help="Delete pods that are still on a node when the drain times out.")] = False,
    yes: Yes = False,
    user: User = "root",
    key: Key = None,
    passwd: Passwd = None,
    port: Port = 22,
    via: Via = None,
    timeout: Annotated[float, typer.Option(help="Seconds that pods may take to leave.")] = 120,
    plan: Plan = False,
    output: Json = "text",
) -> None:
    """Drain nodes and remove them from a cluster. Their machines are left as they were found."""
    from harness.lifecycle import remove as removing

    as_json = wants_json(output)
    name, nodes = _name_and_nodes(words, named=bool(via))
    login = _login(user, port, key, passwd)
    given: dict[str, Any] = {"force": force, "via": _machines(via, login, "--via"), "login": login, "drain_timeout": timeout}
    if plan or not yes:
        with removing.prepared(name, nodes, **given) as work:
            if plan:
                _show_plan(removing.plan(work), as_json)
                return
            for node in work.going:
                answers = "" if node in work.alive else ", does not answer"
                say(f"{work.name(node)} {node.address} ({'master' if node in work.masters else 'node'}{answers})")
        typer.confirm(f"Take this out of {name}?", abort=True)
    done = removing.remove(name, nodes, **given)
    if as_json:
        print_json(plain(done))
        return
    say(f"removed {', '.join(done.removed)} from {name} in {log.duration(done.seconds)}; {len(done.cleaned)} machines cleaned")
    for address, reason in done.unreachable.items():
        say(f"  {address} still holds what it held: {reason}")


def _name_and_nodes(words: list[str], *, named: bool = False) -> tuple[str, list[str]]:
    """The cluster and its nodes. The first of several words is a cluster when one of that name is known here or, with ``named``, when it
    is no address: a cluster of which nothing is known here.
    """
    from harness.host import cluster_cache

    first, *rest = words
    known = {state.name for state in cluster_cache.known()}
    if rest and (first in known or (named and not first[:1].isdigit() and ":" not in first)):
        name, words = first, rest
    else:
        name = cluster_cache.DEFAULT_NAME
    return name, [part for word in words for part in word.split(",") if part]


def _show_plan(steps: Any, as_json: bool) -> None:
    from harness.lifecycle import plan as planning

    described = planning.describe(steps)
    if as_json:
        print_json(described)
    else:
        table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])
