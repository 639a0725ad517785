"""Applications in clusters that run: what is there, and taking one out. ``slipway run APPIMAGE`` puts one in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.clusters import _login, _machines
from harness.cli.operate import _OrList
from harness.cli.output import Json, Yes, app, existing, plain, print_json, say, short, table, wants_json
from harness.errors import UsageError
from harness.oci.store import Store

_HELP = """List or remove the applications of a cluster. Without a subcommand, list them.

\b
  slipway run shop --name prod -e Port=8080     puts one in, or brings it up to date
  slipway apps --name prod                      lists them
  slipway apps remove shop --name prod          takes one out
"""
apps_app = typer.Typer(cls=_OrList, help=_HELP)
app.add_typer(apps_app, name="apps")

ClusterName = Annotated[str | None, typer.Option("--name", help="The cluster.  [default: default]", show_default=False)]
Masters = Annotated[
    list[str] | None,
    typer.Option(
        "--masters",
        "--master",
        "-m",
        help="Its control-plane nodes, if the cluster is not known on this machine or was not made by slipway.",
        metavar="IP[,IP...]",
        show_default=False,
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="A cluster that slipway has not made; commands are launched on this machine.", show_default=False),
]
User = Annotated[str, typer.Option("--user", "-u", help="The SSH user: root, or a user with sudo without a password.")]
Key = Annotated[Path | None, typer.Option("--key", "--pk", help="The SSH key.  [default: the agent and ~/.ssh]", show_default=False)]
Passwd = Annotated[
    str | None,
    typer.Option(
        "--passwd", "-p", help="The SSH password: - asks for it; SLIPWAY_SSH_PASSWORD may hold it.", metavar="-", show_default=False
    ),
]
Port = Annotated[int, typer.Option(help="The SSH port.")]


@apps_app.command("list")
def apps_list(
    name: ClusterName = None,
    masters: Masters = None,
    kubeconfig: Kubeconfig = None,
    user: User = "root",
    key: Key = None,
    passwd: Passwd = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """List the applications of a cluster."""
    from harness.lifecycle.apps import records
    from harness.lifecycle.apps import target as targets

    as_json = wants_json(output)
    with targets.opened(_where(name, masters, kubeconfig, user, key, passwd, port), nodes=False) as target:
        found = records.listed(target.kubectl)
    if as_json:
        print_json([_described(one) for one in found])
        return
    table(
        ("APP", "IMAGE", "DIGEST", "STATE", "OBJECTS", "SINCE"),
        [
            (one.name, one.image, short(one.digest), one.state, str(sum(item.ours for item in one.objects)), one.since.replace("T", " "))
            for one in found
        ],
    )
    for one in found:
        if one.state != records.INSTALLED:
            again = f"slipway run {one.image}" if one.state == records.INSTALLING else f"slipway apps remove {one.name}"
            log.warning(f"{one.name} is {one.state}, and that was not finished: {again}")


def _described(one: Any) -> dict[str, Any]:
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


@apps_app.command("remove")
def apps_remove(
    app_name: Annotated[str, typer.Argument(help="The application, as `slipway apps` calls it.", metavar="APP")],
    name: ClusterName = None,
    masters: Masters = None,
    kubeconfig: Kubeconfig = None,
    user: User = "root",
    key: Key = None,
    passwd: Passwd = None,
    port: Port = 22,
    timeout: Annotated[float, typer.Option(help="Seconds that removed objects may take to disappear.")] = 300,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps and what would be removed, and change nothing.")] = False,
    yes: Yes = False,
    output: Json = "text",
) -> None:
    """Remove an application: the objects that its launch commands made with kubectl and helm, and their data. Older objects stay.

    Other effects of launch commands stay, unless the image has a hook at pre-uninstall in its plugins/.
    """
    from harness.lifecycle.apps import uninstall

    as_json = wants_json(output)
    where = _where(name, masters, kubeconfig, user, key, passwd, port)
    with uninstall.prepared(app_name, where, Store.default(), timeout=timeout) as work:
        going = [str(one) for one in work.record.objects if one.ours and one not in work.kept]
        if plan:
            _show_removal(work, going, as_json)
            return
        if not yes:
            _tell_removal(work, going)
            typer.confirm(f"Remove all this from {work.target.name}, with its data?", abort=True)
    done = uninstall.remove(app_name, where, Store.default(), timeout=timeout)
    if as_json:
        print_json(plain(done))
        return
    say(f"removed {done.name} from {done.cluster} in {log.duration(done.seconds)}: {len(done.removed)} objects")
    for one in done.kept:
        say(f"  stays, since it was there before or another application has it: {one}")
    _tell_unknown(done.unknown)


def _show_removal(work: Any, going: Sequence[str], as_json: bool) -> None:
    from harness.lifecycle import plan as planning
    from harness.lifecycle.apps import uninstall

    described = planning.describe(uninstall.plan(work))
    if as_json:
        kept, unknown = [str(one) for one in work.kept], list(work.record.unknown)
        print_json({"steps": described, "removed": list(going), "kept": kept, "unknown": unknown})
        return
    _tell_removal(work, going)
    say()
    table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])


def _tell_removal(work: Any, going: Sequence[str]) -> None:
    say(f"{work.record.name} ({work.record.image}) in {work.target.name}:")
    for one in reversed(going):
        say(f"  - {one}")
    for one in work.kept:
        say(f"    {one} stays")
    if not work.hooks:
        _tell_unknown(work.record.unknown)


def _tell_unknown(commands: Sequence[str]) -> None:
    for command in commands:
        say(f"  cannot be taken back, as it did more than kubectl and helm: {command.strip()}")


def _where(
    name: str | None, masters: Sequence[str] | None, kubeconfig: Path | None, user: str, key: Path | None, passwd: str | None, port: int
) -> Any:
    from harness.lifecycle.apps.target import Where

    if masters and kubeconfig:
        raise UsageError("--masters and --kubeconfig name two clusters", hint="one of both")
    login = _login(user, port, key, passwd)
    return Where(name, _machines(masters, login, "--masters"), existing(kubeconfig) if kubeconfig else None, login)
