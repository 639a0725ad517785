"""The steps of a rollout: the order in which nodes are updated, and what comes before and after it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.clusterfile import Hook, Phase
from harness.clusterfile.parse import parse
from harness.lifecycle import plan as lifecycle_plan
from harness.lifecycle.apps import obsolete
from harness.lifecycle.cluster.change import ROLLBACK, UPGRADE, Move, Version
from harness.lifecycle.rollout import RolloutWork
from harness.lifecycle.rollout import plan as rollout_plan
from harness.oci.store import Store
from tests.unit.lifecycle.cluster.test_membership import CLUSTERFILE
from tests.unit.lifecycle.test_run import FACTS, build, changed, store
from tests.unit.lifecycle.test_upgrade import NEW, OLD, work

__all__ = ["store"]  # a fixture


def roles(work: RolloutWork) -> list[tuple[str, int]]:
    return [(role, len(nodes)) for role, nodes in rollout_plan.batches(work)]


def test_batches_update_control_plane_nodes_singly_before_workers(store: Store, tmp_path: Path) -> None:
    assert roles(work(store, tmp_path, workers=5, batch=2)) == [("control-plane", 1)] * 3 + [("worker", 2), ("worker", 2), ("worker", 1)]


def test_plan_turn_titles_name_role_and_nodes(store: Store, tmp_path: Path) -> None:
    titles = [step.title for step in rollout_plan.plan(work(store, tmp_path, 1, 3, batch=2)) if step.id.startswith("turn-")]
    assert titles == ["change control-plane node host-1", "change workers host-2, host-3", "change worker host-4"]


def test_batches_to_lower_minor_version_update_workers_first(store: Store, tmp_path: Path) -> None:
    down = Move.new(ROLLBACK, Version("web:2", "2", "v1.37.0"), OLD)
    assert [role for role, _ in roles(work(store, tmp_path, 1, 2, move=down))] == ["worker", "worker", "control-plane"]
    same_minor = Move.new(ROLLBACK, NEW, OLD)
    assert [role for role, _ in roles(work(store, tmp_path, 1, 2, move=same_minor))] == ["control-plane", "worker", "worker"]


def test_described_returns_versions_and_turn_of_each_node(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, 1, 1, versions={"10.0.0.1": "v1.36.4", "10.0.0.2": "v1.36.3"})
    assert list(rollout_plan.described(made)) == [
        {"node": "host-1", "address": "10.0.0.1", "role": "control-plane", "from": "v1.36.4", "to": "v1.36.4", "turn": 1},
        {"node": "host-2", "address": "10.0.0.2", "role": "worker", "from": "v1.36.3", "to": "v1.36.4", "turn": 2},
    ]


# ---- the order of things ----------------------------------------------------------------------------------------------


def plan(made: RolloutWork) -> dict[str, lifecycle_plan.Step]:
    recipe = rollout_plan.plan(made)
    lifecycle_plan.check(recipe)
    return {step.id: step for step in recipe}


def leads_to(found: dict[str, lifecycle_plan.Step], name: str, other: str) -> bool:
    return name == other or any(leads_to(found, before, other) for before in found[name].needs)


def test_plan_checks_and_backup_precede_all_changes(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path))
    for name in found:
        if name not in ("check", "unpack-rootfs", "make-keys", "compare"):
            assert leads_to(found, name, "check"), name
            assert leads_to(found, name, "compare"), name
            assert name == "begin" or leads_to(found, name, "begin"), name
    for name in ("send-images", "stage", "turn-1"):
        assert leads_to(found, name, "keep-backup"), name


def test_plan_turns_wait_for_images_and_health_of_former_turn(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, 3, 2))
    assert found["turn-1"].after_all == ("fetch-images",)
    assert set(found["fetch-images"].needs) == {"stage", "send-images"}
    # Registries ask for the login from their update on; a change that is resumed looks again whether every node has it.
    assert "tell-nodes" in found["stage"].after
    assert (len(found["tell-nodes"].nodes), found["tell-nodes"].inputs) == (5, None)
    assert [len(found[f"turn-{number}"].nodes) for number in range(1, 6)] == [1] * 5
    for number in range(2, 6):
        assert leads_to(found, f"turn-{number}", f"healthy-{number - 1}")
    assert leads_to(found, "turn-4", "start-addons")
    assert leads_to(found, "update-cluster", "healthy-3")
    # No pod is moved while a kube-proxy is replaced.
    assert leads_to(found, "turn-4", "healthy-cluster")
    assert leads_to(found, "healthy-cluster", "prune-addons")
    assert list(found)[-3:] == ["wait-for-workloads", "record", "end"]


def test_plan_journal_inputs_differ_between_changes(store: Store, tmp_path: Path) -> None:
    there, back = (plan(work(store, tmp_path / name)) for name in ("a", "b"))
    node = there["turn-1"].nodes[0]
    # When a batch was cut off its node is not well: it is gone on with, and what was well before is not asked again.
    for name in ("stage", "turn-1", "healthy-1", "fetch-images", "update-cluster"):
        first, second = there[name].inputs, back[name].inputs
        assert first
        assert second
        assert first(node) == first(node) != second(node)


def hook(name: str, *phases: Phase) -> Hook:
    return Hook(name, phases, data="true")


def test_plan_runs_hooks_at_their_phases(store: Store, tmp_path: Path) -> None:
    hooks = (
        hook("before", Phase.PRE_UPGRADE), hook("once", Phase.UPGRADE), hook("back", Phase.ROLLBACK), hook("after", Phase.POST_UPGRADE),
        hook("making", Phase.PRE_INIT),
    )  # fmt: skip
    clusterfile = parse(CLUSTERFILE, "x", stored=True)
    made = work(store, tmp_path, 3, 1, hooks=hooks)
    made.context = changed(made.context, clusterfile=clusterfile)
    found = plan(made)
    order = [name for name in found if name.startswith("hook-") or name in ("keep-backup", "stage", "turn-4", "launch-1", "end")]
    assert order == ["keep-backup", "hook-pre-upgrade-1-before", "stage", "turn-4", "hook-upgrade-1-once", "launch-1",
                     "hook-post-upgrade-1-after", "end"]  # fmt: skip
    made = work(store, tmp_path / "b", 3, 1, hooks=hooks, move=Move.new(ROLLBACK, NEW, OLD))
    made.context = changed(made.context, clusterfile=clusterfile)
    assert [name for name in plan(made) if name.startswith("hook-")] == ["hook-rollback-1-back"]


# ---- addons of the image before ----------------------------------------------------------------------------------------


def addon(name: str) -> str:
    return f"apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {name}, namespace: kube-system}}\n"


def test_plan_prune_addons_follows_start_addons(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, 3, 2))
    assert found["prune-addons"].needs == ("start-addons",)
    assert found["prune-addons"].title == "remove addons that the image has not any more"
    assert leads_to(found, "turn-4", "prune-addons")
    first, second = (plan(work(store, tmp_path / name))["prune-addons"] for name in "ab")
    assert first.inputs
    assert second.inputs
    assert first.inputs(first.nodes[0]) != second.inputs(first.nodes[0])


def test_prune_addons_step_reads_former_image_and_drops_idle_tables(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store, "before", {"etc/slipway.yaml": FACTS, "etc/addons/old.yaml": addon("{{ Name }}")}, env={"Name": "old"})
    before = dataclasses.replace(OLD, digest=cloudimage.read(store, "before").digest)
    made = work(store, tmp_path, 1, 1, move=Move.new(UPGRADE, before, NEW))
    made.resolved._files.update({node.address: {} for node in made.spec.nodes})
    given: list[Any] = []

    def prune(*words: Any) -> obsolete.PruneResult:
        given.append(words[1:])
        return obsolete.PruneResult()

    monkeypatch.setattr(obsolete, "prune", prune)
    made.found.first.answers["get daemonsets.apps"] = "docker.io/flannel/flannel:v1\n"  # type: ignore[attr-defined]
    step = plan(made)["prune-addons"]
    assert step.action(step.nodes[0]) == "0 objects removed"
    assert given == [({"dns.yaml": "kind: Service"}, {"old.yaml": addon("old")}, [])]
    assert all("nft=" in node.commands[-1] and "'inet kube-network-policies'" in node.commands[-1] for node in made.spec.nodes)  # type: ignore[attr-defined]


def test_former_addons_of_missing_image_are_empty(store: Store, tmp_path: Path) -> None:
    assert rollout_plan._former_addons(work(store, tmp_path)) == {}
