"""Certificates of a cluster, the names in them, and the key of its Secrets."""

from __future__ import annotations

from typing import Annotated

import typer

from harness import log
from harness.cli.options import ClusterAccess, ClusterName, NamedCluster, NodesAccess, Output, argument
from harness.cli.output import say, table
from harness.cli.program import ListGroup, Program
from harness.cli.root import app
from harness.errors import CheckError

certs_app = Program(cls=ListGroup, help="Show, renew or extend the certificates of a cluster. Without a subcommand, list them.")
app.add_typer(certs_app, name="certs")


@certs_app.command("list", short_help="List every certificate.")
def certs_list(
    *,
    cluster: NamedCluster,
    access: NodesAccess,
    output: Output,
) -> None:
    """List every certificate on every machine. Exits with 7 if one has expired."""
    from harness.lifecycle.cluster import certificates

    listing = certificates.listing(cluster.name, *access.members(cluster.name))
    ordered = sorted(listing.certificates, key=lambda one: one.ends)
    if not output.printed({"certificates": [one.to_json() for one in ordered], "unreachable": dict(listing.unreachable)}):
        table(
            ("CERTIFICATE", "NODE", "ISSUER", "ENDS", "LEFT", "STATE"),
            [(one.path, one.node, one.issuer, f"{one.ends:%Y-%m-%d %H:%M}", f"{one.days()} d", one.state()) for one in ordered],
        )
    for reason in listing.unreachable.values():
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
    output: Output,
) -> None:
    """Renew the certificates of API servers, etcd, front proxy, kubeconfigs and registry, one control-plane node at a time."""
    from harness.lifecycle.cluster import certificates

    result = certificates.renew(cluster.name, *access.members(cluster.name), days=days)
    if output.printed(result):
        return
    say(f"renewed the certificates of {', '.join(result.control_plane)} for {result.days} days")
    if result.kubelets:
        say(f"and those of the kubelets of {', '.join(result.kubelets)}")
    say(f"copies of the administrator's kubeconfig keep their old certificate: slipway kubeconfig {cluster.name}")


@certs_app.command("add-names", short_help="Add names to the API servers.")
def certs_add_names(
    *,
    names: Annotated[list[str], argument(help="DNS names and addresses.", metavar="NAME...")],
    cluster: ClusterName = None,
    days: Annotated[int, typer.Option("--days", help="Days that the new certificates are valid.", metavar="N", min=1)] = 365,
    access: ClusterAccess,
    output: Output,
) -> None:
    """Add names (SANs) to the certificates of the API servers."""
    from harness.lifecycle.cluster import sans

    name = cluster or "default"
    result = sans.add_names(names, name, *access.members(name), days=days)
    if not output.printed(result):
        say(f"the API of {name} answers as {', '.join(result.added)}")


@certs_app.command("rotate-secrets", short_help="Encrypt Secrets with a new key.")
def certs_rotate_secrets(
    *,
    cluster: NamedCluster,
    access: NodesAccess,
    output: Output,
) -> None:
    """Encrypt the Secrets of a cluster with a new key. The same command again finishes an interrupted rotation."""
    from harness.lifecycle import rotation

    result = rotation.rotate(cluster.name, *access.members(cluster.name))
    if output.printed(result):
        return
    say(f"{result.secrets} Secrets of {result.name} are encrypted with {result.key}")
    say(f"backups of before hold the old key, and one of now the new one: slipway backup {cluster.name}")
