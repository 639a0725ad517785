"""From which version to which a cluster goes, in which order its nodes have their turn, and what is refused before anything is changed."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ExpectedValue
from harness.clusterfile import Clusterfile, Hook, Phase
from harness.clusterfile.parse import parse
from harness.errors import CheckError, InputError, StoreError, UsageError
from harness.lifecycle import plan as planning
from harness.lifecycle import rollback, rollout, upgrade
from harness.lifecycle.apps import obsolete, records
from harness.lifecycle.cluster.change import DONE, ROLLBACK, RUNNING, UPGRADE, Move, Version
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import etcd
from harness.lifecycle.rollout import RolloutWork
from harness.lifecycle.rollout import plan as rollout_plan
from harness.lifecycle.steps.context import ClusterSpec
from harness.oci.store import Store
from harness.runtimes import Facts
from tests.unit.lifecycle.cluster.test_membership import CLUSTERFILE, gathered, record
from tests.unit.lifecycle.standin import known
from tests.unit.lifecycle.test_run import FACTS, build, changed, store

__all__ = ["store"]  # a fixture

OLD, NEW = Version("web:1", "sha256:1", "v1.36.3"), Version("web:2", "sha256:2", "v1.36.4")


def found_with(tmp_path: Path, last: Move | None = None, *, digest: str = OLD.digest, **options: Any) -> Gathered:
    """A cluster of stand-ins that knows of a change."""
    found = gathered(tmp_path, record=dataclasses.replace(record(), digest=digest), **options)
    config_map = json.dumps({"data": {"move": json.dumps(dataclasses.asdict(last))}}) if last else ""
    kubeadm = json.dumps({"data": {"ClusterConfiguration": "kubernetesVersion: v1.36.3"}})
    for node in found.masters:
        node.answers = {"slipway-upgrade": config_map, "kubeadm-config": kubeadm}  # type: ignore[attr-defined]
    return found


def etcd_images(*tags: str) -> Any:
    return SimpleNamespace(images=[SimpleNamespace(name=f"registry.k8s.io/etcd:{tag}") for tag in tags])


def image(store: Store, name: str = "web", **info: Any) -> cloudimage.CloudImage:
    build(store, name, **info)
    return cloudimage.read(store, name)


def work(store: Store, tmp_path: Path, masters: int = 3, workers: int = 3, move: Move | None = None, **options: Any) -> RolloutWork:
    """Machines that have told about themselves, and an image for them."""
    image(store, launch=("kubectl apply -f manifests",))
    found = found_with(tmp_path, masters=masters, workers=workers)
    spec = ClusterSpec(cloudimage.read(store, "web"), store, found.ssh, found.state, found.masters, found.workers, Clusterfile(""))
    given = {"hooks": (), "launch": ("kubectl apply -f manifests",), "resumed": False, "versions": {}}
    return RolloutWork(found=found, context=known(spec), move=move or Move.new(UPGRADE, OLD, NEW), **{**given, **options})


# ---- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [("v1.36.3", "v1.36.3"), ("v1.36.3", "v1.36.4"), ("v1.36.3", "v1.37.0"), ("v1.36.9", "v1.37.0-rc.1"), ("v1.37.0-rc.1", "v1.37.0")],
)
def test_a_cluster_goes_upwards_one_minor_version_at_a_time(before: str, after: str) -> None:
    upgrade.check_versions(before, after)


@pytest.mark.parametrize(("before", "after"), [("v1.36.3", "v1.38.0"), ("v1.36.3", "v1.39.4"), ("v1.35.0", "v2.0.0")])
def test_more_than_one_minor_version_is_refused(before: str, after: str) -> None:
    with pytest.raises(UsageError, match=rf"from Kubernetes {before} to {after} is more than one minor version") as caught:
        upgrade.check_versions(before, after)
    assert "comes first" in str(caught.value.hint)


@pytest.mark.parametrize(("before", "after"), [("v1.36.4", "v1.36.3"), ("v1.37.0", "v1.36.9"), ("v1.36.3", "v1.36.3-rc.1")])
def test_an_older_version_comes_back_only_by_rollback(before: str, after: str) -> None:
    with pytest.raises(UsageError, match="older than") as caught:
        upgrade.check_versions(before, after, "prod")
    assert "slipway rollback prod" in str(caught.value.hint)


@pytest.mark.parametrize(("before", "after", "hint"), [("v1.30.9", "v1.31.0", "slipway run"), ("v1.30.1", "v1.30.9", "slipway run")])
def test_a_cluster_that_is_too_old_is_not_changed(before: str, after: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"Kubernetes {before} is too old: 1\.31 and newer are taken; nothing has been changed") as caught:
        upgrade.check_versions(before, after)
    assert hint in str(caught.value.hint)


def test_invalid_version_is_reported() -> None:
    with pytest.raises(UsageError, match="'latest' is no version"):
        upgrade.check_versions("v1.36.3", "latest")


# ---- whose turn it is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "asked", "expected"), [(0, None, 1), (3, None, 1), (25, None, 2), (200, None, 20), (3, 2, 2)])
def test_one_worker_in_ten_has_its_turn_at_a_time_unless_asked_otherwise(workers: int, asked: int | None, expected: int) -> None:
    assert upgrade.batch_of(workers, asked) == expected


def test_a_batch_of_none_is_refused() -> None:
    with pytest.raises(UsageError, match="--batch 0"):
        upgrade.batch_of(3, 0)


def roles(work: RolloutWork) -> list[tuple[str, int]]:
    return [(role, len(nodes)) for role, nodes in rollout_plan.turns(work)]


def test_masters_have_their_turn_singly_then_workers_in_batches(store: Store, tmp_path: Path) -> None:
    assert roles(work(store, tmp_path, workers=5, batch=2)) == [("master", 1)] * 3 + [("node", 2), ("node", 2), ("node", 1)]


def test_to_a_lower_minor_version_the_workers_go_first(store: Store, tmp_path: Path) -> None:
    down = Move.new(ROLLBACK, Version("web:2", "2", "v1.37.0"), OLD)
    assert [role for role, _ in roles(work(store, tmp_path, 1, 2, move=down))] == ["node", "node", "master"]
    same_minor = Move.new(ROLLBACK, NEW, OLD)
    assert [role for role, _ in roles(work(store, tmp_path, 1, 2, move=same_minor))] == ["master", "node", "node"]


def test_the_plan_tells_versions_and_turns(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, 1, 1, versions={"10.0.0.1": "v1.36.4", "10.0.0.2": "v1.36.3"})
    assert list(rollout_plan.described(made)) == [
        {"node": "host-1", "address": "10.0.0.1", "role": "master", "from": "v1.36.4", "to": "v1.36.4", "turn": 1},
        {"node": "host-2", "address": "10.0.0.2", "role": "node", "from": "v1.36.3", "to": "v1.36.4", "turn": 2},
    ]


# ---- the order of things ----------------------------------------------------------------------------------------------


def plan(made: RolloutWork) -> dict[str, planning.Step]:
    recipe = rollout_plan.plan(made)
    planning.check(recipe)
    return {step.id: step for step in recipe}


def leads_to(found: dict[str, planning.Step], name: str, other: str) -> bool:
    return name == other or any(leads_to(found, before, other) for before in found[name].needs)


def test_nothing_is_changed_before_all_was_looked_at_and_a_backup_was_kept(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path))
    for name in found:
        if name not in ("check", "unpack-rootfs", "make-keys", "compare"):
            assert leads_to(found, name, "check"), name
            assert leads_to(found, name, "compare"), name
            assert name == "begin" or leads_to(found, name, "begin"), name
    for name in ("send-images", "stage", "turn-1"):
        assert leads_to(found, name, "keep-backup"), name


def test_the_first_turn_comes_when_every_node_has_everything_and_each_next_one_when_all_is_well(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, 3, 2))
    assert found["turn-1"].after_all == ("fetch-images",)
    assert set(found["fetch-images"].needs) == {"stage", "send-images"}
    # Registries ask for the login from their turn on; a change that is resumed looks again whether every node has it.
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


def test_every_change_has_its_own_name_in_the_journal_so_that_one_after_it_repeats_all(store: Store, tmp_path: Path) -> None:
    there, back = (plan(work(store, tmp_path / name)) for name in ("a", "b"))
    node = there["turn-1"].nodes[0]
    # When a turn was cut off its node is not well: it is gone on with, and what was well before is not asked again.
    for name in ("stage", "turn-1", "healthy-1", "fetch-images", "update-cluster"):
        first, second = there[name].inputs, back[name].inputs
        assert first
        assert second
        assert first(node) == first(node) != second(node)


def hook(name: str, *phases: Phase) -> Hook:
    return Hook(name, phases, data="true")


def test_hooks_run_at_their_moments(store: Store, tmp_path: Path) -> None:
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


# ---- which change it is -----------------------------------------------------------------------------------------------


def running(kind: str, before: Version, after: Version) -> Move:
    return Move("abc", kind, before, after, RUNNING)


def test_a_new_change_is_from_what_the_cluster_has(store: Store, tmp_path: Path) -> None:
    made = upgrade._move(found_with(tmp_path), image(store))
    assert (made.kind, made.before, made.state) == (UPGRADE, OLD, RUNNING)
    assert made.after.kubernetes == "v1.36.3"
    assert upgrade._move(found_with(tmp_path, Move("abc", UPGRADE, OLD, NEW, DONE)), image(store)).id != "abc"


def test_one_that_was_begun_goes_on_under_its_name(store: Store, tmp_path: Path) -> None:
    wanted = image(store)
    begun = running(UPGRADE, OLD, Version("web", wanted.digest, "v1.36.3"))
    assert upgrade._move(found_with(tmp_path, begun), wanted) == begun


def test_the_other_way_is_another_change(store: Store, tmp_path: Path) -> None:
    wanted = image(store)
    back = running(ROLLBACK, Version("web", wanted.digest, "v1.36.3"), OLD)
    made = upgrade._move(found_with(tmp_path, back), wanted)
    assert (made.kind, made.before, made.after.digest) == (UPGRADE, OLD, wanted.digest)
    assert made.id != back.id


def test_a_third_image_waits_for_the_end(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"the upgrade to web:2 \(Kubernetes v1\.36\.4\) has not come to its end") as caught:
        upgrade._move(found_with(tmp_path, running(UPGRADE, OLD, NEW)), image(store))
    assert "slipway upgrade lab web:2" in str(caught.value.hint)
    assert "slipway rollback lab" in str(caught.value.hint)


def test_a_cluster_that_another_tool_made_is_left_to_it(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="was made by another tool"):
        upgrade._move(found_with(tmp_path, digest=""), image(store))


def test_an_image_that_is_no_cluster_is_refused(store: Store) -> None:
    build(store, "shop", type="app")
    with pytest.raises(StoreError, match="is an application image"):
        upgrade.readable(store, "shop")
    with pytest.raises(StoreError):
        upgrade.readable(store, "nosuch")


def test_a_rollback_goes_where_the_cluster_came_from(tmp_path: Path) -> None:
    for state, digest in ((DONE, NEW.digest), (RUNNING, OLD.digest)):
        made = rollback._move(found_with(tmp_path, Move("abc", UPGRADE, OLD, NEW, state), digest=digest))
        assert (made.kind, made.before, made.after) == (ROLLBACK, NEW, OLD)
        assert made.id != "abc"
    begun = running(ROLLBACK, NEW, OLD)
    assert rollback._move(found_with(tmp_path, begun)) == begun


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (None, "has not been upgraded"),
        (Move("abc", ROLLBACK, NEW, OLD, DONE), "has been rolled back already"),
        (Move("abc", UPGRADE, OLD, NEW, DONE), "was changed since"),
    ],
)
def test_there_is_not_always_a_way_back(tmp_path: Path, last: Move | None, why: str) -> None:
    with pytest.raises(CheckError, match=why):
        rollback._move(found_with(tmp_path, last, digest="sha256:3"))


@pytest.mark.parametrize(
    ("runs", "wanted", "refused"), [("3.6.8-0", "3.6.5-0", False), ("3.6.8-0", "3.5.26-0", True), ("3.5.26-0", "3.6.8-0", False)]
)
@pytest.mark.parametrize("by", ["list", "tag"])
def test_an_older_etcd_does_not_get_newer_data(store: Store, tmp_path: Path, runs: str, wanted: str, by: str, *, refused: bool) -> None:
    made = work(store, tmp_path)
    vars(made.resolved)["images"] = etcd_images("3.6.8-0", wanted) if by == "tag" else etcd_images(wanted)
    vars(made.resolved)["kubernetes"] = Facts("v1.36.3", etcd_image_tag=wanted if by == "tag" else None)
    made.found.first.answers[f"cat {etcd.MANIFEST}"] = f"    image: registry.k8s.io/etcd:{runs}\n"  # type: ignore[attr-defined]
    if refused:
        with pytest.raises(CheckError, match=r"etcd 3\.6 has changed its data, which etcd 3\.5") as caught:
            rollback._check_etcd(made)
        assert rollout.BACKUP in str(caught.value.hint)
    else:
        rollback._check_etcd(made)


# ---- refusals ---------------------------------------------------------------------------------------------------------


def test_a_clusterfile_that_asks_for_more_than_the_image_is_for_apply() -> None:
    recorded = parse(CLUSTERFILE, "stored", stored=True)
    with pytest.raises(UsageError, match="asks for more than another image") as caught:
        upgrade.require_same(recorded, parse(CLUSTERFILE.replace("hello", "goodbye"), "Clusterfile", stored=True))
    assert "slipway apply -f Clusterfile" in str(caught.value.hint)
    upgrade.require_same(recorded, parse(CLUSTERFILE.replace("web:1", "web:2"), "Clusterfile", stored=True))


def addon(name: str) -> str:
    return f"apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {name}, namespace: kube-system}}\n"


def test_addons_of_the_image_before_go_once_those_of_the_image_are_there(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, 3, 2))
    assert found["prune-addons"].needs == ("start-addons",)
    assert found["prune-addons"].title == "remove addons that the image has not any more"
    assert leads_to(found, "turn-4", "prune-addons")
    first, second = (plan(work(store, tmp_path / name))["prune-addons"] for name in "ab")
    assert first.inputs
    assert second.inputs
    assert first.inputs(first.nodes[0]) != second.inputs(first.nodes[0])


def test_what_the_image_before_had_is_read_from_it_and_its_idle_tables_go_from_every_node(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_what_an_image_had_that_is_not_here_is_not_known(store: Store, tmp_path: Path) -> None:
    assert rollout_plan._former_addons(work(store, tmp_path)) == {}


# ---- a node's turn ----------------------------------------------------------------------------------------------------


def test_a_change_that_stopped_says_how_to_go_on_and_back(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    assert upgrade._stopped(made, CheckError("x", hint="look")).hint == "look"
    made.found.first.answers["slipway-upgrade"] = json.dumps({"data": {"move": json.dumps(dataclasses.asdict(made.move))}})  # type: ignore[attr-defined]
    said = str(upgrade._stopped(made, CheckError("x", hint="look")).hint)
    assert said.startswith("look; the same command again")
    assert "slipway rollback lab" in said


def test_the_api_is_asked_by_way_of_another_master(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    assert made.beside(made.spec.masters[0]).address == "10.0.0.2"
    assert made.beside(made.spec.workers[0]).address == "10.0.0.1"
    alone = work(store, tmp_path / "b", 1, 0)
    assert alone.beside(alone.spec.masters[0]).address == "10.0.0.1"


def test_values_that_the_new_image_expects_are_asked_for_before_anything_changes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = image(store, values=(ExpectedValue("Port", ("manifests/a.yaml:1",), required=True), ExpectedValue("Realm", required=True)))
    found = found_with(tmp_path)

    def context(*_: Any, env: dict[str, str]) -> Any:
        return known(ClusterSpec(wanted, store, found.ssh, found.state, found.masters, (), Clusterfile(""), env=env))

    monkeypatch.setattr(rollout, "kubernetes", lambda _: {})
    monkeypatch.setattr(records, "listed", lambda _: ())
    for env, missing in ({}, ["Port", "Realm"]), ({"Port": "80"}, ["Realm"]):
        monkeypatch.setattr(upgrade, "_context", functools.partial(context, env=env))
        with pytest.raises(InputError) as caught:
            upgrade.work_of(found, wanted, Move.new(UPGRADE, OLD, NEW), upgrade.RolloutOptions(env=env), store)
        assert [fault.where for fault in caught.value.faults] == missing
