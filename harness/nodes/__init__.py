"""Nodes: machines reached over SSH, whatever made them, and the providers that make some."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from harness.clusterfile import THIS_MACHINE
from harness.errors import CommandError, NodeError, SlipwayError
from harness.process import ProcessResult, wait_for

Writer = Callable[[BinaryIO], None]
"""Writes a command's standard input; called once, in a thread of its own."""

COMMAND_TIMEOUT = 120
"""Seconds for a command on a node that names no limit of its own."""

LONG_TIMEOUT = 1800
"""Seconds for what may take long on a busy machine: unpacking, copying, starting and stopping services. Only ends what hangs."""

Input = str | bytes | BinaryIO | Writer | None

_MOST_AT_ONCE = 64
"""Machines that ``each`` talks to at the same time."""

Item = TypeVar("Item")
Value = TypeVar("Value")


class Node(Protocol):
    """A machine on which commands run as root."""

    @property
    def name(self) -> str:
        """Its host name once it is connected, until then its address, or the name that it was given by."""
        ...

    @property
    def address(self) -> str: ...

    def run(self, command: str, *, input: Input = None, check: bool = True, timeout: float = COMMAND_TIMEOUT) -> ProcessResult:
        """Run shell text as root. ``timeout`` is in seconds; every command has one.

        Raises NodeError when the node cannot be reached or refuses the login, CommandError when the command takes too long or prints
        more than ``process.OUTPUT_LIMIT`` and, with ``check``, when it fails.
        """
        ...

    def put_tar(self, stream: BinaryIO | Writer, destination: str) -> None:
        """Unpack a tar stream, not compressed, below ``destination``; root owns all of it."""
        ...

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        """Write a file atomically; its directory is made."""
        ...

    def get(self, path: str) -> bytes:
        """Return the bytes of a file; raises CommandError when it does not exist."""
        ...


@dataclasses.dataclass(frozen=True)
class JumpHost:
    """A jump host (``ssh -J``). None: the default, or the setting of the user's own ssh_config."""

    host: str
    user: str | None = None
    port: int | None = None
    key: Path | None = None


@dataclasses.dataclass(frozen=True)
class Login:
    """SSH user, port and credentials for a machine. The secrets are never shown."""

    user: str | None = None
    """None: root, unless ssh_config has a user for the name of the machine; the same goes for the port, 22."""
    port: int | None = None
    key: Path | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    passphrase: str | None = dataclasses.field(default=None, repr=False)
    jump: JumpHost | None = None


@dataclasses.dataclass(frozen=True)
class Machine:
    """An address and its login."""

    address: str
    login: Login = Login()
    host: str | None = None
    """The name that SSH connects to: a host name, or an entry of ssh_config. None: the address."""

    @property
    def target(self) -> str:
        return self.host or self.address

    @property
    def is_own(self) -> bool:
        """True for the machine that runs this process."""
        return self.host == THIS_MACHINE

    def __str__(self) -> str:
        return f"{self.host} ({self.address})" if self.host and self.host != self.address else self.address


@dataclasses.dataclass(frozen=True)
class GroupMember:
    """One machine that a provider made."""

    name: str
    address: str
    role: str
    """``control-plane`` or ``worker``: the role that it was made for; it has it only in a cluster."""
    booted: bool = True
    """False for one whose boot no command has seen: ``grow`` waits for it."""


@dataclasses.dataclass(frozen=True)
class NodeGroup:
    """Machines that were made together."""

    name: str
    provider: str
    members: tuple[GroupMember, ...]
    login: Login
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    """Highest number that a machine of each role had, those that are gone included."""

    @property
    def control_plane(self) -> tuple[Machine, ...]:
        return tuple(Machine(member.address, self.login) for member in self.members if member.role == "control-plane")

    @property
    def workers(self) -> tuple[Machine, ...]:
        return tuple(Machine(member.address, self.login) for member in self.members if member.role == "worker")


class Provider(Protocol):
    """Creates and removes machines."""

    def up(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        """Make machines and wait until they have booted and answer over SSH. A failure or an interruption removes them."""
        ...

    def grow(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        """Make the machines that a group lacks to have at least that many, a group that does not exist included, and wait for those that
        an earlier command has made and not seen boot.

        Machines that exist stay, whether they have booted or not. A failure or an interruption removes the new ones.
        """
        ...

    def shrink(self, name: str, members: Collection[str]) -> None:
        """Remove machines of a group by their names. One that does not exist is removed already."""
        ...

    def down(self, name: str) -> bool:
        """Remove the machines, their disks, network and keys; False when the group does not exist."""
        ...

    def list(self) -> tuple[NodeGroup, ...]: ...


def brief(command: str) -> str:
    """A command in one short line for a message."""
    text = " ".join(command.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def each(items: Iterable[Item], action: Callable[[Item], Value]) -> list[Value]:
    """Run ``action`` for all items in parallel; return the values in the order of the items.

    All actions are completed. One failure is raised unchanged, several as one error that names all of them.
    """
    work = list(items)
    if not work:
        return []
    futures: list[concurrent.futures.Future[Value]] = [concurrent.futures.Future() for _ in work]
    waiting: queue.SimpleQueue[tuple[Item, concurrent.futures.Future[Value]]] = queue.SimpleQueue()
    for pair in zip(work, futures, strict=True):
        waiting.put(pair)
    # No executor: the interpreter joins an executor's threads at exit, so Ctrl-C would wait for a machine that does not answer.
    for started in range(min(_MOST_AT_ONCE, len(work))):
        try:
            threading.Thread(target=_work, args=(action, waiting), daemon=True).start()
        except RuntimeError as refused:
            if not started:
                raise no_thread(refused) from refused
            break  # those that run do the work, too
    try:
        wait_for(futures)
    except BaseException:
        _discard(waiting)  # interrupted: nothing new is begun
        raise
    failures = [failure for future in futures if (failure := future.exception()) is not None]
    if failures:
        raise together(failures)
    return [future.result() for future in futures]


def _work(action: Callable[[Item], Value], waiting: queue.SimpleQueue[tuple[Item, concurrent.futures.Future[Value]]]) -> None:
    """Process waiting items until the queue is empty."""
    with contextlib.suppress(queue.Empty):
        while True:
            item, future = waiting.get_nowait()
            try:
                future.set_result(action(item))
            except BaseException as failure:
                future.set_exception(failure)


def _discard(waiting: queue.SimpleQueue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            waiting.get_nowait()


def no_thread(refused: RuntimeError) -> CommandError:
    """Error for a thread that the system does not start."""
    return CommandError(
        f"this machine starts no more threads: {refused}", hint="raise the limit of processes (ulimit -u, TasksMax), or end other programs"
    )


def together(failures: Sequence[BaseException]) -> BaseException:
    """Combine failures into one error; an unexpected failure is returned unchanged."""
    expected = [failure for failure in failures if isinstance(failure, SlipwayError)]
    if len(failures) == 1 or len(expected) < len(failures):
        return next(failure for failure in failures if not isinstance(failure, SlipwayError) or len(failures) == 1)
    unreached = [failure for failure in expected if isinstance(failure, NodeError)]
    hints = dict.fromkeys(failure.hint for failure in expected if failure.hint)
    details = [f"{failure.message}\n{failure.details}" for failure in expected if failure.details]
    kind = NodeError if unreached else type(expected[0])
    return kind(
        "\n".join(dict.fromkeys(failure.message for failure in expected)),
        hint="; ".join(hints) or None,
        details="\n".join(dict.fromkeys(details)) or None,
    )
