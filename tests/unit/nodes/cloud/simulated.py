"""A cloud in memory that fails when a test says so."""

from __future__ import annotations

from collections.abc import Collection

from harness.nodes.cloud import CloudMachine, CloudRefusalError, MachineOrder, MachineSpec

SPEC = MachineSpec("t3.large", "ami-12345678")


class SimulatedCloud:
    """Carries orders out once for each token. ``failures``: for each request, in order, an error, or None for one that works.

    An error that is raised after an order was carried out is in ``lost``.
    """

    name = "aws"

    def __init__(self, region: str = "here") -> None:
        self.region = region
        self.machines: dict[str, CloudMachine] = {}
        self.made = 0
        """Machines in all: an id is not used again."""
        self.orders: dict[str, tuple[str, ...]] = {}
        self.requests: list[str] = []
        self.failures: list[BaseException | None] = []
        self.lost: list[BaseException] = []
        self.most = 1000
        """Quota; fewer machines than ordered are made at it."""

    def _request(self, kind: str) -> None:
        self.requests.append(kind)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure

    def create(self, order: MachineOrder) -> tuple[CloudMachine, ...]:
        self._request("create")
        if order.token not in self.orders:
            made = []
            for place in range(min(order.count, self.most - len(self.machines))):
                self.made += 1
                number = self.made
                machine = CloudMachine(f"i-{number:08x}", f"10.0.0.{number}", dict(order.tags), place, state="pending")
                self.machines[machine.id] = machine
                made.append(machine.id)
            if not made:
                raise CloudRefusalError("no machines are left")
            self.orders[order.token] = tuple(made)
        if self.lost:
            raise self.lost.pop(0)
        return tuple(self.machines[identity] for identity in self.orders[order.token] if identity in self.machines)

    def list(self, tag: str, value: str | None = None) -> tuple[CloudMachine, ...]:
        self._request("list")
        return tuple(machine for machine in self.machines.values() if tag in machine.tags and (value is None or machine.tags[tag] == value))

    def destroy(self, ids: Collection[str]) -> None:
        self._request("destroy")
        for identity in ids:
            self.machines.pop(identity, None)
