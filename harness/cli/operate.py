"""Clusters that run: a command on many machines, access, what happened, certificates, backups."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness import log, untrusted
from harness.cli import completion
from harness.cli.options import (
    FORMER_FILE,
    ClusterAccess,
    ClusterName,
    Json,
    NamedCluster,
    NodesAccess,
    Ssh,
    Yes,
    confirmed,
    image_option,
    machines,
    seconds,
    target,
    to_machines,
)
from harness.cli.output import pairs, plain, print_json, say, table, wants_json
from harness.cli.program import ListGroup, Program, WithCommand, command_words
from harness.cli.root import app
from harness.errors import CheckError, UsageError


@app.command("exec", cls=WithCommand)
def execute(
    *,
    context: typer.Context,
    cluster: NamedCluster,
    role: Annotated[
        str | None,
        typer.Option(
            "--role",
            help="Only on machines with this role: master, node, or a role of your own.",
            metavar="ROLE",
            show_default=False,
            autocompletion=completion.values("master", "node"),
        ),
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option("--on", help="Only on these machines: addresses or names.", metavar="IP[,IP...]", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Machines at a time.", metavar="N", min=1)] = 16,
    access: NodesAccess,
    output: Json = "text",
) -> None:
    """Run a command on all machines of a cluster at once, as root.

    One word after -- is shell text, several are a program and its arguments. Exits with 6 if the command failed on a machine, with 5 if
    a machine could not be reached. On a terminal, control characters of the output are printed as \\x1b, so that no machine can
    steer it; in a pipe or a file the output is unchanged.
    """
    from harness.lifecycle import exec as executing

    as_json = wants_json(output)
    command = executing.shell_text(command_words(context))
    chosen = [word.strip() for one in on or () for word in one.split(",") if word.strip()]
    masters, nodes = access.members()
    outcomes = executing.execute(
        command, name=cluster.name, masters=masters, nodes=nodes, role=role, on=chosen, jobs=jobs,
        show=None if as_json else _show_line,
    )  # fmt: skip
    if as_json:
        print_json({"command": command, "nodes": [outcome.to_json() for outcome in outcomes]})
    executing.judge(outcomes)


def _show_line(name: str, stream: str, line: str) -> None:
    target = sys.stderr if stream == "stderr" else sys.stdout
    if target.isatty():
        say(f"{name}: {line}", file=target, flush=True)
    else:
        # For a program or a file: as the machine printed it.
        print(f"{untrusted.shown(name)}: {line}", file=target, flush=True)


@app.command()
def kubeconfig(
    *,
    cluster: NamedCluster,
    file: Annotated[Path | None, target(), FORMER_FILE] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="The address of the API server in it.  [default: a control-plane node that answers]",
            metavar="IP",
            show_default=False,
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge it into ~/.kube/config, or into the file of --to; other clusters stay.")
    ] = False,
    access: ClusterAccess,
    output: Json = "text",
) -> None:
    """Print or write the administrator's kubeconfig of a cluster."""
    from harness.lifecycle.cluster import kubeconfig as kubeconfigs

    as_json = wants_json(output)
    members = access.members()
    config = kubeconfigs.fetch(cluster.name, *members, server=server)
    if merge:
        path = file or kubeconfigs.default_path()
        kubeconfigs.merge(config, path)
        print_json({"cluster": cluster.name, "file": str(path)}) if as_json else say(
            f"{path} has the cluster {cluster.name}; kubectl uses it from now on"
        )
    elif file is not None:
        kubeconfigs.write(config, file)
        print_json({"cluster": cluster.name, "file": str(file)}) if as_json else say(f"kubectl --kubeconfig {file} get nodes")
    else:
        text = kubeconfigs.text(config)
        print_json({"cluster": cluster.name, "kubeconfig": text}) if as_json else say(text, end="")


certs_app = Program(cls=ListGroup, help="Show, renew or extend the certificates of a cluster. Without a subcommand, list them.")
app.add_typer(certs_app, name="certs")


