"""Clusters that run: a command on many machines, access, what happened, certificates, backups."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness import log, untrusted
from harness.cli.clusters import Key, Masters, Name, Nodes, Port, User, _login, _members
from harness.cli.output import Json, Yes, app, pairs, plain, print_json, say, table, wants_json
from harness.errors import CheckError, UsageError

_COMMAND = "slipway.command"


class _WithCommand(TyperCommand):
    """Everything behind ``--`` is somebody else's command line, whatever it looks like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours, theirs = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
        ctx.meta[_COMMAND] = theirs
        return super().parse_args(ctx, ours)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage(ctx.command_path, "[OPTIONS] [NAME] -- COMMAND...")


@app.command("exec", cls=_WithCommand)
def execute(
    ctx: typer.Context,
    name: Name = "default",
    role: Annotated[
        str | None, typer.Option(help="Only on machines with this role: master, node, or a role of your own.", show_default=False)
    ] = None,
    on: Annotated[
        list[str] | None, typer.Option(help="Only on these machines: addresses or names.", metavar="IP[,IP...]", show_default=False)
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Machines at a time.")] = 16,
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Run a command on all machines of a cluster at once, as root.

    One word after -- is shell text, several are a program and its arguments. Exits with 6 if the command failed on a machine, with 5 if
    a machine could not be reached. On a terminal, control characters of the output are printed as \\x1b, so that no machine can
    steer it; in a pipe or a file the output is unchanged.
    """
    from harness.lifecycle import exec as executing

    as_json = wants_json(output)
    command = executing.shell_text(ctx.meta[_COMMAND])
    chosen = [word.strip() for one in on or () for word in one.split(",") if word.strip()]
    members = _members(masters, nodes, _login(user, port, key, None))
    outcomes = executing.execute(
        command, name=name, masters=members[0], nodes=members[1], role=role, on=chosen, jobs=jobs, show=None if as_json else _show_line,
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
    name: Name = "default",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Write it to this file.", show_default=False)] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="The address of the API server in it.  [default: a control-plane node that answers]", metavar="IP", show_default=False
        ),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge it into ~/.kube/config, or into --file; other clusters stay.")] = False,
    masters: Masters = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
) -> None:
    """Print or write the administrator's kubeconfig of a cluster."""
    from harness.lifecycle.cluster import kubeconfig as kubeconfigs

    members = _members(masters, None, _login(user, port, key, None))
    config = kubeconfigs.fetch(name, *members, server=server)
    if merge:
        path = file or kubeconfigs.default_path()
        kubeconfigs.merge(config, path)
        say(f"{path} has the cluster {name}; kubectl uses it from now on")
    elif file is not None:
        kubeconfigs.write(config, file)
        say(f"kubectl --kubeconfig {file} get nodes")
    else:
        say(kubeconfigs.text(config), end="")


class _OrList(TyperGroup):
    """Without a verb of its own the group lists: ``slipway certs mine``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        verbs = (*self.commands, "-h", "--help")
        return super().parse_args(ctx, args if args and args[0] in verbs else ["list", *args])


certs_app = typer.Typer(cls=_OrList, help="Show, renew or extend the certificates of a cluster. Without a subcommand, list them.")
app.add_typer(certs_app, name="certs")


@certs_app.command("list")
def certs_list(
    name: Name = "default",
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """List every certificate on every machine. Exits with 7 if one has expired."""
    from harness.lifecycle.cluster import certificates

    as_json = wants_json(output)
    found = certificates.listing(name, *_members(masters, nodes, _login(user, port, key, None)))
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
        log.warning(f"{len(soon)} certificates end within {certificates.WARN_DAYS} days: slipway certs renew {name}")
    expired = [one for one in ordered if one.state() == "expired"]
    if expired:
        raise CheckError(f"{len(expired)} certificates have expired", hint=f"slipway certs renew {name}")


@certs_app.command("renew")
def certs_renew(
    name: Name = "default",
    days: Annotated[int, typer.Option(help="Days that the new certificates are valid; never longer than their CA.", min=1)] = 365,
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Renew the certificates of API servers, etcd, front proxy, kubeconfigs and registry, one control-plane node at a time."""
    from harness.lifecycle.cluster import certificates

    as_json = wants_json(output)
    done = certificates.renew(name, *_members(masters, nodes, _login(user, port, key, None)), days=days)
    if as_json:
        print_json(plain(done))
        return
    say(f"renewed the certificates of {', '.join(done.masters)} for {done.days} days")
    if done.kubelets:
        say(f"and those of the kubelets of {', '.join(done.kubelets)}")
    say(f"copies of the administrator's kubeconfig keep their old certificate: slipway kubeconfig {name}")


@certs_app.command("add-names")
def certs_add_names(
    names: Annotated[list[str], typer.Argument(help="DNS names and addresses.", metavar="NAME...", show_default=False)],
    cluster: Annotated[str, typer.Option(help="The cluster.")] = "default",
    days: Annotated[int, typer.Option(help="Days that the new certificates are valid.", min=1)] = 365,
    masters: Masters = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Add names (SANs) to the certificates of the API servers."""
    from harness.lifecycle.cluster import certificates

    as_json = wants_json(output)
    done = certificates.add_names(names, cluster, *_members(masters, None, _login(user, port, key, None)), days=days)
    print_json(plain(done)) if as_json else say(f"the API of {cluster} answers as {', '.join(done.added)}")


@certs_app.command("rotate-secrets")
def certs_rotate_secrets(
    name: Name = "default",
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Encrypt the Secrets of a cluster with a new key. The same command again finishes an interrupted rotation."""
    from harness.lifecycle import rotation

    as_json = wants_json(output)
    done = rotation.rotate(name, *_members(masters, nodes, _login(user, port, key, None)))
    if as_json:
        print_json(plain(done))
        return
    say(f"{done.secrets} Secrets of {done.name} are encrypted with {done.key}")
    say(f"backups of before hold the old key, and one of now the new one: slipway backup {name}")


PasswordEnv = Annotated[
    str | None, typer.Option(help="The environment variable that holds the password of the file.", metavar="NAME", show_default=False)
]
AskPassword = Annotated[bool, typer.Option("--password", help="Ask for the password of the file.")]


@app.command()
def backup(
    name: Name = "default",
    file: Annotated[Path, typer.Option("--file", "-f", help="Write it to this file.", show_default=False)] = ...,  # type: ignore[assignment]
    password_env: PasswordEnv = None,
    password: AskPassword = False,
    masters: Masters = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Save etcd, keys and Clusterfile of a cluster to one file. The file is verified after it was written.

    The file holds the keys of the cluster and all of its secrets: only its owner may read it, and a password encrypts it.
    An encrypted file opens without slipway too: `age -d FILE | tar x`.
    """
    from harness.lifecycle import backup as saving

    as_json = wants_json(output)
    secret = _password(password_env, password, twice=True)
    done = saving.backup(file, name, *_members(masters, None, _login(user, port, key, None)), password=secret)
    if as_json:
        print_json(plain(done))
        return
    say(f"{done.file}: {done.keys} keys of etcd at revision {done.revision}, {log.size(done.size)}, checked")
    if not done.encrypted:
        say("  it is not encrypted and holds the keys of the cluster: keep it safe, or use --password-env")
    say(f"  slipway restore -f {done.file}")


@app.command()
def restore(
    file: Annotated[Path, typer.Option("--file", "-f", help="The backup.", show_default=False)] = ...,  # type: ignore[assignment]
    password_env: PasswordEnv = None,
    password: AskPassword = False,
    masters: Annotated[
        list[str] | None,
        typer.Option("--masters", "--master", "-m", help="Other machines than those it was on.", metavar="IP[,IP...]", show_default=False),
    ] = None,
    nodes: Nodes = None,
    image: Annotated[
        str | None, typer.Option(help="The CloudImage, for other machines.  [default: the one of the backup]", show_default=False)
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", "-e", help="A value that the backup does not know, for other machines.", metavar="NAME=VALUE", show_default=False
        ),
    ] = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    timeout: Annotated[float, typer.Option(help="Seconds that the API, and then the nodes, may take.")] = 600,
    yes: Yes = False,
    output: Json = "text",
) -> None:
    """Restore a cluster from a backup. It goes onto the control-plane nodes that lost etcd's data, or onto other machines.

    Changes since the backup are lost. With a password, only an encrypted file is accepted: its seal proves its origin.
    """
    from harness.lifecycle import restore as restoring

    as_json = wants_json(output)
    secret = _password(password_env, password, twice=False)
    login = _login(user, port, key, None)
    members = _members(masters, nodes, login)
    if not yes:
        typer.confirm("What the cluster has seen since the backup will be lost. Go on?", abort=True)
    done = restoring.restore(file, *members, login=login, password=secret, image=image, env=pairs(env or [], "--env"), timeout=timeout)
    if as_json:
        print_json(plain(done))
        return
    where = "in place" if done.in_place else f"onto {len(done.masters) + len(done.nodes)} other machines"
    say(f"restored {done.name} {where} as of {done.made}, in {log.duration(done.seconds)}")
    if done.in_place:
        say("  controllers of your own that watch the API may have to be started anew: they remember what is not any more")


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
    name: Name = "default",
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Write it to this file.  [default: NAME-logs-DATE.tar.gz]", show_default=False)
    ] = None,
    since: Annotated[str | None, typer.Option(help="Only what is younger: 30m, 1h, 2d.", metavar="TIME", show_default=False)] = None,
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Collect logs and facts of a cluster for support. The file has no secrets in it."""
    import datetime

    from harness.lifecycle import logs as bundling

    as_json = wants_json(output)
    span = bundling.since_of(since) if since else None
    target = file or Path(f"{name}-logs-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.tar.gz")
    done = bundling.bundle(target, name, *_members(masters, nodes, _login(user, port, key, None)), since=span)
    if as_json:
        print_json(plain(done))
        return
    say(f"{done.file}: {done.files} files, {log.size(done.size)}")
    for address, reason in done.unreachable.items():
        say(f"  {address}: {reason}; nothing of it is there")
    for path, reason in done.missing.items():
        say(f"  {path}: {reason}")
