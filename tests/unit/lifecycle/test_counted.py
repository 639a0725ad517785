"""Machines by number: what is made, which addresses they get, and what another number changes. Provider and cluster are stand-ins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, cast

import pytest

from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.errors import InputError, UsageError
from harness.lifecycle import apply, counted
from harness.lifecycle import run as lifecycle_run
from harness.lifecycle.apply import Applied
from harness.lifecycle.cluster.request import effective, machines
from harness.lifecycle.counted import MachineSource
from harness.nodes import GroupMember, Login, NodeGroup, groups
from harness.nodes.cloud import CloudRefusalError, boot
from harness.nodes.cloud.provider import CloudProvider
from tests.unit.nodes.cloud.simulated import SPEC, SimulatedCloud

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
        self.calls += [f"wait for {member.name}" for member in group.members if not member.booted]
        machines = [*((member.name, member.role) for member in group.members), *lacking]
        booted = (GroupMember(machine, f"10.0.{role == 'worker':d}.{groups.number(machine)}", role) for machine, role in machines)
        self.groups[name] = dataclasses.replace(group, members=groups.in_order(booted))
        return self.groups[name]

    def shrink(self, name: str, members: Collection[str]) -> None:
        self.calls += [f"remove {member}" for member in members]
        group = self.groups[name]
        self.groups[name] = dataclasses.replace(group, members=tuple(one for one in group.members if one.name not in members))

    def stop(self, name: str) -> None:
        """A machine is as after a kill while it boots."""
        group = self.groups["lab"]
        members = (dataclasses.replace(one, address="", booted=False) if one.name == name else one for one in group.members)
        self.groups["lab"] = dataclasses.replace(group, members=tuple(members))

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
        self.prepared: list[tuple[str, ...]] = []
        self.failure: Exception | None = None
        self.unfit: Exception | None = None

    def prepare(self, clusterfile: Clusterfile, *_: Any, **__: Any) -> None:
        """Stands for ``run.prepare``."""
        assert clusterfile.cluster is not None
        self.prepared.append((*clusterfile.cluster.control_plane, *clusterfile.cluster.workers))
        if self.unfit:
            raise self.unfit

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
    monkeypatch.setattr(lifecycle_run, "prepare", stand_in.prepare)
    return stand_in


def of(control_plane: int, workers: int) -> Clusterfile:
    return effective(parse(CLUSTER.format(control_plane=control_plane, workers=workers), "Clusterfile"))


def run(made: Made, control_plane: int, workers: int, *, plan: bool = False) -> Applied:
    store: Any = None
    return counted.apply(of(control_plane, workers), store, None, MachineSource(made, lambda: "image"), plan=plan)


def make(made: Made, control_plane: int, workers: int, image: Callable[[], str] = lambda: "image") -> Clusterfile:
    store: Any = None
    return counted.made(of(control_plane, workers), store, None, MachineSource(made, image))


@pytest.mark.usefixtures("applies")
def test_made_machines_have_addresses_login_and_settings_of_their_host() -> None:
    made = Made()
    clusterfile = make(made, 1, 2)
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
    assert make(made, 1, 2, lambda: pytest.fail("an image for no machine")) == clusterfile


def test_made_request_that_is_wrong_makes_no_machine(applies: Applies) -> None:
    made = Made()
    applies.unfit = UsageError("a value is missing")
    with pytest.raises(UsageError, match="a value is missing"):
        make(made, 1, 2)
    with pytest.raises(UsageError, match="a value is missing"):
        run(made, 1, 2)
    assert (made.calls, applies.addresses) == ([], [])
    assert applies.prepared == [("198.18.0.1", "198.18.0.2", "198.18.0.3")] * 2


def test_made_more_machines_for_cluster_that_exists_are_refused(applies: Applies) -> None:
    made = Made()
    run(made, 1, 1)
    made.calls.clear()
    with pytest.raises(UsageError, match="the cluster lab is there, and lab-worker-2 would be new in it") as refused:
        make(made, 1, 2)
    assert "slipway apply" in str(refused.value.hint)
    assert (made.calls, applies.plans[-1]) == ([], True)
    # Machines without a cluster: an interrupted run.
    applies.result = Applied("lab", (), ({"id": "connect"},), False, 1.0)
    make(made, 1, 2)
    assert made.calls == ["make lab-worker-2"]
    assert applies.prepared[-1] == ("10.0.0.1", "10.0.1.1", "198.18.0.1")


def test_apply_after_kill_waits_for_machines_that_have_not_booted(applies: Applies) -> None:
    made = Made()
    run(made, 1, 2)
    made.stop("lab-worker-2")
    made.calls.clear()
    plan = run(made, 1, 2, plan=True)
    assert [(step["id"], step["nodes"]) for step in plan.steps] == [
        ("wait-for-machines", ["lab-worker-2"]),
        ("join-machines", ["lab-worker-2"]),
    ]
    assert (made.calls, applies.addresses[-1]) == ([], ("10.0.0.1", "10.0.1.1"))
    # Those above the number are removed, and not waited for.
    run(made, 1, 1)
    assert made.calls == ["remove lab-worker-2"]
    run(made, 1, 2)
    made.stop("lab-worker-2")
    made.calls.clear()
    run(made, 1, 2)
    assert made.calls == ["wait for lab-worker-2"]
    assert applies.addresses[-1] == ("10.0.0.1", "10.0.1.1", "10.0.1.2")


@pytest.mark.usefixtures("applies")
def test_apply_twice_after_kill_then_failed_growth_keeps_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines are those of a cloud: its provider knows which of them have booted."""
    cloud = SimulatedCloud()
    nodes = CloudProvider(cloud, SPEC, tmp_path)
    source, store = MachineSource(nodes, lambda: SPEC.image), cast("Any", None)
    waited: list[list[str]] = []
    monkeypatch.setattr(boot, "wait", lambda names, *_: waited.append(list(names.values())))
    with monkeypatch.context() as patched:
        patched.setattr(CloudProvider, "_take_back", lambda *_: None)
        patched.setattr(boot, "wait", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            counted.apply(of(1, 1), store, None, source)
    counted.apply(of(1, 1), store, None, source)
    assert waited == [["lab-control-plane-1", "lab-worker-1"]]
    cloud.failures = [None, None, CloudRefusalError("quota")]
    with pytest.raises(CloudRefusalError):
        counted.apply(of(1, 2), store, None, source)
    assert len(cloud.machines) == 2
    # One that ends is replaced by another name: the cluster lists it until the new one has joined.
    cloud.machines.pop("i-00000002")
    planned = counted.apply(of(1, 1), store, None, source, plan=True)
    assert planned.steps[0]["nodes"] == ["lab-worker-2"]
    counted.apply(of(1, 1), store, None, source)
    assert waited[1:] == [["lab-worker-2"]]


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