@certs_app.command("list", short_help="List every certificate.")
def certs_list(
    *,
    cluster: NamedCluster,
    access: NodesAccess,
    output: Json = "text",
) -> None:
    """List every certificate on every machine. Exits with 7 if one has expired."""
    from harness.lifecycle.cluster import certificates

    as_json = wants_json(output)
    found = certificates.listing(cluster.name, *access.members())
    ordered = sorted(found.certificates, key=lambda one: one.ends)
    if as_json:
        print_json({"certificates": [one.to_json() for one in ordered], "unreachable": dict(found.unreachable)})
    else:
        table(
            ("CERTIFICATE", "NODE", "ISSUER", "ENDS", "LEFT", "STATE"),
            [(one.path, one.node, one.issuer, f"{one.ends:%Y-%m-%d %H:%M}", f"{one.days()} d", one.state()) for one in ordered],
        )
    for reason in found.unreachable.values():
        log.warning(f"{reason}; its certificates are not listed")
    soon = [one for one in ordered if one.state() == "soon"]
    if soon:
        log.warning(f"{len(soon)} certificates end within {certificates.WARN_DAYS} days: slipway certs renew {cluster.name}")
    expired = [one for one in ordered if one.state() == "expired"]
    if expired:
        raise CheckError(f"{len(expired)} certificates have expired", hint=f"slipway certs renew {cluster.name}")


@certs_app.command("renew", short_help="Renew the certificates.")
def certs_renew(
    *,
    cluster: NamedCluster,
    days: Annotated[
        int, typer.Option("--days", help="Days that the new certificates are valid; never longer than their CA.", metavar="N", min=1)
    ] = 365,
    access: NodesAccess,
    output: Json = "text",
) -> None:
    """Renew the certificates of API servers, etcd, front proxy, kubeconfigs and registry, one control-plane node at a time."""
    from harness.lifecycle.cluster import certificates

    as_json = wants_json(output)
    done = certificates.renew(cluster.name, *access.members(), days=days)
    if as_json:
        print_json(plain(done))
        return
    say(f"renewed the certificates of {', '.join(done.masters)} for {done.days} days")
    if done.kubelets:
        say(f"and those of the kubelets of {', '.join(done.kubelets)}")
    say(f"copies of the administrator's kubeconfig keep their old certificate: slipway kubeconfig {cluster.name}")


@certs_app.command("add-names", short_help="Add names to the API servers.")
def certs_add_names(
    *,
    names: Annotated[list[str], typer.Argument(help="DNS names and addresses.", metavar="NAME...", show_default=False)],
    cluster: ClusterName = None,
    days: Annotated[int, typer.Option("--days", help="Days that the new certificates are valid.", metavar="N", min=1)] = 365,
    access: ClusterAccess,
    output: Json = "text",
) -> None:
    """Add names (SANs) to the certificates of the API servers."""
    from harness.lifecycle.cluster import sans

    as_json = wants_json(output)
    name = cluster or "default"
    done = sans.add_names(names, name, *access.members(), days=days)
    print_json(plain(done)) if as_json else say(f"the API of {name} answers as {', '.join(done.added)}")


@certs_app.command("rotate-secrets", short_help="Encrypt Secrets with a new key.")
def certs_rotate_secrets(
    *,
    cluster: NamedCluster,
    access: NodesAccess,
    output: Json = "text",
) -> None:
    """Encrypt the Secrets of a cluster with a new key. The same command again finishes an interrupted rotation."""
    from harness.lifecycle import rotation

    as_json = wants_json(output)
    done = rotation.rotate(cluster.name, *access.members())
    if as_json:
        print_json(plain(done))
        return
    say(f"{done.secrets} Secrets of {done.name} are encrypted with {done.key}")
    say(f"backups of before hold the old key, and one of now the new one: slipway backup {cluster.name}")


PasswordEnv = Annotated[
    str | None,
    typer.Option(
        "--password-env", help="The environment variable that holds the password of the file.", metavar="NAME", show_default=False
    ),
]
AskPassword = Annotated[bool, typer.Option("--password", help="Ask for the password of the file.")]


