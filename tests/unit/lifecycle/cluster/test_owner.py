"""The cluster that machines belong to, and those of other clusters, which no claim may reach."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import CheckError
from harness.lifecycle.cluster import owner
from harness.nodes import claim
from tests.unit.lifecycle.standin import StandIn


def machine(number: int, mark: str = "") -> StandIn:
    node = StandIn(f"10.0.0.{number}")
    node.answers = {"/cluster 2>": mark}
    return node


def test_of_marked_machine_is_name_and_identity_without_control_characters() -> None:
    assert owner.of(machine(1, "lab 01\n")) == ("lab", "01")
    assert owner.of(machine(1)) == ()
    assert owner.of(machine(1, "lab\x1b[2J 01\n")) == ("lab\\x1b[2J", "01")


def test_of_asks_without_the_claim_of_this_process() -> None:
    class Asked(StandIn):
        def run(self, command: str, **options: Any) -> Any:
            claims.append(claim.current())
            return super().run(command, **options)

    claims: list[Any] = []
    with claim.holding() as held:
        owner.of(Asked())
        assert claim.current() is held
    assert claims == [None]


@pytest.mark.parametrize(
    ("member", "machines", "expected"),
    [
        ("", ("", ""), {}),
        ("lab 01", ("", "lab 01"), {}),
        ("lab 01", ("prod 02", "lab 02"), {"10.0.0.2": "prod", "10.0.0.3": "lab"}),
        ("", ("", "lab 02"), {"10.0.0.3": "lab"}),
        ("prod 02", ("prod 02", ""), {"10.0.0.1": "prod", "10.0.0.2": "prod"}),
    ],
)
def test_foreign_machines_have_other_name_or_identity(member: str, machines: tuple[str, str], expected: dict[str, str]) -> None:
    nodes = [machine(number, mark) for number, mark in enumerate(machines, 2)]
    assert owner.foreign(nodes, machine(1, member), "lab") == expected


def test_require_free_names_every_foreign_machine_by_cluster() -> None:
    nodes = [machine(1, "prod 02"), machine(2), machine(3, "prod 02"), machine(4, "test 03")]
    owner.require_free(nodes[1:2], nodes[1], "lab")
    with pytest.raises(CheckError, match=r"10\.0\.0\.1, 10\.0\.0\.3 belongs to a cluster prod\n10\.0\.0\.4 belongs to a cluster test"):
        owner.require_free(nodes, nodes[1], "lab")
