"""Tags by which machines of a cloud are found again, and the names that they give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.clusterfile import CONTROL_PLANE, WORKER
from harness.nodes import GroupMember, groups
from harness.nodes.cloud import CloudMachine

GROUP = "dev.slipway.nodes"
ID = "dev.slipway.nodes.id"
MEMBERS = "dev.slipway.nodes.members"
"""Machines of one order have the same tags: they have the names of all, and the place of a machine in its order says which is its own."""

ADDRESS = "dev.slipway.nodes.address"
"""``public`` for machines that go by their public address."""

_RANGE = re.compile(r"(control-plane|worker):([0-9]{1,5})-([0-9]{1,5})")


def of(group: str, identity: str, machines: Sequence[tuple[str, str]], *, public: bool = False) -> dict[str, str]:
    """Tags of an order for machines with these names and roles, each role by consecutive numbers."""
    ranges = []
    for role in (CONTROL_PLANE, WORKER):
        numbers = [groups.number(name) for name, its in machines if its == role]
        if numbers:
            ranges.append(f"{role}:{numbers[0]}-{numbers[-1]}")
    own = {"Name": f"slipway-{group}", GROUP: group, ID: identity, MEMBERS: " ".join(ranges)}
    return {**own, ADDRESS: "public"} if public else own


def group(machine: CloudMachine) -> tuple[str, str]:
    """Name and id of the group of a machine. Tags may have been changed by others: what is not valid is empty."""
    name, identity = machine.tags.get(GROUP, ""), machine.tags.get(ID, "")
    return name if groups.NAME.fullmatch(name) else "", identity if re.fullmatch(r"[0-9a-f]{16}", identity) else ""


def member(machine: CloudMachine) -> GroupMember:
    """Name and role of a machine; one without usable tags goes by its id."""
    name, _ = group(machine)
    numbered = [
        (role, number)
        for role, first, last in map(_range, machine.tags.get(MEMBERS, "").split())
        for number in range(first, min(last, first + 1000) + 1)
    ]
    if not name or machine.place >= len(numbered):
        return GroupMember(machine.id, machine.address, "worker")
    role, number = numbered[machine.place]
    return GroupMember(f"{name}-{role}-{number}", machine.address, role)


def _range(word: str) -> tuple[str, int, int]:
    """One word of ``MEMBERS``; an empty range for one that is not valid."""
    match = _RANGE.fullmatch(word)
    return (match[1], int(match[2]), int(match[3])) if match else ("worker", 1, 0)
