"""The way into a running cluster: its nodes as this machine remembers them, or as the user names them."""

from __future__ import annotations

import contextvars
import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import NodeError, UsageError
from harness.host import cluster_cache
from harness.host.cluster_cache import ClusterState
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode


@dataclasses.dataclass(frozen=True)
class Known:
    """The nodes of a cluster, with the login of each."""

    state: ClusterState
    control_plane: tuple[Machine, ...]
    workers: tuple[Machine, ...]


@dataclasses.dataclass(frozen=True)
class Access:
    """Open connections to the nodes of a cluster, and the reasons why others could not be reached."""

    known: Known
    ssh: SshConnections
    control_plane: tuple[SshNode, ...]
    """The reachable ones, in the order of ``known``."""
    workers: tuple[SshNode, ...]
    unreachable: Mapping[str, NodeError]
    """By address."""

    @property
    def first(self) -> SshNode:
        """The first reachable control-plane node. Raises NodeError, with all reasons, when there is none."""
        if not self.control_plane:
            raise NodeError(
                "\n".join(error.message for error in self.unreachable.values())
                or f"the cluster {self.known.state.name} has no control-plane node",
                hint="a cluster is reached through one of its control-plane nodes",
            )
        return self.control_plane[0]

    @property
    def kubectl(self) -> NodeKubectl:
        """kubectl on the first control-plane node; the others are asked when its API does not answer."""
        return NodeKubectl(self.first, self.control_plane[1:])


@dataclasses.dataclass(frozen=True)
class GivenLogin:
    """The parts of a login that the user has given to this command; None for those that stay as they are remembered."""

    user: str | None = None
    port: int | None = None
    key: Path | None = None
    password: str | None = dataclasses.field(default=None, repr=False)


_given: contextvars.ContextVar[GivenLogin] = contextvars.ContextVar("given login", default=GivenLogin())  # noqa: B039 -- it is frozen


def give(login: GivenLogin) -> None:
    """Use this login for the remembered nodes of clusters. Passwords are never remembered, so each command is given its own."""
    _given.set(login)


def known(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    home: Path | None = None,
    option: str = "--via",
) -> Known:
    """Return the cluster ``name``: with the given machines, or else those in the cache of this machine.

    Raises UsageError, with the cached names and the ``option`` for control-plane nodes, when no machine is given and none is cached.
    """
    state = ClusterState.of(name, home)
    if control_plane or workers:
        return Known(state, tuple(control_plane), tuple(workers))
    facts = state.read()
    if not facts.get("controlPlane"):
        names = [other.name for other in cluster_cache.known(home)]
        near = difflib.get_close_matches(name, names, n=1)
        known_names = f"known here: {', '.join(names)}; " if names else ""
        hint = f"did you mean {near[0]}?" if near else f"{known_names}name one of its control-plane nodes with {option}"
        raise UsageError(f"nothing is known of a cluster {name}", hint=hint)
    return Known(
        state, tuple(_machine(entry) for entry in facts["controlPlane"]), tuple(_machine(entry) for entry in facts.get("workers", ()))
    )


def _machine(entry: Mapping[str, Any]) -> Machine:
    settings = _given.get()
    key, jump = settings.key or entry.get("key"), entry.get("jump")
    way = JumpHost(jump["host"], jump.get("user"), jump.get("port"), Path(jump["key"]) if jump.get("key") else None) if jump else None
    login = Login(
        settings.user or entry.get("user"), settings.port or entry.get("port"), Path(key) if key else None, settings.password, jump=way
    )
    return Machine(str(entry["address"]), login, entry.get("host"))


def _entry(node: SshNode, name: str) -> dict[str, object]:
    """The inverse of ``_machine``."""
    login = node.machine.login
    jump = login.jump
    return {
        "address": node.address,
        "name": name,
        **({"host": node.machine.host} if node.machine.host else {}),
        "user": login.user,
        "port": login.port,
        "key": str(login.key) if login.key else None,
        **({"jump": {**dataclasses.asdict(jump), "key": str(jump.key) if jump.key else None}} if jump else {}),
    }


def remember(
    state: ClusterState,
    control_plane: Iterable[SshNode],
    workers: Iterable[SshNode],
    *,
    image: Mapping[str, str | None] | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """Cache on this machine how its nodes are reached. ``image``: ``{"image", "digest"}`` to cache too; ``names``: of nodes, by address."""
    entries = {
        kind: [_entry(node, (names or {}).get(node.address, node.name)) for node in members]
        for kind, members in (("controlPlane", control_plane), ("workers", workers))
    }
    state.remember({"name": state.name, **(image or {}), **entries})


@contextmanager
def opened(cluster: Known, *, workers: bool = True) -> Iterator[Access]:
    """Connect to all nodes of a cluster in parallel, or without ``workers`` to its control-plane nodes alone.

    An unreachable node is listed with its reason; it raises nothing.
    """
    with SshConnections(cluster.state.folder, (*cluster.control_plane, *cluster.workers)) as ssh:
        control_plane = ssh.nodes[: len(cluster.control_plane)]
        reachable, errors = ssh.reachable(ssh.nodes if workers else control_plane)
        yield Access(
            known=cluster,
            ssh=ssh,
            control_plane=tuple(node for node in control_plane if node in reachable),
            workers=tuple(node for node in reachable if node not in control_plane),
            unreachable={node.address: error for node, error in errors.items()},
        )
