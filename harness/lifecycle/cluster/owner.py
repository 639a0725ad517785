"""The cluster that a machine belongs to, as a file on the machine says: the name of the cluster and its identity, a digest of its CA."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from harness import untrusted
from harness.errors import CheckError, NodeError
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.provision.rootfs import MARK
from harness.nodes import Node, claim, each
from harness.runtimes import pki

Owner = tuple[str, ...]
"""Name and identity; empty for a machine without a cluster."""


def of(node: Node) -> Owner:
    """Return the owner of a machine. A command that changes another cluster there is not held up by it."""
    with claim.aside():
        return tuple(untrusted.shown(node.run(f"cat {MARK} 2>/dev/null || true").stdout, lines=True).split()[:2])


def belongs(node: Node, mark: Owner, name: str, authority: bytes | None) -> bool:
    """Return True when a machine with this mark belongs to the cluster ``name`` with the CA certificate ``authority`` (PEM).

    The name alone counts when the certificate is not known, or the mark has no identity.
    """
    if mark[:1] != (name,):
        return False
    if authority is None or len(mark) < 2 or mark[1] == pki.identity(authority):
        return True
    # The identity of a cluster that was adopted is of a file which may hold more, and a CA can be exchanged by hand: the mark stays.
    with claim.aside():
        file = node.run(f"cat {pki.FOLDER}/ca.crt 2>/dev/null || true").stdout
    try:
        return not pki.fingerprints(file.encode()).isdisjoint(pki.fingerprints(authority))
    except ValueError:
        return False


def foreign(nodes: Collection[Node], member: Node, name: str | None = None) -> dict[str, str]:
    """Return the names of other clusters than the one of ``member``, by the addresses of their machines.

    With ``name`` it is the cluster of that name, which may be about to be made: then a member of another one is foreign too.
    """
    machines: Mapping[str, Node] = {node.address: node for node in (member, *nodes)}
    owners = dict(zip(machines, each(machines.values(), of), strict=True))
    own = owners[member.address]
    if name is None and not own:
        return {}
    return {address: owner[0] for address, owner in owners.items() if owner and (owner != own or name not in (None, owner[0]))}


def taken(nodes: Collection[Node], member: Node) -> dict[str, NodeError]:
    """Return an error, by address, for each node of the cluster of ``member`` that another cluster has by now.

    It counts as one that does not answer: nothing is done there, and no claim reaches it and stops what changes the other cluster.
    """
    others = foreign(nodes, member)
    return {address: NodeError(f"{address} belongs to a cluster {other} by now and is left as it is") for address, other in others.items()}


def own(cluster: Access) -> Access:
    """Return an open cluster without the nodes that another one has by now. Raises NodeError when no control-plane node is reachable."""
    errors = taken((*cluster.control_plane, *cluster.workers), cluster.first)
    control_plane, workers = (
        tuple(node for node in nodes if node.address not in errors) for nodes in (cluster.control_plane, cluster.workers)
    )
    unreachable = {**cluster.unreachable, **errors}
    return dataclasses.replace(cluster, control_plane=control_plane, workers=workers, unreachable=unreachable)


def require_free(nodes: Sequence[Node], member: Node, name: str) -> None:
    """Raise CheckError for machines of other clusters. Call it before a claim reaches them: it would stop what changes those clusters."""
    others = foreign(nodes, member, name)
    if others:
        lines = [
            f"{', '.join(address for address in others if others[address] == other)} belongs to a cluster {other}"
            for other in dict.fromkeys(others.values())
        ]
        raise CheckError(
            "machines have another cluster; nothing has been changed\n" + "\n".join(lines),
            hint=f"slipway delete {next(iter(others.values()))}, or leave these machines out",
        )
