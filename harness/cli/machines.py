"""Machines to run clusters on, and the engine of this one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import providers
from harness.cli.options import CONTROL_PLANE_ALIASES, WORKER_ALIASES, Output, Yes, confirmed, option
from harness.cli.output import one_of, say, table
from harness.cli.providers import CloudOptions, ProviderName
from harness.cli.root import engine_app, nodes_app

if TYPE_CHECKING:
    from harness.nodes import NodeGroup

GroupName = Annotated[str, typer.Argument(help="The group.", metavar="NAME")]


@nodes_app.command("up", short_help="Boot machines, ready for `slipway run`.")
def nodes_up(
    *,
    control_plane: Annotated[
        int, typer.Option("--control-plane", min=0, metavar="N", help="Number of control-plane nodes."), CONTROL_PLANE_ALIASES
    ] = 1,
    workers: Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Number of workers."), WORKER_ALIASES] = 0,
    name: Annotated[str, typer.Option("--name", help="The name of the group.", metavar="NAME")] = "default",
    subnet: Annotated[
        str | None,
        option(
            "--subnet",
            help="Their network: of containers as 192.168.0.0/24, the first is 192.168.0.2; of a cloud the id of a subnet or vSwitch.  "
            "[default: a free one; aws: the account's]",
            metavar="NETWORK",
        ),
    ] = None,
    provider: ProviderName = "container",
    cloud: CloudOptions,
    output: Output,
) -> None:
    """Boot machines, ready for `slipway run`: containers on an isolated network, or machines of a cloud.

    \b
      slipway nodes up --control-plane 1 --workers 2
      slipway nodes up --provider aws --size t3.large --image ami-0123456789abcdef0 --workers 2
    """
    if one_of(provider, providers.NAMES, "--provider") == providers.CONTAINER:
        cloud.refuse()
        _show_group(_containers(name, control_plane, workers, subnet), output)
        return
    spec = cloud.spec(provider, subnet)
    _show_group(providers.cloud(provider, spec).up(name, control_plane, workers, image=spec.image), output)


def _containers(name: str, control_plane: int, workers: int, subnet: str | None) -> NodeGroup:
    from harness.build import container_images
    from harness.nodes.container import IMAGE, ContainerProvider, member_addresses

    if subnet:
        member_addresses(subnet, control_plane + workers)  # before an image is made
    provider = ContainerProvider()
    return provider.up(name, control_plane, workers, image=container_images.package_image(provider.client, IMAGE), subnet=subnet)


@nodes_app.command("down", short_help="Remove a group of machines.")
def nodes_down(*, name: GroupName = "default", provider: ProviderName = "container", output: Output) -> None:
    """Remove a group of machines, their disks, network and keys."""
    removed = providers.of(provider).down(name)
    if output.printed({"name": name, "removed": removed}):
        return
    say(f"removed {name}" if removed else f"nothing to remove: there is no group {name}; slipway nodes list shows the groups")


@nodes_app.command("restart", short_help="Restart machines, all at once.")
def nodes_restart(
    *,
    names: Annotated[list[str], typer.Argument(help="Names of machines, as `nodes list` shows them.", metavar="NODE...")],
    provider: ProviderName = "container",
    output: Output,
) -> None:
    """Restart machines, all at once, as after a loss of power; their disks stay."""
    from harness.errors import UsageError
    from harness.nodes import each
    from harness.nodes.container import ContainerProvider

    one_of(provider, (providers.CONTAINER,), "--provider")
    machine_provider = ContainerProvider()
    existing = {member.name for group in machine_provider.list() for member in group.members}
    if missing := [name for name in names if name not in existing]:
        raise UsageError(f"there is no node named {', '.join(missing)}", hint="slipway nodes list shows those there are")
    each(names, machine_provider.restart)
    if not output.printed({"restarted": names}):
        say(f"restarted {', '.join(names)}")


@nodes_app.command("list")
def nodes_list(*, provider: ProviderName = "container", output: Output) -> None:
    """List the machines that exist."""
    groups = providers.of(provider).list()
    if output.printed([_group_json(group) for group in groups]):
        return
    table(
        ("GROUP", "NAME", "ROLE", "ADDRESS"),
        [(group.name, member.name, member.role, member.address) for group in groups for member in group.members],
    )


def _group_json(group: NodeGroup) -> dict[str, Any]:
    members = [{"name": member.name, "address": member.address, "role": member.role} for member in group.members]
    return {
        "name": group.name,
        "provider": group.provider,
        "user": group.login.user,
        "key": str(group.login.key) if group.login.key else None,
        "nodes": members,
    }


def _show_group(group: NodeGroup, output: Output) -> None:
    if output.printed(_group_json(group)):
        return
    table(("NAME", "ROLE", "ADDRESS"), [(member.name, member.role, member.address) for member in group.members])
    control_plane = ",".join(machine.address for machine in group.control_plane)
    workers = ",".join(machine.address for machine in group.workers)
    say(f"\nkey  {group.login.key}\n")
    say(
        f"slipway run IMAGE --control-plane {control_plane}"
        + (f" --workers {workers}" if workers else "")
        + f" --user {group.login.user} --key {group.login.key}"
    )


@engine_app.command("repair", short_help="Restart the engine with another runtime.")
def engine_repair(yes: Yes = False) -> None:
    """Restart the running engine with a runtime for machines that lack capabilities. This stops containers."""
    from harness.host import docker

    if not yes:
        confirmed("This restarts the Docker engine and stops what runs in it. Go on?")
    docker.repair()


@engine_app.command("show", short_help="Show the engine that slipway uses.")
def engine_show(output: Output) -> None:
    """Show the Docker engine that slipway uses. It starts none."""
    from harness.host import docker

    engine = docker.describe()
    if output.printed(engine):
        return
    for name, value in engine.items():
        say(f"{name:<13}{value}")
