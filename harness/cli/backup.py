"""Back up a cluster, and restore it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness import log
from harness.cli.options import (
    CONTROL_PLANE_ALIASES,
    FORMER_FILE,
    WORKER_ALIASES,
    ClusterAccess,
    NamedCluster,
    Output,
    Ssh,
    Yes,
    confirmed,
    image_option,
    machine_groups,
    machines,
    option,
    seconds,
    target,
)
from harness.cli.output import pairs, say
from harness.cli.root import app
from harness.errors import UsageError

PasswordEnv = Annotated[
    str | None,
    option("--password-env", help="The environment variable that holds the password of the file.", metavar="NAME"),
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
    output: Output,
) -> None:
    """Save etcd, keys and Clusterfile of a cluster to one file. The file is verified after it was written.

    The file holds the keys of the cluster and all of its secrets: only its owner may read it, and a password encrypts it.
    An encrypted file opens without slipway too: `age -d FILE | tar x`.
    """
    from harness.lifecycle.cluster import backup as cluster_backup

    secret = _password(password_env, password, twice=True)
    result = cluster_backup.backup(file, cluster.name, *access.members(cluster.name), password=secret)
    if output.printed(result):
        return
    say(f"{result.file}: {result.keys} keys of etcd at revision {result.revision}, {log.size(result.size)}, checked")
    if not result.encrypted:
        say("  it is not encrypted and holds the keys of the cluster: keep it safe, or use --password-env")
    say(f"  slipway restore --from {result.file}")


@app.command()
def restore(
    *,
    file: Annotated[Path, option("--from", help="The backup.", metavar="FILE"), FORMER_FILE],
    password_env: PasswordEnv = None,
    password: AskPassword = False,
    control_plane: Annotated[
        list[str] | None, machines("--control-plane", help="Other machines than those it was on."), CONTROL_PLANE_ALIASES
    ] = None,
    workers: Annotated[list[str] | None, machines("--workers", help="Its workers."), WORKER_ALIASES] = None,
    image: Annotated[
        str | None, image_option("--image", help="The CloudImage, for other machines.  [default: the one of the backup]")
    ] = None,
    env: Annotated[
        list[str] | None,
        option("--env", "-e", help="A value that the backup does not know, for other machines.", metavar="NAME=VALUE"),
    ] = None,
    ssh: Ssh,
    timeout: Annotated[float, seconds("--timeout", help="Seconds that the API, and then the nodes, may take.")] = 600,
    yes: Yes = False,
    output: Output,
) -> None:
    """Restore a cluster from a backup. It goes onto the control-plane nodes that lost etcd's data, or onto other machines.

    Changes since the backup are lost. With a password, only an encrypted file is accepted: its seal proves its origin.
    """
    from harness.lifecycle import restore as lifecycle_restore

    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    secret = _password(password_env, password, twice=False)
    login = ssh.login()
    members = machine_groups(login, None, (control_plane, "--control-plane"), (workers, "--workers"))
    if not yes:
        confirmed("What the cluster has seen since the backup will be lost. Go on?")
    result = lifecycle_restore.restore(
        file, *members, login=login, password=secret, image=image, env=pairs(env or [], "--env"), timeout=timeout
    )
    if output.printed(result):
        return
    where = "in place" if result.in_place else f"onto {len(result.control_plane) + len(result.workers)} other machines"
    say(f"restored {result.name} {where} as of {result.made}, in {log.duration(result.seconds)}")
    if result.in_place:
        say("  controllers of your own that watch the API may have to be restarted: they remember what is not any more")


def _password(variable: str | None, ask: bool, *, twice: bool) -> str | None:
    if variable is None:
        password = str(typer.prompt("Password of the backup", hide_input=True, confirmation_prompt=twice)) if ask else None
        log.hide(password)
        return password
    password = os.environ.get(variable)
    if not password:
        raise UsageError(f"--password-env {variable}: it is not set", hint=f"export {variable}=...")
    log.hide(password)
    return password
