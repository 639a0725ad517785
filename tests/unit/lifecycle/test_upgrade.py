"""From which version to which a cluster goes, and what is refused before anything is changed."""

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
from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.errors import CheckError, InputError, StoreError, UsageError
from harness.lifecycle import rollback, rollout, upgrade
from harness.lifecycle.apps import records
from harness.lifecycle.cluster.change import DONE, ROLLBACK, RUNNING, UPGRADE, Move, Version
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import etcd
from harness.lifecycle.rollout import RolloutWork
from harness.lifecycle.steps.context import ClusterSpec
from harness.oci.store import Store
from harness.runtimes import Facts
from tests.unit.lifecycle.cluster.test_membership import CLUSTERFILE, gathered, record
from tests.unit.lifecycle.standin import known
from tests.unit.lifecycle.test_run import build, store

__all__ = ["store"]  # a fixture

OLD, NEW = Version("web:1", "sha256:1", "v1.36.3"), Version("web:2", "sha256:2", "v1.36.4")


def found_with(tmp_path: Path, last: Move | None = None, *, digest: str = OLD.digest, **options: Any) -> Gathered:
    """A cluster of stand-ins that knows of a change."""
    found = gathered(tmp_path, record=dataclasses.replace(record(), digest=digest), **options)
    config_map = json.dumps({"data": {"move": json.dumps(dataclasses.asdict(last))}}) if last else ""
    kubeadm = json.dumps({"data": {"ClusterConfiguration": "kubernetesVersion: v1.36.3"}})
    for node in found.control_plane:
        node.answers = {"slipway-upgrade": config_map, "kubeadm-config": kubeadm}  # type: ignore[attr-defined]
    return found


def etcd_images(*tags: str) -> Any:
    return SimpleNamespace(images=[SimpleNamespace(name=f"registry.k8s.io/etcd:{tag}") for tag in tags])


def image(store: Store, name: str = "web", **info: Any) -> cloudimage.CloudImage:
    build(store, name, **info)
    return cloudimage.read(store, name)


def work(store: Store, tmp_path: Path, control_plane: int = 3, workers: int = 3, move: Move | None = None, **options: Any) -> RolloutWork:
    """Machines that have told about themselves, and an image for them."""
    image(store, launch=("kubectl apply -f manifests",))
    found = found_with(tmp_path, control_plane=control_plane, workers=workers)
    spec = ClusterSpec(cloudimage.read(store, "web"), store, found.ssh, found.state, found.control_plane, found.workers, Clusterfile(""))
    given = {"hooks": (), "launch": ("kubectl apply -f manifests",), "resumed": False, "versions": {}}
    return RolloutWork(found=found, context=known(spec), move=move or Move.new(UPGRADE, OLD, NEW), **{**given, **options})


# ---- versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "beyond"),
    [
        ("v1.36.3", "v1.36.3", "v1.38.0"),
        ("v1.36.3", "v1.36.4", "v1.38.0-rc.1"),
        ("v1.36.3", "v1.37.0", "v1.38.0"),
        ("v1.36.9", "v1.37.0-rc.1", "v2.37.0"),
        ("v1.37.0-rc.1", "v1.37.0", "v1.39.0"),
    ],
)
def test_check_versions_same_or_next_minor_version_is_accepted_and_later_one_is_not(before: str, after: str, beyond: str) -> None:
    upgrade.check_versions(before, after)
    with pytest.raises(UsageError, match="is more than one minor version"):
        upgrade.check_versions(before, beyond)


@pytest.mark.parametrize(("before", "after"), [("v1.36.3", "v1.38.0"), ("v1.36.3", "v1.39.4"), ("v1.35.0", "v2.0.0")])
def test_check_versions_skipped_minor_version_is_refused(before: str, after: str) -> None:
    with pytest.raises(UsageError, match=rf"from Kubernetes {before} to {after} is more than one minor version") as caught:
        upgrade.check_versions(before, after)
    assert "comes first" in str(caught.value.hint)


