"""A cluster goes to another image, and back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from harness import log
from harness.cli import completion
from harness.cli.members import JoinAccess
from harness.cli.options import (
    Clusterfile,
    ClusterOption,
    NamedCluster,
    Output,
    SiteAccess,
    Yes,
    after_cluster,
    confirmed,
    option,
    seconds,
    to_machines,
)
from harness.cli.output import local_store, pairs, plain, print_json, say, steps_table, table
from harness.cli.program import Options
from harness.cli.registry import fetch
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.lifecycle import upgrade as lifecycle_upgrade
    from harness.lifecycle.rollout import RolloutWork

Secret = Annotated[
    list[str] | None,
    option("--env", "-e", help="Another value, or a secret one; the cluster does not store these.", metavar="NAME=VALUE"),
]


@dataclasses.dataclass(frozen=True)
class Rollout(Options):
    """Options for moving nodes to another image."""

    file: Clusterfile = None
    env: Secret = None
    batch: Annotated[
        int | None,
        typer.Option("--batch", help="Workers that are updated together.  [default: one in ten]", metavar="N", min=1, show_default=False),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Do not wait for pods that nothing restarts or that are not evicted in time; they are lost.")
    ] = False
    drain_timeout: Annotated[float, seconds("--drain-timeout", help="Seconds that pods may take to leave a node.")] = 120
    timeout: Annotated[
        float, seconds("--timeout", help="Seconds that each component may take to start, and workloads to become ready.")
    ] = 600
    plan: Annotated[bool, typer.Option("--plan", help="Show versions and steps, and change nothing.")] = False


@app.command()
def upgrade(
    *,
    words: Annotated[
        list[str], after_cluster("The image; the name of the cluster may precede it.", "IMAGE", completion.clusters_and_images)
    ],
    cluster: ClusterOption = None,
    rollout: Rollout,
    access: JoinAccess,
    site: SiteAccess,
    yes: Yes = False,
    output: Output,
) -> None:
    """Upgrade a running cluster to another image. It keeps serving: control-plane nodes go one by one, then workers in batches.

    Settings of the cluster stay. The same command again finishes an interrupted upgrade, and `slipway rollback` restores the previous
    image.

    \b
      slipway upgrade web:2 --plan
      slipway upgrade production registry.example.com/web:2 --batch 5
    """
    from harness.lifecycle import upgrade as lifecycle_upgrade
    from harness.lifecycle.cluster.access import known

    name, image = _name_and_image(words, cluster)
    options = _options(rollout, access, name)
    known(name, options.via)  # before an image is fetched
    fetch(image, site)
    with lifecycle_upgrade.prepared(name, image, options, store=local_store()) as work:
        if rollout.file is not None and options.clusterfile is not None:
            lifecycle_upgrade.require_same(work.found.record.clusterfile, options.clusterfile)
        _go(work, rollout.plan, yes, output)


@app.command()
def rollback(*, cluster: NamedCluster, rollout: Rollout, access: JoinAccess, yes: Yes = False, output: Output) -> None:
    """Return a cluster to its previous image. This works also in the middle of an upgrade."""
    from harness.lifecycle import rollback as lifecycle_rollback

    with lifecycle_rollback.prepared(cluster.name, _options(rollout, access, cluster.name), mend=not rollout.plan) as work:
        _go(work, rollout.plan, yes, output)


def _name_and_image(words: list[str], cluster: str | None) -> tuple[str, str]:
    from harness.host.cluster_cache import DEFAULT_NAME

    *names, image = words
    if cluster is not None:
        names = [*names, cluster]
    if len(set(names)) > 1:
        raise UsageError(f"{' '.join(names)}: a cluster and an image are enough", hint="slipway upgrade IMAGE --cluster NAME")
    return (names[0] if names else DEFAULT_NAME), image


def _options(rollout: Rollout, access: JoinAccess, cluster: str) -> lifecycle_upgrade.RolloutOptions:
    from harness.lifecycle import upgrade as lifecycle_upgrade
    from harness.lifecycle.apps import multi_image
    from harness.lifecycle.cluster import hosts, request

    login = access.login()
    values = pairs(rollout.env or [], "--env")
    lifecycle_upgrade.batch_of(0, rollout.batch)
    wanted = hosts.resolved(request.read(rollout.file, values), request.NO_FLAGS, login.password)[0] if rollout.file else None
    return lifecycle_upgrade.RolloutOptions(
        via=to_machines(access.via, login, "--via", cluster),
        clusterfile=multi_image.settled(wanted, local_store()) if wanted else None,
        env=values,
        password=login.password,
        batch=rollout.batch,
        force=rollout.force,
        drain_timeout=rollout.drain_timeout,
        timeout=rollout.timeout,
    )


def _go(work: RolloutWork, plan: bool, yes: bool, output: Output) -> None:
    from harness.lifecycle import upgrade as lifecycle_upgrade

    move = work.move
    nothing = move.before == move.after and not work.resumed
    if plan:
        _show_plan(work, output)
        return
    if not yes and not nothing:
        _show_batches(work)
        confirmed(f"\nHave {work.found.state.name} run {move.after}?")
    result = lifecycle_upgrade.carry_out(work)
    if output.printed(result):
        return
    if result.nothing:
        say(f"{result.name} runs {result.after} already; nothing to do")
    else:
        say(f"{result.name} runs {result.after} now, instead of {result.before}")
        say(f"  {result.kind} of {len(result.nodes)} nodes in {log.duration(result.seconds)}; the longest steps:")
        for step in sorted((one for one in log.finished if one.seconds), key=lambda one: -(one.seconds or 0))[:5]:
            say(f"    {log.duration(step.seconds or 0):>10}  {step.title}")
        if result.kind == "upgrade":
            say(f"  slipway rollback {result.name} brings {result.before} back")


def _show_plan(work: RolloutWork, output: Output) -> None:
    from harness.lifecycle import plan as lifecycle_plan
    from harness.lifecycle.rollout import plan as rollout_plan

    described = lifecycle_plan.describe(rollout_plan.plan(work))
    if output.is_json:
        nodes = list(rollout_plan.described(work))
        move = plain(work.move)
        print_json({"kind": move["kind"], "resumed": work.resumed, "before": move["before"], "after": move["after"], "nodes": nodes,
                    "steps": described})  # fmt: skip
        return
    _show_batches(work)
    say()
    steps_table(described)


def _show_batches(work: RolloutWork) -> None:
    from harness.lifecycle.rollout import plan as rollout_plan

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
            for one in rollout_plan.described(work)
        ],
    )
