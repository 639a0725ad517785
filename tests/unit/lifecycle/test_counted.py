"""Machines by number: what is made, which addresses they get, and what another number changes. Provider and cluster are stand-ins."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.errors import InputError, UsageError
from harness.lifecycle import apply, counted
from harness.lifecycle.apply import Applied
from harness.lifecycle.cluster.request import effective, machines
from harness.lifecycle.counted import MachineSource
from harness.nodes import GroupMember, Login, NodeGroup, groups

CLUSTER = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {{name: lab}}
spec:
  image: web
  provider: CONTAINER
  ssh: {{user: ops, passwd: secret}}
  hosts:
    - {{count: {control_plane}, roles: [master]}}
    - {{count: {workers}, roles: [node, gpu], labels: {{a: b}}}}
"""


class Made:
    """A provider in memory."""

    def __init__(self) -> None:
        self.groups: dict[str, NodeGroup] = {}
        self.calls: list[str] = []

    def up(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        return self.grow(name, control_plane, workers, image=image)

    def grow(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        group = self.groups.get(name) or NodeGroup(name, "memory", (), Login("slipway", key=Path("/keys/lab")))
        lacking = groups.missing(name, group.members, control_plane, workers)
        self.calls += [f"make {machine}" for machine, _ in lacking]
        fresh = [GroupMember(machine, f"10.0.{role == 'worker':d}.{groups.number(machine)}", role) for machine, role in lacking]
        self.groups[name] = dataclasses.replace(group, members=groups.in_order([*group.members, *fresh]))
        return self.groups[name]

    def shrink(self, name: str, members: Collection[str]) -> None:
        self.calls += [f"remove {member}" for member in members]
        group = self.groups[name]
        self.groups[name] = dataclasses.replace(group, members=tuple(one for one in group.members if one.name not in members))

    def down(self, name: str) -> bool:
        return self.groups.pop(name, None) is not None

    def list(self) -> tuple[NodeGroup, ...]:
        return tuple(self.groups.values())


class Applies:
    """Stands for ``apply.apply``: it notes which machines it was given."""

    def __init__(self) -> None:
        self.result = Applied("lab", (), (), True, 1.0)
        self.addresses: list[tuple[str, ...]] = []
        self.plans: list[bool] = []
        self.failure: Exception | None = None

    def __call__(self, clusterfile: Clusterfile, *_: Any, plan: bool = False, **__: Any) -> Applied:
        assert clusterfile.cluster is not None
        self.addresses.append((*clusterfile.cluster.control_plane, *clusterfile.cluster.workers))
        self.plans.append(plan)
        if self.failure:
            raise self.failure
        return self.result


@pytest.fixture
def applies(monkeypatch: pytest.MonkeyPatch) -> Applies:
    stand_in = Applies()
    monkeypatch.setattr(apply, "apply", stand_in)
    return stand_in


def of(control_plane: int, workers: int) -> Clusterfile:
    return effective(parse(CLUSTER.format(control_plane=control_plane, workers=workers), "Clusterfile"))


def run(made: Made, control_plane: int, workers: int, *, plan: bool = False) -> Applied:
    store: Any = None
    return counted.apply(of(control_plane, workers), store, None, MachineSource(made, lambda: "image"), plan=plan)


def test_made_machines_have_addresses_login_and_settings_of_their_host() -> None:
    made = Made()
    clusterfile = counted.made(of(1, 2), MachineSource(made, lambda: "image"))
    assert clusterfile.cluster is not None
    assert not counted.is_counted(clusterfile)
    assert clusterfile.cluster.workers == ("10.0.1.1", "10.0.1.2")
    assert (clusterfile.cluster.hosts[1].roles, clusterfile.cluster.hosts[1].labels) == (("worker", "gpu"), {"a": "b"})
    control_plane, _ = machines(clusterfile)
    assert (control_plane[0].login.user, control_plane[0].login.key, control_plane[0].login.password) == (
        "slipway",
        Path("/keys/lab"),
        None,
    )
    assert counted.made(of(1, 2), MachineSource(made, lambda: pytest.fail("an image for no machine"))) == clusterfile


def test_apply_other_count_makes_and_removes_machines_by_number(applies: Applies) -> None:
    made = Made()
    run(made, 1, 1)
    made.calls.clear()
    run(made, 1, 3)
    assert made.calls == ["make lab-worker-2", "make lab-worker-3"]
    assert list(applies.addresses[-1]) == ["10.0.0.1", "10.0.1.1", "10.0.1.2", "10.0.1.3"]
    made.calls.clear()
    run(made, 1, 1)
    assert list(applies.addresses[-1]) == ["10.0.0.1", "10.0.1.1"]
    assert made.calls == ["remove lab-worker-2", "remove lab-worker-3"]


def test_apply_impossible_change_is_refused_before_machines_are_made(applies: Applies) -> None:
    made = Made()
    run(made, 1, 1)
    made.calls.clear()
    applies.failure = UsageError("this cannot be changed")
    with pytest.raises(UsageError):
        run(made, 1, 2)
    assert (made.calls, applies.plans[-1]) == ([], True)


def test_apply_failed_change_removes_no_machine(applies: Applies) -> None:
    made = Made()
    run(made, 1, 2)
    made.calls.clear()
    applies.failure = UsageError("a drain timed out")
    with pytest.raises(UsageError):
        run(made, 1, 1)
    assert made.calls == []


def test_plan_names_machines_to_make_join_and_remove_and_changes_nothing(applies: Applies) -> None:
    made = Made()
    plan = run(made, 3, 1, plan=True)
    assert [(step["id"], step["nodes"]) for step in plan.steps] == [
        ("make-machines", ["lab-control-plane-1", "lab-control-plane-2", "lab-control-plane-3", "lab-worker-1"])
    ]
    assert (plan.changes, made.calls, applies.plans) == ((), [], [])
    run(made, 1, 2)
    made.calls.clear()
    grown = run(made, 1, 3, plan=True)
    assert [(step["id"], step["nodes"]) for step in grown.steps] == [
        ("make-machines", ["lab-worker-3"]),
        ("join-machines", ["lab-worker-3"]),
    ]
    assert [str(change) for change in grown.changes] == ["+ .spec.hosts[lab-worker-3]: worker"]
    shrunk = run(made, 1, 1, plan=True)
    assert [(step["id"], step["nodes"]) for step in shrunk.steps] == [("remove-machines", ["lab-worker-2"])]
    assert made.calls == []


def test_apply_two_counts_of_one_role_are_refused() -> None:
    text = CLUSTER.format(control_plane=1, workers=1) + "    - {count: 1, roles: [node]}\n"
    store: Any = None
    with pytest.raises(InputError, match="2 entries with a count for the role worker"):
        counted.apply(effective(parse(text, "Clusterfile")), store, None, MachineSource(Made(), lambda: "image"))
