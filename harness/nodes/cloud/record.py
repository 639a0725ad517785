"""Record of a group of a cloud's machines on this machine: its id, and the order whose answer is not known yet."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import untrusted
from harness.errors import UsageError
from harness.host import durable, liveness
from harness.nodes.cloud import MachineOrder, MachineSpec

FILE = "group.json"
SETTLED = 600
"""Seconds after which a cloud lists what an order has made. Its token is valid for longer."""


@dataclasses.dataclass(frozen=True)
class GroupRecord:
    """Record of a group. It is written before each order, so that a command that was killed leaves what the next one needs."""

    id: str
    """Two groups of one name, made from two homes, differ in it."""
    region: str
    booted: tuple[str, ...] = ()
    """Ids of the machines that have booted: no command waits for them."""
    pending: MachineOrder | None = None
    """An order whose machines have not booted yet; it may have been carried out."""
    ordered: float = 0
    """Time of ``pending``, in seconds since 1970."""
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    """Highest number of each role that a machine has booted with."""

    @classmethod
    def new(cls, region: str, numbers: Mapping[str, int] | None = None) -> GroupRecord:
        return cls(secrets.token_hex(8), region, numbers=numbers or {})

    @classmethod
    def read(cls, folder: Path) -> GroupRecord | None:
        """None when there is none. Raises UsageError for one that is damaged."""
        path = folder / FILE
        try:
            document = untrusted.json_object(path.read_bytes(), what="", error=UsageError)
            pending = document.pop("pending")
            booted = tuple(map(str, document.pop("booted")))
            numbers = {str(role): int(number) for role, number in document.pop("numbers", {}).items()}
            return cls(**document, booted=booted, pending=_order(pending) if pending else None, numbers=numbers)
        except FileNotFoundError:
            return None
        except (OSError, UsageError, ValueError, TypeError, KeyError, AttributeError) as wrong:
            hint = "slipway nodes list shows the machines with their groups; remove the file to remove them by the name with the id"
            raise UsageError(f"{path} cannot be read: {wrong}", hint=hint) from wrong

    def write(self, folder: Path) -> GroupRecord:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.write(folder / FILE, json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        return self

    @property
    def repeatable(self) -> MachineOrder | None:
        """The order, as long as its repetition says what it has made. Older ones are carried out or not: the cloud lists their machines."""
        return self.pending if time.time() < self.ordered + SETTLED else None

    def ordering(self, order: MachineOrder) -> GroupRecord:
        return dataclasses.replace(self, pending=order, ordered=time.time())

    def answered(self) -> GroupRecord:
        return dataclasses.replace(self, pending=None, ordered=0)

    def with_booted(self, ids: Iterable[str], numbers: Mapping[str, int]) -> GroupRecord:
        return dataclasses.replace(self.answered(), booted=tuple(ids), numbers=numbers)


def _order(document: dict[str, Any]) -> MachineOrder:
    spec = document.pop("spec")
    return MachineOrder(spec=MachineSpec(**{**spec, "security_groups": tuple(spec["security_groups"])}), **document)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only command that changes this group from here. Raises UsageError when another one does."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(liveness.locked(folder / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError as held:
            raise UsageError(f"another command is changing the nodes {folder.name.partition('.')[2]}", hint="wait for its end") from held
        yield
