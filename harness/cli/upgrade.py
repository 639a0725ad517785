"""A cluster goes to another image, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.clusters import File, Name, _login, _machines
from harness.cli.members import Key, Passwd, Port, User, Via
from harness.cli.output import Json, Yes, app, pairs, plain, print_json, say, table, wants_json
from harness.cli.registry import Ca, PlainHttp, fetch
from harness.errors import UsageError

Secret = Annotated[
    list[str] | None,
    typer.Option(
        "--env", "-e", help="Another value, or a secret one; the cluster does not store these.", metavar="NAME=VALUE",
        show_default=False,
    ),
]  # fmt: skip
Batch = Annotated[
    int | None, typer.Option(help="Workers that are updated together.  [default: one in ten]", metavar="N", show_default=False)
]
Force = Annotated[
    bool, typer.Option("--force", help="Do not wait for pods that nothing restarts or that are not evicted in time; they are lost.")
]
Drain = Annotated[float, typer.Option("--drain-timeout", help="Seconds that pods may take to leave a node.")]
Timeout = Annotated[float, typer.Option(help="Seconds that each component may take to start, and workloads to become ready.")]
Plan = Annotated[bool, typer.Option("--plan", help="Show versions and steps, and change nothing.")]


@app.command()
def upgrade(
    words: Annotated[list[str], typer.Argument(help="The image; the name of the cluster may precede it.", metavar="[NAME] IMAGE")],
    file: File = None,
    env: Secret = None,
    batch: Batch = None,
    force: Force = False,
    yes: Yes = False,
    user: User = "root",
    key: Key = None,
    passwd: Passwd = None,
    port: Port = 22,
    via: Via = None,
    plain_http: PlainHttp = False,
    ca: Ca = None,
    drain_timeout: Drain = 120,
    timeout: Timeout = 600,
    plan: Plan = False,
    output: Json = "text",
) -> None:
    """Upgrade a running cluster to another image. It keeps serving: control-plane nodes go one by one, then workers in batches.

    Settings of the cluster stay. The same command again finishes an interrupted upgrade, and `slipway rollback` restores the previous
    image.

    \b
      slipway upgrade web:2 --plan
      slipway upgrade production registry.example.com/web:2 --batch 5
    """
    from harness.lifecycle import upgrade as upgrading
    from harness.oci.store import Store

    as_json = wants_json(output)
    name, image = _name_and_image(words)
    options = _options(file, env, batch, force, user, key, passwd, port, via, drain_timeout, timeout)
    fetch(image, plain_http, ca)
    with upgrading.prepared(name, image, options, store=Store.default()) as work:
        if file is not None and options.clusterfile is not None:
            upgrading.require_same(work.found.record.clusterfile, options.clusterfile)
        _go(upgrading, work, plan, yes, as_json)


@app.command()
def rollback(
    name: Name = "default",
    file: File = None,
    env: Secret = None,
    batch: Batch = None,
    force: Force = False,
    yes: Yes = False,
    user: User = "root",
    key: Key = None,
    passwd: Passwd = None,
    port: Port = 22,
    via: Via = None,
    drain_timeout: Drain = 120,
    timeout: Timeout = 600,
    plan: Plan = False,
    output: Json = "text",
) -> None:
    """Return a cluster to its previous image. This works also in the middle of an upgrade."""
    from harness.lifecycle import rollback as back
    from harness.lifecycle import upgrade as upgrading

    as_json = wants_json(output)
    options = _options(file, env, batch, force, user, key, passwd, port, via, drain_timeout, timeout)
    with back.prepared(name, options, mend=not plan) as work:
        _go(upgrading, work, plan, yes, as_json)


def _name_and_image(words: list[str]) -> tuple[str, str]:
    from harness.host.cluster_cache import DEFAULT_NAME

    if len(words) > 2:
        raise UsageError(f"{' '.join(words)}: a cluster and an image are enough", hint="slipway upgrade NAME IMAGE")
    return (words[0], words[1]) if len(words) == 2 else (DEFAULT_NAME, words[0])


def _options(
    file: str | None,
    env: list[str] | None,
    batch: int | None,
    force: bool,
    user: str,
    key: Path | None,
    passwd: str | None,
    port: int,
    via: list[str] | None,
    drain_timeout: float,
    timeout: float,
) -> Any:
    from harness.lifecycle.cluster import request
    from harness.lifecycle.upgrade import Options, batch_of

    login = _login(user, port, key, passwd)
    values = pairs(env or [], "--env")
    batch_of(0, batch)
    return Options(
        via=_machines(via, login, "--via"),
        clusterfile=request.read(file, values) if file else None,
        env=values,
        password=login.password,
        batch=batch,
        force=force,
        drain_timeout=drain_timeout,
        timeout=timeout,
    )


def _go(upgrading: Any, work: Any, plan: bool, yes: bool, as_json: bool) -> None:
    move = work.move
    nothing = move.before == move.after and not work.resumed
    if plan:
        _show_plan(work, as_json)
        return
    if not yes and not nothing:
        _show_turns(work)
        typer.confirm(f"\nHave {work.found.state.name} run {move.after}?", abort=True)
    done = upgrading.carry_out(work)
    if as_json:
        print_json(plain(done))
    elif done.nothing:
        say(f"{done.name} runs {done.after} already; nothing to do")
    else:
        say(f"{done.name} runs {done.after} now, instead of {done.before}")
        say(f"  {done.kind} of {len(done.nodes)} nodes in {log.duration(done.seconds)}; the longest steps:")
        for step in sorted((one for one in log.finished if one.seconds), key=lambda one: -(one.seconds or 0))[:5]:
            say(f"    {log.duration(step.seconds or 0):>10}  {step.title}")
        if done.kind == "upgrade":
            say(f"  slipway rollback {done.name} brings {done.before} back")


def _show_plan(work: Any, as_json: bool) -> None:
    from harness.lifecycle import plan as planning
    from harness.lifecycle import rolling_update

    described = planning.describe(rolling_update.plan(work))
    if as_json:
        nodes = list(rolling_update.described(work))
        move = plain(work.move)
        print_json({"kind": move["kind"], "resumed": work.resumed, "before": move["before"], "after": move["after"], "nodes": nodes,
                    "steps": described})  # fmt: skip
        return
    _show_turns(work)
    say()
    table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])


def _show_turns(work: Any) -> None:
    from harness.lifecycle import rolling_update

    again = " (goes on with what was begun)" if work.resumed else ""
    say(f"{work.move.kind} of {work.found.state.name}: {work.move.before} -> {work.move.after}{again}")
    table(
        ("TURN", "NODE", "ADDRESS", "ROLE", "KUBERNETES"),
        [
            (
                str(one["turn"]),
                one["node"],
                one["address"],
                one["role"],
                one["from"] if one["from"] == one["to"] else f"{one['from']} -> {one['to']}",
            )
            for one in rolling_update.described(work)
        ],
    )
