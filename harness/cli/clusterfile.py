"""Clusterfiles: apply one, write one, and take over a cluster that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.clusters import (
    Cmds,
    Env,
    File,
    OfSite,
    Passwd,
    SkipCheck,
    Timeout,
    WantedImage,
    WantedKey,
    WantedMasters,
    WantedName,
    WantedNodes,
    WantedPort,
    WantedProfile,
    WantedUser,
    _login,
    _machines,
    _registry,
    addresses,
    known_profile,
    skipping,
    tell,
    wanted,
)
from harness.cli.output import Json, app, pairs, plain, print_json, say, table, wants_json
from harness.cli.registry import Ca, PlainHttp
from harness.errors import UsageError
from harness.oci.store import Store


@app.command()
def apply(
    image: WantedImage = None,
    file: File = None,
    masters: WantedMasters = None,
    nodes: WantedNodes = None,
    user: WantedUser = None,
    key: WantedKey = None,
    passwd: Passwd = None,
    port: WantedPort = None,
    env: Env = None,
    cmds: Cmds = None,
    name: WantedName = None,
    registry: OfSite = None,
    plain_http: PlainHttp = False,
    ca: Ca = None,
    skip_check: SkipCheck = None,
    profile: WantedProfile = None,
    timeout: Timeout = 600,
    plan: Annotated[bool, typer.Option("--plan", help="Show differences and steps, and change nothing.")] = False,
    output: Json = "text",
) -> None:
    """Create or change a cluster as its Clusterfile says.

    \b
      slipway apply -f Clusterfile --plan
      slipway apply -f Clusterfile
    """
    from harness.lifecycle import apply as applying

    as_json = wants_json(output)
    if file is None:
        raise UsageError("no Clusterfile is given", hint="slipway apply -f Clusterfile; slipway generate writes one")
    options, bring = wanted(
        file, image, masters, nodes, user, key, passwd, port, env, cmds, name, registry, plain_http, ca, timeout, skipping(skip_check),
        profile=profile,
    )  # fmt: skip
    found = applying.apply(options, Store.default(), plan=plan, fetch=bring)
    if as_json:
        print_json(_plain(found))
    elif found.made is not None:
        tell(found.made)
    else:
        _tell(found)


def _plain(found: Any) -> dict[str, Any]:
    changes = [{**plain(change), "text": str(change)} for change in found.changes]
    made = plain(found.made) if found.made is not None else None
    return {"name": found.name, "changes": changes, "steps": list(found.steps), "done": found.done, "seconds": found.seconds, "made": made}


def _tell(found: Any) -> None:
    for change in found.changes:
        say(change)
    if found.done:
        say(f"{found.name} is what the Clusterfile says{f' ({log.duration(found.seconds)})' if found.changes else '; nothing to do'}")
    elif not found.steps:
        say(f"{found.name} is what the Clusterfile says; nothing to do")
    else:
        if found.changes:
            say()
        table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in found.steps])


@app.command()
def generate(
    image: WantedImage = None,
    masters: WantedMasters = None,
    nodes: WantedNodes = None,
    user: WantedUser = None,
    key: WantedKey = None,
    passwd: Passwd = None,
    port: WantedPort = None,
    env: Env = None,
    cmds: Cmds = None,
    name: WantedName = None,
    registry: OfSite = None,
    plain_http: PlainHttp = False,
    ca: Ca = None,
    profile: WantedProfile = None,
    from_cluster: Annotated[
        bool, typer.Option("--from-cluster", help="Read the nodes of a kubeadm cluster, from the first of --masters.")
    ] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="With --from-cluster: let slipway manage it.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of Clusterfiles, for editors.")] = False,
) -> None:
    """Print a Clusterfile from options, or from a running cluster.

    \b
      slipway generate web --masters 10.0.0.1 --nodes 10.0.0.2 > Clusterfile
      slipway generate --from-cluster --masters 10.0.0.1 --key ~/.ssh/id_ed25519
    """
    if schema:
        from harness.clusterfile.json_schema import schema as of_clusterfile

        print_json(of_clusterfile())
        return
    if adopt and not from_cluster:
        raise UsageError("--adopt is for a cluster that runs", hint="slipway generate --from-cluster --adopt --masters IP")
    if from_cluster:
        _from_cluster(image, masters, user, key, passwd, port, name, adopt)
        return
    if image is None:
        raise UsageError("no image is named", hint="slipway generate IMAGE --masters 10.0.0.1")
    from harness.clusterfile import write as writing
    from harness.clusterfile.parse import parse

    text = writing.generate(
        image=image,
        masters=addresses(masters, "--masters"),
        nodes=addresses(nodes, "--nodes"),
        name=name or "default",
        env=pairs(env or [], "--env"),
        user=user,
        key=str(key) if key else None,
        port=port,
        commands=cmds,
        registry=_registry(registry, plain_http, ca),
        profile=known_profile(profile),
    )
    parse(text, "the Clusterfile")
    say(text, end="")


def _from_cluster(
    image: str | None,
    masters: list[str] | None,
    user: str | None,
    key: Path | None,
    passwd: str | None,
    port: int | None,
    name: str | None,
    adopt: bool,
) -> None:
    import tempfile

    from harness.clusterfile import SshSettings
    from harness.lifecycle import adopt as takeover
    from harness.nodes import Machine
    from harness.nodes.ssh import SshConnections as Connections

    login = _login(user or "root", port or 22, key, passwd)
    first = _machines(masters, login, "--masters")[:1]
    if not first:
        raise UsageError("no master is named", hint="--masters 10.0.0.1: one of those whose API answers")
    way = SshSettings(user=login.user, port=login.port, key=str(key) if key else None)
    with tempfile.TemporaryDirectory(prefix="slipway-take-") as folder:
        with Connections(Path(folder), first) as connections:
            (node,) = connections.connect()
            taken = takeover.read(node, name, way, image)
        cluster = taken.clusterfile.cluster
        if adopt and cluster is not None:
            # The master that answered comes first: it is asked again.
            listed = sorted(cluster.masters, key=lambda address: address != first[0].address)
            all_masters, all_nodes = (tuple(Machine(address, login) for address in group) for group in (listed, cluster.nodes))
            with Connections(Path(folder), (*all_masters, *all_nodes)) as connections:
                takeover.adopt(taken, connections, all_masters, all_nodes)
            log.info(f"slipway status {cluster.name}")
    say(taken.text, end="")
