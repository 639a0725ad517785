"""Clouds: the three requests that machines from one take, and what they are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Protocol

from harness.errors import SlipwayError


class CloudError(SlipwayError):
    """A cloud did not answer, or not so that it is known what became of a request."""

    exit_code = 5


class CloudRefusalError(CloudError):
    """A cloud refused a request: it changed nothing."""


@dataclasses.dataclass(frozen=True)
class MachineSpec:
    """Machines as a cloud makes them. ``size``, ``image``, ``subnet`` and ``security_groups`` are in the words of the cloud."""

    size: str
    image: str
    subnet: str | None = None
    """None: the cloud's default."""
    security_groups: tuple[str, ...] = ()
    public: bool = False
    """They are reached by a public address."""


@dataclasses.dataclass(frozen=True)
class MachineOrder:
    """A request for ``count`` machines. The same ``token`` again makes no more machines: the answer is that to the first request."""

    spec: MachineSpec
    count: int
    token: str
    tags: Mapping[str, str]
    user_data: str
    """For cloud-init."""


@dataclasses.dataclass(frozen=True)
class CloudMachine:
    """A machine as a cloud describes it."""

    id: str
    address: str
    """Empty as long as it has none."""
    tags: Mapping[str, str]
    place: int
    """Place among the machines of its order, from 0 on."""
    alive: bool = True
    """False for one that was removed or never began to run, which a cloud still lists for a while."""
    state: str = ""
    """The cloud's own words, with the reason for one that is not alive."""


class Cloud(Protocol):
    """A cloud. Each method repeats what was throttled or lost. Raises CloudRefusalError and CloudError."""

    name: str
    """As ``--provider`` has it."""
    region: str

    def create(self, order: MachineOrder) -> tuple[CloudMachine, ...]:
        """Make machines; fewer than ordered where the cloud does so."""
        ...

    def list(self, tag: str, value: str | None = None) -> tuple[CloudMachine, ...]:
        """Machines with a tag."""
        ...

    def destroy(self, ids: Collection[str]) -> None:
        """Remove machines, all at once. One that does not exist is removed already."""
        ...
