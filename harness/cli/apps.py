"""Applications in clusters that run: what is there, and taking one out. ``slipway run APPIMAGE`` puts one in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli import completion
from harness.cli.options import ClusterAccess, ClusterName, Output, Yes, confirmed, existing, option, seconds, to_machines
from harness.cli.output import say, short, steps_table, table
from harness.cli.program import ListGroup, Program
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.lifecycle.apps.records import Installed
    from harness.lifecycle.apps.target import Where
    from harness.lifecycle.apps.uninstall import AppRemoval

_HELP = """List or remove the applications of a cluster. Without a subcommand, list them.

\b
  slipway run shop --cluster prod -e Port=8080     puts one in, or brings it up to date
  slipway apps --cluster prod                      lists them
  slipway apps remove shop --cluster prod          takes one out
"""
apps_app = Program(cls=ListGroup, help=_HELP)
app.add_typer(apps_app, name="apps")


@dataclasses.dataclass(frozen=True)
class AppsAccess(ClusterAccess):
    """The cluster of applications, which slipway need not have made."""

    cluster: ClusterName = None
    kubeconfig: Annotated[
        Path | None,
        option("--kubeconfig", help="A cluster that slipway has not made; commands are launched on this machine.", metavar="FILE"),
    ] = None

    def where(self) -> Where:
        from harness.lifecycle.apps.target import Where

        if self.via and self.kubeconfig:
            raise UsageError("--via and --kubeconfig name two clusters", hint="one of both")
        login = self.login()
        kubeconfig = existing(self.kubeconfig) if self.kubeconfig else None
        return Where(self.cluster, to_machines(self.via, login, "--via", self.cluster), kubeconfig, login)


@apps_app.command("list")
def apps_list(
    *,
    access: AppsAccess,
    output: Output,
) -> None:
    """List the applications of a cluster."""
    from harness.lifecycle.apps import records
    from harness.lifecycle.apps import target as apps_target

    with apps_target.opened(access.where(), nodes=False) as target:
        installed = records.listed(target.kubectl)
    if output.printed([_described(one) for one in installed]):
        return
    table(
        ("APP", "IMAGE", "DIGEST", "STATE", "OBJECTS", "SINCE"),
        [
            (one.name, one.image, short(one.digest), one.state, str(sum(item.ours for item in one.objects)), one.since.replace("T", " "))
            for one in installed
        ],
    )
    for one in installed:
        if one.state != records.INSTALLED:
            again = f"slipway run {one.image}" if one.state == records.INSTALLING else f"slipway apps remove {one.name}"
            log.warning(f"{one.name} is {one.state}, and that was not finished: {again}")


def _described(one: Installed) -> dict[str, Any]:
    from harness.clusterfile import write

    return {
        "name": one.name,
        "image": one.image,
        "digest": one.digest,
        "state": one.state,
        "since": one.since,
        "byFile": one.by_file,
        "kubeVersion": one.kube_version,
        "domains": list(one.domains),
        "env": write.redacted_env(one.application) if one.application else {},
        "objects": [{"object": str(item), "ours": item.ours} for item in one.objects],
        "unknown": list(one.unknown),
    }


@apps_app.command("remove", short_help="Remove an application and its data.")
def apps_remove(
    *,
    app_name: Annotated[
        str, typer.Argument(help="The application, as `slipway apps` calls it.", metavar="APP", autocompletion=completion.applications)
    ],
    access: AppsAccess,
    timeout: Annotated[float, seconds("--timeout", help="Seconds that removed objects may take to disappear.")] = 300,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps and what would be removed, and change nothing.")] = False,
    yes: Yes = False,
    output: Output,
) -> None:
    """Remove an application: the objects that its launch commands made with kubectl and helm, and their data. Older objects stay.

    Other effects of launch commands stay, unless the image has a hook at pre-uninstall in its plugins/.
    """
    from harness.lifecycle.apps import uninstall

    where = access.where()
    with uninstall.prepared(app_name, where, timeout=timeout) as work:
        going = [str(one) for one in work.record.objects if one.ours and one not in work.kept]
        if plan:
            _show_removal(work, going, output)
            return
        if not yes:
            _tell_removal(work, going)
            confirmed(f"Remove all this from {work.target.name}, with its data?")
    removal = uninstall.remove(app_name, where, timeout=timeout)
    if output.printed(removal):
        return
    say(f"removed {removal.name} from {removal.cluster} in {log.duration(removal.seconds)}: {len(removal.removed)} objects")
    for one in removal.kept:
        say(f"  stays, since it was there before or another application has it: {one}")
    _tell_unknown(removal.unknown)


def _show_removal(work: AppRemoval, going: Sequence[str], output: Output) -> None:
    from harness.lifecycle import plan as lifecycle_plan
    from harness.lifecycle.apps import uninstall

    described = lifecycle_plan.describe(uninstall.plan(work))
    kept = [str(one) for one in work.kept]
    if output.printed({"steps": described, "removed": going, "kept": kept, "unknown": work.record.unknown}):
        return
    _tell_removal(work, going)
    say()
    steps_table(described)


def _tell_removal(work: AppRemoval, going: Sequence[str]) -> None:
    say(f"{work.record.name} ({work.record.image}) in {work.target.name}:")
    for one in reversed(going):
        say(f"  - {one}")
    for kept in work.kept:
        say(f"    {kept} stays")
    if not work.hooks:
        _tell_unknown(work.record.unknown)


def _tell_unknown(commands: Sequence[str]) -> None:
    for command in commands:
        say(f"  cannot be taken back, as it did more than kubectl and helm: {command.strip()}")