@pytest.mark.parametrize(("before", "after"), [("v1.36.4", "v1.36.3"), ("v1.37.0", "v1.36.9"), ("v1.36.3", "v1.36.3-rc.1")])
def test_check_versions_older_version_is_refused_with_rollback_hint(before: str, after: str) -> None:
    with pytest.raises(UsageError, match="older than") as caught:
        upgrade.check_versions(before, after, "prod")
    assert "slipway rollback prod" in str(caught.value.hint)


@pytest.mark.parametrize(("before", "after", "hint"), [("v1.30.9", "v1.31.0", "slipway run"), ("v1.30.1", "v1.30.9", "slipway run")])
def test_check_versions_unsupported_old_cluster_is_refused(before: str, after: str, hint: str) -> None:
    with pytest.raises(UsageError, match=rf"Kubernetes {before} is too old: 1\.31 and newer are taken; nothing has been changed") as caught:
        upgrade.check_versions(before, after)
    assert hint in str(caught.value.hint)


def test_check_versions_invalid_version_raises_usage_error() -> None:
    with pytest.raises(UsageError, match="'latest' is no version"):
        upgrade.check_versions("v1.36.3", "latest")


# ---- the size of a batch -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "asked", "expected"), [(0, None, 1), (3, None, 1), (25, None, 2), (200, None, 20), (3, 2, 2)])
def test_batch_of_workers_is_one_tenth_unless_given(workers: int, asked: int | None, expected: int) -> None:
    assert upgrade.batch_of(workers, asked) == expected


def test_batch_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="--batch 0"):
        upgrade.batch_of(3, 0)


# ---- which change it is -----------------------------------------------------------------------------------------------


def running(kind: str, before: Version, after: Version) -> Move:
    return Move("abc", kind, before, after, RUNNING)


def test_upgrade_move_new_starts_from_image_of_cluster(store: Store, tmp_path: Path) -> None:
    made = upgrade._move(found_with(tmp_path), image(store))
    assert (made.kind, made.before, made.state) == (UPGRADE, OLD, RUNNING)
    assert made.after.kubernetes == "v1.36.3"
    assert upgrade._move(found_with(tmp_path, Move("abc", UPGRADE, OLD, NEW, DONE)), image(store)).id != "abc"


def test_upgrade_move_begun_to_same_image_is_resumed(store: Store, tmp_path: Path) -> None:
    wanted = image(store)
    begun = running(UPGRADE, OLD, Version("web", wanted.digest, "v1.36.3"))
    assert upgrade._move(found_with(tmp_path, begun), wanted) == begun


def test_upgrade_move_during_rollback_is_new_move(store: Store, tmp_path: Path) -> None:
    wanted = image(store)
    back = running(ROLLBACK, Version("web", wanted.digest, "v1.36.3"), OLD)
    made = upgrade._move(found_with(tmp_path, back), wanted)
    assert (made.kind, made.before, made.after.digest) == (UPGRADE, OLD, wanted.digest)
    assert made.id != back.id


def test_upgrade_move_to_third_image_during_upgrade_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"the upgrade to web:2 \(Kubernetes v1\.36\.4\) has not come to its end") as caught:
        upgrade._move(found_with(tmp_path, running(UPGRADE, OLD, NEW)), image(store))
    assert "slipway upgrade lab web:2" in str(caught.value.hint)
    assert "slipway rollback lab" in str(caught.value.hint)


def test_upgrade_move_of_cluster_made_by_other_tool_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="was made by another tool"):
        upgrade._move(found_with(tmp_path, digest=""), image(store))


def test_readable_application_or_unknown_image_raises_store_error(store: Store) -> None:
    build(store, "shop", type="app")
    with pytest.raises(StoreError, match="is an application image"):
        upgrade.readable(store, "shop")
    with pytest.raises(StoreError):
        upgrade.readable(store, "nosuch")


