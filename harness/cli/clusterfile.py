"""Clusterfiles: apply one, write one, and take over a cluster that has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli import providers, sites
from harness.cli.cluster_options import ClusterOptions, external_registry, known_profile, wanted
from harness.cli.options import ClusterFlags, Output, SiteAccess, Ssh, Yes, addresses, confirmed, to_machines
from harness.cli.output import local_store, pairs, plain, print_json, say, steps_table
from harness.cli.root import app
from harness.cli.run import tell
from harness.errors import StoreError, UsageError

if TYPE_CHECKING:
    from harness.lifecycle.apply import Applied


@app.command()
def apply(
    *,
    asked: ClusterOptions,
    plan: Annotated[bool, typer.Option("--plan", help="Show differences and steps, and change nothing.")] = False,
    yes: Yes = False,
    output: Output,
) -> None:
    """Create or change a cluster as its Clusterfile says.

    \b
      slipway apply -f Clusterfile --plan
      slipway apply -f Clusterfile
      slipway apply -f sites/*.yaml

    Applications that the Clusterfile does not list any more are removed, with their data, after a confirmation.

    Several Clusterfiles are applied at once, eight at a time, and a table shows how each ended; one that fails stops no other.
    """
    from harness.lifecycle import apply as lifecycle_apply
    from harness.lifecycle import counted

    if asked.file is None:
        raise UsageError("no Clusterfile is given", hint="slipway apply -f Clusterfile; slipway generate writes one")
    files = sites.clusterfiles(asked.file, asked.spec.images)
    if files:
        sites.apply(files, asked, plan=plan, yes=yes, output=output)
        return
    clusterfile, options, bring = wanted(asked)
    confirm = _assume_yes if yes else _confirm_removal
    if counted.is_counted(clusterfile):
        source = providers.source(clusterfile)
        result = counted.apply(clusterfile, local_store(), options, source, plan=plan, fetch=bring, confirm=confirm)
    else:
        result = lifecycle_apply.apply(clusterfile, local_store(), options, plan=plan, fetch=bring, confirm=confirm)
    if output.printed(_plain(result)):
        return
    if result.made is not None:
        tell(result.made)
    else:
        _tell(result)


def _assume_yes(_: object) -> None:
    """Confirm without a question."""


def _confirm_removal(gone: Mapping[str, Sequence[str]]) -> None:
    _say_removed(gone)
    confirmed(f"Remove {', '.join(gone)}, with all data?")


def _say_removed(gone: Mapping[str, Sequence[str]]) -> None:
    for name, objects in gone.items():
        say(f"{name} leaves the cluster:")
        for one in reversed(objects):
            say(f"  - {one}")


def _plain(result: Applied) -> dict[str, Any]:
    changes = [{**plain(change), "text": str(change)} for change in result.changes]
    creation = plain(result.made) if result.made is not None else None
    removed = {name: list(objects) for name, objects in result.removed.items()}
    return {
        "name": result.name, "changes": changes, "steps": list(result.steps), "removed": removed, "done": result.done,
        "seconds": result.seconds, "made": creation,
    }  # fmt: skip


def _tell(result: Applied) -> None:
    for change in result.changes:
        say(change)
    if result.done:
        say(f"{result.name} is what the Clusterfile says{f' ({log.duration(result.seconds)})' if result.changes else '; nothing to do'}")
    elif not result.steps:
        say(f"{result.name} is what the Clusterfile says; nothing to do")
    else:
        _say_removed(result.removed)
        if result.changes:
            say()
        steps_table(result.steps)


@app.command()
def generate(
    *,
    spec: ClusterFlags,
    ssh: Ssh,
    site: SiteAccess,
    from_cluster: Annotated[
        bool, typer.Option("--from-cluster", help="Read the nodes of a kubeadm cluster, from the first of --control-plane.")
    ] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="With --from-cluster: let slipway manage it.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of Clusterfiles, for editors.")] = False,
    output: Output,
) -> None:
    """Print a Clusterfile from options, or from a running cluster.

    \b
      slipway generate web --control-plane 10.0.0.1 --workers 10.0.0.2 > Clusterfile
      slipway generate --from-cluster --control-plane 10.0.0.1 --key ~/.ssh/id_ed25519

    Values that an image of the store needs, and that -e does not give, are in the Clusterfile as comments.
    """
    if schema:
        from harness.clusterfile.json_schema_export import schema as of_clusterfile

        print_json(of_clusterfile())
        return
    if adopt and not from_cluster:
        raise UsageError("--adopt is for a cluster that runs", hint="slipway generate --from-cluster --adopt --control-plane IP")
    text = _from_cluster(spec, ssh, adopt=adopt) if from_cluster else _from_options(spec, ssh, site)
    if not output.printed({"clusterfile": text}):
        say(text, end="")


def _from_options(spec: ClusterFlags, ssh: Ssh, site: SiteAccess) -> str:
    if not spec.images:
        raise UsageError("no image is named", hint="slipway generate IMAGE --control-plane 10.0.0.1")
    from harness.clusterfile import write
    from harness.clusterfile.parse import parse

    env = pairs(spec.env or [], "--env")
    text = write.generate(
        image=spec.images[0],
        images=spec.images[1:],
        control_plane=addresses(spec.control_plane, "--control-plane"),
        workers=addresses(spec.workers, "--workers"),
        name=spec.cluster or "default",
        env=env,
        user=ssh.user,
        key=str(ssh.key) if ssh.key else None,
        port=ssh.port,
        commands=spec.cmds,
        registry=external_registry(spec.registry, site),
        profile=known_profile(spec.profile),
        needed=_needed(spec.images, env),
    )
    parse(text, "the Clusterfile")
    return text


def _needed(images: Sequence[str], env: Mapping[str, str]) -> dict[str, str]:
    """Names of the values that images of the store need and ``env`` lacks, each with a line about it."""
    from harness import cloudimage

    store, needed = local_store(), dict[str, str]()
    for name in images:
        try:
            image = cloudimage.read(store, name)
        except StoreError as error:
            log.info(f"{error.message}: the values that it needs are not listed")
            continue
        values = image.platforms[0].info.values
        needed |= {value.name: value.summary for value in values if value.required and value.name not in {*env, *needed}}
    return needed


def _from_cluster(spec: ClusterFlags, ssh: Ssh, *, adopt: bool) -> str:
    import tempfile

    from harness.clusterfile import SshSettings as Way
    from harness.host.cluster_cache import DEFAULT_NAME, ClusterState
    from harness.lifecycle import adopt as lifecycle_adopt
    from harness.nodes import Machine
    from harness.nodes.ssh import SshConnections as Connections

    login = ssh.login()
    first = to_machines(spec.control_plane, login, "--control-plane", spec.cluster or DEFAULT_NAME)[:1]
    if not first:
        raise UsageError("no control-plane node is named", hint="--control-plane 10.0.0.1: one of those whose API answers")
    way = Way(user=login.user, port=login.port, key=str(ssh.key) if ssh.key else None)
    state = ClusterState.of(spec.cluster or DEFAULT_NAME)
    with tempfile.TemporaryDirectory(prefix="slipway-take-") as name:
        folder = Path(name)
        with Connections(folder, first, state.known_hosts) as connections:
            (node,) = connections.connect()
            existing = lifecycle_adopt.read(node, spec.cluster, way, spec.images[0] if spec.images else None)
        cluster = existing.clusterfile.cluster
        if adopt and cluster is not None:
            names = {machine.address: machine.host for machine in first}
            # The control-plane node that answered comes first: it is asked again.
            listed = sorted(cluster.control_plane, key=lambda address: address != first[0].address)
            control_plane, workers = (
                tuple(Machine(address, login, names.get(address)) for address in group) for group in (listed, cluster.workers)
            )
            if cluster.name != state.name:
                # Keys that were compared with those of another cluster.
                state, folder = ClusterState.of(cluster.name), folder / cluster.name
            with Connections(folder, (*control_plane, *workers), state.known_hosts) as connections:
                lifecycle_adopt.adopt(existing, connections, control_plane, workers)
            log.info(f"slipway status {cluster.name}")
    return existing.text