@app.command()
def backup(
    *,
    cluster: NamedCluster,
    file: Annotated[Path, target(), FORMER_FILE],
    password_env: PasswordEnv = None,
    password: AskPassword = False,
    access: ClusterAccess,
    output: Json = "text",
) -> None:
    """Save etcd, keys and Clusterfile of a cluster to one file. The file is verified after it was written.

    The file holds the keys of the cluster and all of its secrets: only its owner may read it, and a password encrypts it.
    An encrypted file opens without slipway too: `age -d FILE | tar x`.
    """
    from harness.lifecycle.cluster import backup as saving

    as_json = wants_json(output)
    secret = _password(password_env, password, twice=True)
    done = saving.backup(file, cluster.name, *access.members(), password=secret)
    if as_json:
        print_json(plain(done))
        return
    say(f"{done.file}: {done.keys} keys of etcd at revision {done.revision}, {log.size(done.size)}, checked")
    if not done.encrypted:
        say("  it is not encrypted and holds the keys of the cluster: keep it safe, or use --password-env")
    say(f"  slipway restore --from {done.file}")


@app.command()
def restore(
    *,
    file: Annotated[Path, typer.Option("--from", help="The backup.", metavar="FILE", show_default=False), FORMER_FILE],
    password_env: PasswordEnv = None,
    password: AskPassword = False,
    masters: Annotated[list[str] | None, machines("--masters", "--master", "-m", help="Other machines than those it was on.")] = None,
    nodes: Annotated[list[str] | None, machines("--nodes", "--node", "-n", help="Its workers.")] = None,
    image: Annotated[
        str | None, image_option("--image", help="The CloudImage, for other machines.  [default: the one of the backup]")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", "-e", help="A value that the backup does not know, for other machines.", metavar="NAME=VALUE", show_default=False
        ),
    ] = None,
    ssh: Ssh,
    timeout: Annotated[float, seconds("--timeout", help="Seconds that the API, and then the nodes, may take.")] = 600,
    yes: Yes = False,
    output: Json = "text",
) -> None:
    """Restore a cluster from a backup. It goes onto the control-plane nodes that lost etcd's data, or onto other machines.

    Changes since the backup are lost. With a password, only an encrypted file is accepted: its seal proves its origin.
    """
    from harness.lifecycle import restore as restoring

    as_json = wants_json(output)
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    secret = _password(password_env, password, twice=False)
    login = ssh.login()
    members = to_machines(masters, login, "--masters"), to_machines(nodes, login, "--nodes")
    if not yes:
        confirmed("What the cluster has seen since the backup will be lost. Go on?")
    done = restoring.restore(file, *members, login=login, password=secret, image=image, env=pairs(env or [], "--env"), timeout=timeout)
    if as_json:
        print_json(plain(done))
        return
    where = "in place" if done.in_place else f"onto {len(done.masters) + len(done.nodes)} other machines"
    say(f"restored {done.name} {where} as of {done.made}, in {log.duration(done.seconds)}")
    if done.in_place:
        say("  controllers of your own that watch the API may have to be restarted: they remember what is not any more")


def _password(variable: str | None, ask: bool, *, twice: bool) -> str | None:
    if variable is None:
        found = str(typer.prompt("Password of the backup", hide_input=True, confirmation_prompt=twice)) if ask else None
        log.hide(found)
        return found
    found = os.environ.get(variable)
    if not found:
        raise UsageError(f"--password-env {variable}: it is not set", hint=f"export {variable}=...")
    log.hide(found)
    return found


@app.command()
def logs(
    *,
    cluster: NamedCluster,
    file: Annotated[Path | None, target("Write to this file.  [default: NAME-logs-DATE.tar.gz]"), FORMER_FILE] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what is younger: 30m, 1h, 2d.", metavar="TIME", show_default=False)
    ] = None,
    access: NodesAccess,
    output: Json = "text",
) -> None:
    """Collect logs and facts of a cluster for support. The file has no secrets in it."""
    import datetime

    from harness.lifecycle import logs as bundling

    as_json = wants_json(output)
    span = bundling.since_of(since) if since else None
    path = file or Path(f"{cluster.name}-logs-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.tar.gz")
    done = bundling.bundle(path, cluster.name, *access.members(), since=span)
    if as_json:
        print_json(plain(done))
        return
    say(f"{done.file}: {done.files} files, {log.size(done.size)}")
    for address, reason in done.unreachable.items():
        say(f"  {address}: {reason}; nothing of it is there")
    for missing, reason in done.missing.items():
        say(f"  {missing}: {reason}")