def test_rollback_move_returns_to_previous_image_and_begun_one_is_resumed(tmp_path: Path) -> None:
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
def test_rollback_move_without_previous_image_is_refused(tmp_path: Path, last: Move | None, why: str) -> None:
    with pytest.raises(CheckError, match=why):
        rollback._move(found_with(tmp_path, last, digest="sha256:3"))


@pytest.mark.parametrize(
    ("runs", "wanted", "refused"), [("3.6.8-0", "3.6.5-0", False), ("3.6.8-0", "3.5.26-0", True), ("3.5.26-0", "3.6.8-0", False)]
)
@pytest.mark.parametrize("by", ["list", "tag"])
def test_rollback_to_older_etcd_minor_version_is_refused(
    store: Store, tmp_path: Path, runs: str, wanted: str, by: str, *, refused: bool
) -> None:
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


def test_require_same_clusterfile_with_more_than_other_image_is_refused() -> None:
    recorded = parse(CLUSTERFILE, "stored", stored=True)
    with pytest.raises(UsageError, match="asks for more than another image") as caught:
        upgrade.require_same(recorded, parse(CLUSTERFILE.replace("hello", "goodbye"), "Clusterfile", stored=True))
    assert "slipway apply -f Clusterfile" in str(caught.value.hint)
    upgrade.require_same(recorded, parse(CLUSTERFILE.replace("web:1", "web:2"), "Clusterfile", stored=True))


# ---- a node in a batch ----------------------------------------------------------------------------------------------------


def test_upgrade_stopped_after_begin_hints_at_resume_and_rollback(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    assert upgrade._stopped(made, CheckError("x", hint="look")).hint == "look"
    made.found.first.answers["slipway-upgrade"] = json.dumps({"data": {"move": json.dumps(dataclasses.asdict(made.move))}})  # type: ignore[attr-defined]
    said = str(upgrade._stopped(made, CheckError("x", hint="look")).hint)
    assert said.startswith("look; the same command again")
    assert "slipway rollback lab" in said


def test_rollout_work_beside_returns_other_control_plane_node_if_any(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    assert made.beside(made.spec.control_plane[0]).address == "10.0.0.2"
    assert made.beside(made.spec.workers[0]).address == "10.0.0.1"
    alone = work(store, tmp_path / "b", 1, 0)
    assert alone.beside(alone.spec.control_plane[0]).address == "10.0.0.1"


def test_upgrade_work_of_image_with_missing_values_raises_input_error_before_any_command(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = image(store, values=(ExpectedValue("Port", ("manifests/a.yaml:1",), required=True), ExpectedValue("Realm", required=True)))
    found = found_with(tmp_path)
    nodes: Any = found.members

    def context(*_: Any, env: dict[str, str]) -> Any:
        return known(ClusterSpec(wanted, store, found.ssh, found.state, found.control_plane, (), Clusterfile(""), env=env))

    def work_of(**env: str) -> RolloutWork:
        monkeypatch.setattr(upgrade, "_context", functools.partial(context, env=env))
        return upgrade.work_of(found, wanted, Move.new(UPGRADE, OLD, NEW), upgrade.RolloutOptions(env=env), store)

    monkeypatch.setattr(rollout, "kubernetes", lambda _: {})
    monkeypatch.setattr(records, "listed", lambda _: ())
    cases: tuple[tuple[dict[str, str], list[str]], ...] = (({}, ["Port", "Realm"]), ({"Port": "80"}, ["Realm"]))
    for env, missing in cases:
        with pytest.raises(InputError) as caught:
            work_of(**env)
        assert [fault.where for fault in caught.value.faults] == missing
        assert not any(node.commands for node in nodes)
    for node in nodes:
        node.answers["get nodes"] = json.dumps({"items": []})
    assert work_of(Port="80", Realm="a").spec.env == {"Port": "80", "Realm": "a"}
