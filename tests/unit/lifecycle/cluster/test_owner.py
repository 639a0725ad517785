"""The cluster that machines belong to, and those of other clusters, which no claim may reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, NodeError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import owner
from harness.lifecycle.cluster.access import Access, Known
from harness.nodes import claim
from harness.nodes.ssh import SshConnections
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


@pytest.mark.parametrize(
    ("first", "marks", "expected"),
    [
        ("lab 01", ("lab 01", "prod 02", "lab 03", ""), {"10.0.0.3": "prod", "10.0.0.4": "lab"}),
        # A cluster that this machine calls by another name.
        ("shop 01", ("shop 01", "", "", ""), {}),
        ("", ("prod 02", "", "", ""), {}),
    ],
)
def test_taken_members_of_other_clusters_count_as_silent(first: str, marks: tuple[str, ...], expected: dict[str, str]) -> None:
    nodes: Any = [StandIn(f"10.0.0.{number}") for number in range(1, 6)]
    for node, mark in zip(nodes, (first, *marks), strict=True):
        node.answers = {"/cluster 2>": mark}
    errors = owner.taken(nodes, nodes[0])
    assert {address: error.message for address, error in errors.items()} == {
        address: f"{address} belongs to a cluster {other} by now and is left as it is" for address, other in expected.items()
    }


def test_own_leaves_out_machines_that_another_cluster_has_by_now(tmp_path: Path) -> None:
    nodes: Any = [machine(1, "lab 01"), machine(2, "lab 99"), machine(3, "lab 01"), machine(4, "prod 02"), machine(5)]
    known = Known(ClusterState.of("lab", tmp_path), (), ())
    gone = {"10.0.0.9": NodeError("10.0.0.9 does not answer")}
    cluster = owner.own(Access(known, SshConnections(tmp_path / "c", ()), tuple(nodes[:3]), tuple(nodes[3:]), gone))
    assert [node.address for node in cluster.control_plane] == ["10.0.0.1", "10.0.0.3"]
    assert [node.address for node in cluster.workers] == ["10.0.0.5"]
    assert sorted(cluster.unreachable) == ["10.0.0.2", "10.0.0.4", "10.0.0.9"]
