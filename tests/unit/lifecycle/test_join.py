"""What a join will do, on which machines, and what it refuses. Machines are stand-ins."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import log
from harness.clusterfile import ClusterDocument, Clusterfile, Host
from harness.errors import CheckError, NodeError, StoreError, UsageError
from harness.lifecycle import delete, join
from harness.lifecycle import plan as lifecycle_plan
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.checks.preflight import gather as preflight_gather
from harness.lifecycle.checks.preflight.gather import MachineFacts
from harness.lifecycle.cluster import lease, membership
from harness.lifecycle.cluster.record import ClusterRecord
from harness.lifecycle.join import JoinOptions, JoinWork
from harness.lifecycle.kube import etcd
from harness.lifecycle.provision import registry
from harness.lifecycle.steps import bootstrap, preparation
from harness.lifecycle.steps.context import ClusterContext, ClusterFacts
from harness.lifecycle.steps.joining import JoiningCluster
from harness.oci.store import Store
from harness.process import ProcessResult
from harness.runtimes.kubeadm import Kubeadm
from tests.unit.lifecycle.apps.test_records import build as build_app
from tests.unit.lifecycle.cluster.test_membership import CLUSTERFILE, gathered, record, without
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import KEYS, build, store

__all__ = ["store"]  # a fixture

NAMED = {"10.0.0.8": "new-8", "10.0.0.9": "new-9"}


def recorded(store: Store, **changes: Any) -> ClusterRecord:
    digest = next(iter(store.names().values())).digest
    return dataclasses.replace(record(), digest=digest, image="web", **changes)


def asked(control_plane: tuple[str, ...], workers: tuple[str, ...] = (), **keys: Any) -> ClusterDocument:
    hosts = [Host((address,), (role,)) for role, group in (("control-plane", control_plane), ("worker", workers)) for address in group]
    return ClusterDocument("lab", "", tuple(hosts), **keys)


def work(
    store: Store,
    tmp_path: Path,
    *,
    control_plane: tuple[str, ...] = (),
    workers: tuple[str, ...] = (),
    env: Any = None,
    resolved: bool = True,
    **options: Any,
) -> JoinWork:
    """A join of new machines to three control-plane nodes and a worker, whose machines have told about themselves."""
    build(store, files=options.pop("files", None), launch=("kubectl apply -f manifests",))
    others: Any = tuple(StandIn(address, NAMED[address]) for address in (*control_plane, *workers) if address in NAMED)
    options.setdefault("record", recorded(store))
    found = gathered(tmp_path, others=others, **options)
    made = join._work(found, asked(control_plane, workers, env=env or {}), store, JoinOptions())
    return told(made) if resolved else made


def told(made: JoinWork) -> JoinWork:
    """The join, whose machines have told about themselves."""
    facts = ClusterFacts({node.address: MachineFacts(host=node.name, arch="amd64") for node in made.spec.nodes})
    made.context.resolve(JoiningCluster(made.spec, facts, made.joining, made.lost))
    return made


def plan(made: JoinWork) -> dict[str, lifecycle_plan.Step]:
    recipe = join.plan(made)
    lifecycle_plan.check(recipe)
    return {step.id: step for step in recipe}


def test_join_worker_plan_sets_up_new_worker_and_only_adopts_members(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, workers=("10.0.0.9",)))
    for name in (
        "send-rootfs",
        "set-up-machines",
        "start-containerd",
        "start-balancers",
        "start-kubelets",
        "fetch-images",
        "send-rendered",
    ):
        assert [node.address for node in found[name].nodes] == ["10.0.0.9"], name
    for name in (
        "send-images",
        "start-registry",
        "certify-control-plane",
        "start-control-plane",
        "register-control-plane",
        "finish-cluster",
        "launch-1",
    ):
        assert name not in found
    assert [node.address for node in found["adopt"].nodes] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_join_plan_all_steps_wait_for_machine_checks(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, control_plane=("10.0.0.8",), workers=("10.0.0.9",)))

    def leads_to(name: str) -> bool:
        return name == "check-machines" or any(leads_to(before) for before in found[name].needs)

    assert list(found)[:2] == ["connect", "check-machines"]
    assert all(leads_to(name) for name in found if name != "connect")


def test_join_control_plane_node_is_registered_before_balancers_and_recorded_last(store: Store, tmp_path: Path) -> None:
    found = plan(work(store, tmp_path, control_plane=("10.0.0.8",)))
    order = [
        name
        for name in found
        if name in ("start-control-plane", "wait-for-api", "register-control-plane", "tell-balancers", "wait-for-nodes", "record")
    ]
    assert order == ["start-control-plane", "wait-for-api", "register-control-plane", "tell-balancers", "wait-for-nodes", "record"]
    assert found["tell-balancers"].after_all == ("register-control-plane",)
    assert list(found)[-1] == "record"


def test_join_images_are_sent_to_new_control_plane_nodes_only_below_three_holders(store: Store, tmp_path: Path) -> None:
    assert "send-images" not in plan(work(store, tmp_path, control_plane=("10.0.0.8", "10.0.0.9")))
    alone = work(
        store, tmp_path / "b", control_plane=("10.0.0.8", "10.0.0.9"), gone=(), record=without(recorded(store), "10.0.0.2", "10.0.0.3")
    )
    found = gathered(tmp_path / "b", control_plane=1, others=alone.found.others, record=alone.found.record)
    made = join._work(found, asked(("10.0.0.8", "10.0.0.9")), store, JoinOptions())
    assert [node.address for node in plan(made)["send-images"].nodes] == ["10.0.0.8", "10.0.0.9"]
    assert "start-balancers" not in plan(made)


def test_join_existing_member_updates_only_balancers_and_record(store: Store, tmp_path: Path) -> None:
    assert list(plan(work(store, tmp_path, workers=("10.0.0.4",)))) == ["tell-balancers", "record"]


def test_join_member_in_other_role_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"10\.0\.0\.4 is a worker of lab already") as caught:
        work(store, tmp_path, control_plane=("10.0.0.4",))
    assert "slipway remove lab 10.0.0.4 first" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"10\.0\.0\.1 is a control-plane node"):
        work(store, tmp_path, workers=("10.0.0.1",))


def test_join_without_machine_or_with_duplicate_is_refused(store: Store) -> None:
    for document, message in ((asked(()), "no machine is given"), (asked(("10.0.0.9",), ("10.0.0.9",)), r"10\.0\.0\.9 given twice")):
        with pytest.raises(UsageError, match=message), join.prepared(Clusterfile("", cluster=document), store):
            pass


def test_join_with_unreachable_control_plane_node_accepts_worker_only(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CheckError, match="no control-plane node can join while host-1 does not answer") as caught:
        work(store, tmp_path, control_plane=("10.0.0.8",), gone=("10.0.0.1",))
    assert "slipway remove lab 10.0.0.1" in str(caught.value.hint)
    made = work(store, tmp_path, workers=("10.0.0.9",), gone=("10.0.0.1",))
    assert made.spec.first.address == "10.0.0.2"
    assert [member.away for member in made.resolved.cluster.control_plane] == [True, False, False]
    assert "10.0.0.1" not in [node.address for node in plan(made)["adopt"].nodes]


def test_join_to_even_number_of_control_plane_nodes_warns(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    work(store, tmp_path, control_plane=("10.0.0.8",))
    assert "4 control-plane nodes survive no more losses than 3 would" in capsys.readouterr().err
    work(store, tmp_path, control_plane=("10.0.0.8", "10.0.0.9"))
    assert "survive" not in capsys.readouterr().err


def test_join_without_cluster_image_in_store_raises_store_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the image of the cluster, web:1") as caught:
        work(store, tmp_path, workers=("10.0.0.9",), record=dataclasses.replace(record(), digest="sha256:" + "0" * 64))
    assert "slipway pull web:1" in str(caught.value.hint)


def test_join_with_unreachable_new_machine_raises_node_error_before_any_command(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, workers=("10.0.0.8", "10.0.0.9"), resolved=False)
    made.found.errors["10.0.0.9"] = NodeError("10.0.0.9: no answer")  # type: ignore[index]
    nodes: Any = (*made.found.members, *made.found.others)
    before = [list(node.commands) for node in nodes]
    with pytest.raises(NodeError, match=r"^10\.0\.0\.9: no answer$"):
        lifecycle_plan.execute(join.plan(made), made.journal)
    assert [node.commands for node in nodes] == before
    assert not any(node.tars or node.journal for node in nodes)


HOOKS = """
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: disk}
spec: {type: SHELL, phases: [pre-join], data: "mkdir -p /data"}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: tell}
spec: {type: SHELL, phases: [post-scaleup], on: [master0], data: "echo more"}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: secret}
spec: {type: SHELL, phases: [post-join], data: "<redacted abc>"}
"""


def test_join_hooks_run_on_their_machines_and_redacted_hook_is_skipped_with_warning(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup()
    build(store)
    kept = recorded(store, text=CLUSTERFILE + HOOKS)
    found = plan(work(store, tmp_path, workers=("10.0.0.9",), record=kept))
    assert [node.address for node in found["hook-pre-join-1-disk"].nodes] == ["10.0.0.9"]
    assert "hook-pre-join-1-disk" in found["set-up-machines"].needs
    assert [node.address for node in found["hook-post-scaleup-1-tell"].nodes] == ["10.0.0.1"]
    assert not any("secret" in name for name in found)
    assert "hook secret is not run" in capsys.readouterr().err


def test_join_host_settings_of_new_machine_are_applied_and_recorded(store: Store, tmp_path: Path) -> None:
    host = Host(("10.0.0.9",), ("worker", "storage"), env={"Disk": "b"}, labels={"disk": "ssd"})
    build(store)
    found = gathered(tmp_path, others=(StandIn("10.0.0.9", "new-9"),), record=recorded(store))
    made = join._work(found, ClusterDocument("lab", "", (host,)), store, JoinOptions())
    assert made.spec.host_env["10.0.0.9"] == {"Disk": "b"}
    assert "label-nodes" in plan(made)
    cluster = membership.with_members(found.record.clusterfile, (), ["10.0.0.9"], [host]).cluster
    assert cluster is not None
    assert cluster.host("10.0.0.9") == host


def test_join_application_images_go_to_new_image_holders_and_domains_to_worker(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = build_app(store, images=("registry.example.com/a:1",))
    found = (Installed("shop", "shop:1", digest, domains=("registry.example.com",)),)
    cluster = gathered(tmp_path, others=(StandIn("10.0.0.9", "new-9"),), record=recorded_web(store))
    worker = join._work(cluster, asked((), ("10.0.0.9",)), store, JoinOptions(), found)
    assert worker.spec.app_domains == ("registry.example.com",)
    # A worker asks those that have them: the application's image need not be here.
    assert worker.spec.app_images.images == ()
    alone = without(recorded_web(store), "10.0.0.2", "10.0.0.3")
    found_cluster = gathered(
        tmp_path / "b", control_plane=1, others=(StandIn("10.0.0.8", "new-8"), StandIn("10.0.0.9", "new-9")), record=alone
    )
    node = join._work(found_cluster, asked(("10.0.0.8", "10.0.0.9")), store, JoinOptions(), found)
    assert [image.name for image in node.spec.app_images.images] == ["registry.example.com/a:1"]
    told(node)
    assert any("repositories/registry.example.com/a/_manifests/tags/1" in path for path in node.resolved.layout.links)


def recorded_web(store: Store) -> ClusterRecord:
    """The record of a cluster that runs the image ``web``."""
    build(store)
    return dataclasses.replace(record(), digest=store.names()["web:latest"].digest, image="web")


# ---- checks -----------------------------------------------------------------------------------------------------------

TOOLS = frozenset(preflight_gather.NEEDED)


def facts(node: Any, **changes: Any) -> MachineFacts:
    given = {"host": node.name, "arch": "amd64", "cpus": 2, "memory": 4 << 30, "systemd": True, "tools": TOOLS}
    return MachineFacts(**{**given, **changes})


def checked(made: JoinWork, monkeypatch: pytest.MonkeyPatch, **changes: dict[str, Any]) -> None:
    """Run the check; ``changes`` are facts about single machines by their names."""

    def gather(nodes: Any) -> list[MachineFacts]:
        ours = {node.address: "lab 01" for node in made.found.members}
        return [facts(node, **{"cluster": ours.get(node.address), **changes.get(node.name.replace("-", "_"), {})}) for node in nodes]

    monkeypatch.setattr(preflight_gather, "gather", gather)
    plan(made)["check-machines"].action()


def test_join_preflight_does_not_judge_members_as_new_machines(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfit = {"memory": 1, "ports": frozenset({6443, 10250})}
    made = work(store, tmp_path, workers=("10.0.0.9",), resolved=False)
    checked(made, monkeypatch, host_1=unfit, host_4=unfit)
    assert made.resolved.facts.machines["10.0.0.1"].memory == 1
    # The same is refused of a new machine, and of that one only.
    made = work(store, tmp_path, workers=("10.0.0.9",), resolved=False)
    with pytest.raises(CheckError) as caught:
        checked(made, monkeypatch, host_1=unfit, host_4=unfit, new_9=unfit)
    assert "10.0.0.9: " in str(caught.value)
    assert not any(f"{node.address}: " in str(caught.value) for node in made.found.members)


def test_join_new_machine_with_host_name_of_member_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="has the same host name host-4"):
        checked(work(store, tmp_path, workers=("10.0.0.9",), resolved=False), monkeypatch, new_9={"host": "host-4"})
    with pytest.raises(CheckError, match=r"has the host name of 10\.0\.0\.4"):
        checked(work(store, tmp_path, workers=("10.0.0.9",), gone=("10.0.0.4",), resolved=False), monkeypatch, new_9={"host": "host-4"})


def test_join_machine_of_other_cluster_is_refused_when_connected(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, workers=("10.0.0.9",), resolved=False)
    (new,) = made.fresh
    new.answers = {"/cluster 2>": "prod 99"}  # type: ignore[attr-defined]
    with pytest.raises(CheckError, match=r"10\.0\.0\.9 belongs to a cluster prod"):
        plan(made)["connect"].action()


def test_join_machine_of_other_cluster_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckError, match="belongs to a cluster prod"):
        checked(work(store, tmp_path, workers=("10.0.0.9",), resolved=False), monkeypatch, new_9={"cluster": "prod 99"})
    with pytest.raises(CheckError, match="belongs to a cluster lab"):
        checked(work(store, tmp_path, workers=("10.0.0.9",), resolved=False), monkeypatch, new_9={"cluster": "lab 99"})


def test_join_machine_of_interrupted_join_passes_preflight(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = {"ports": frozenset({10250})}
    made = work(store, tmp_path, workers=("10.0.0.9",), resolved=False)
    checked(made, monkeypatch, new_9={"cluster": "lab 01", **begun})
    assert made.resolved.facts.machines["10.0.0.9"].cluster == "lab 01"
    # The kubelet that has the port is the cluster's own; that of another is refused.
    with pytest.raises(CheckError, match="10250"):
        checked(work(store, tmp_path, workers=("10.0.0.9",), resolved=False), monkeypatch, new_9=begun)


def test_join_machine_left_uncleaned_by_removal_is_cleaned_in_machine_checks(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[str] = []
    monkeypatch.setattr(delete, "clean", lambda node: cleaned.append(node.address))
    build(store)
    left = recorded(store, left=frozenset({"10.0.0.77", "new-9"}))
    checked(work(store, tmp_path, control_plane=("10.0.0.8",), workers=("10.0.0.9",), record=left, resolved=False), monkeypatch)
    # It is known by its name too: machines come back under other addresses.
    assert cleaned == ["10.0.0.9"]


# ---- keys and etcd ----------------------------------------------------------------------------------------------------


def test_join_make_keys_without_complete_keys_in_cluster_raises_check_error(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, workers=("10.0.0.9",))
    for node in made.found.control_plane:
        node.run = lambda command, **_: ProcessResult((), 1, "", "")  # type: ignore[method-assign]
    vars(made.resolved)["runtime"] = pytest.fail
    with pytest.raises(CheckError, match="no control-plane node has all the keys"):
        plan(made)["make-keys"].action()


def test_join_control_plane_node_starts_on_empty_etcd_data_as_admitted_member(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(store, tmp_path, control_plane=("10.0.0.8",))
    said: list[str] = []

    class Runtime:
        def join_store(self, member: Any, peers: str) -> None:
            said.append(f"store {member.name} {peers}")

        def join_control_plane(self, member: Any) -> None:
            said.append(f"control-plane node {member.name}")

    def admit(_: Any, name: str, address: str, start: Any, *, timeout: float) -> None:
        assert timeout <= 120
        start(f"{name}=https://{address}:2380", True)

    vars(made.resolved)["runtime"] = Runtime()
    monkeypatch.setattr(etcd, "admit", admit)
    node: Any = made.control_plane[0]
    plan(made)["start-control-plane"].action(node)
    assert said == ["store new-8 new-8=https://10.0.0.8:2380", "control-plane node new-8"]
    assert any("find /var/lib/etcd -mindepth 1 -delete" in command for command in node.commands)


def test_join_control_plane_node_refused_by_etcd_has_etcd_manifest_removed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(store, tmp_path, control_plane=("10.0.0.8",))

    def admit(*_: Any, **__: Any) -> None:
        raise CheckError("etcd is not healthy")

    monkeypatch.setattr(etcd, "admit", admit)
    node: Any = made.control_plane[0]
    with pytest.raises(CheckError):
        plan(made)["start-control-plane"].action(node)
    assert node.commands == ["rm -f /etc/kubernetes/manifests/etcd.yaml"]


# ---- the others -------------------------------------------------------------------------------------------------------


def test_join_control_plane_node_is_added_to_balancers_of_workers(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, str] = {}
    monkeypatch.setattr(membership, "tell_balancer", lambda node, text: told.setdefault(node.address, text) == text)
    plan(work(store, tmp_path, control_plane=("10.0.0.8",)))["tell-balancers"].action()
    assert list(told) == ["10.0.0.4"]
    assert "server new-8 10.0.0.8:6443" in told["10.0.0.4"]
    # The three that have the images are enough.
    assert "10.0.0.8:5000" not in told["10.0.0.4"]


def test_join_adopt_journals_done_member_steps_with_inputs_of_next_run(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, workers=("10.0.0.9",))
    made.resolved._files.update({node.address: {} for node in made.spec.nodes})
    assert isinstance(made.resolved.runtime, Kubeadm)
    made.resolved.runtime._pki = KEYS
    worker: Any = made.found.workers[0]
    worker.journal = ["start-kubelets old", "start-balancers old", "fetch-images same"]
    plan(made)["adopt"].action(worker)
    adopted = dict(line.split() for line in worker.journal[3:])
    again = bootstrap.start_kubelets(made.context.whole())
    assert again.inputs is not None
    assert adopted["start-kubelets"] == again.inputs(worker)
    # What was never done there is not noted, nor what does not depend on who belongs to the cluster.
    assert set(adopted) == {"start-kubelets", "start-balancers"}


@pytest.mark.parametrize("asks", [True, False])
def test_join_machine_files_have_login_only_when_registries_require_it(store: Store, tmp_path: Path, *, asks: bool) -> None:
    def run(command: str, **_: Any) -> ProcessResult:
        return ProcessResult((), 0 if asks or command != registry.REQUIRES_LOGIN else 1, "", "")

    found = gathered(tmp_path)
    for node in found.control_plane:
        node.run = run  # type: ignore[method-assign]
    assert membership.requires_login(found) is asks
    made = work(store, tmp_path, workers=("10.0.0.9",), resolved=False)
    assert made.spec.requires_login
    # What old members of such a cluster are noted to have is what they have.
    made.context = told(
        dataclasses.replace(made, context=ClusterContext(dataclasses.replace(made.spec, requires_login=asks), made.joining))
    ).context
    runtime: Any = SimpleNamespace(secret=lambda _: "0" * 64, units={})
    vars(made.resolved)["runtime"] = runtime
    made.resolved._files.update({node.address: {} for node in made.spec.nodes})
    hosts = preparation.machine_files(made.resolved, made.fresh[0])["/etc/containerd/certs.d/_default/hosts.toml"]
    assert (b"Authorization" in hosts.data, hosts.mode) == ((True, 0o600) if asks else (False, 0o644))


def test_join_record_updates_cluster_record_and_local_state(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []

    def update(_: Any, control_plane: Any, workers: Any, **words: Any) -> ClusterRecord:
        noted.append((control_plane, workers, words))
        return record()

    monkeypatch.setattr(membership, "update", update)
    monkeypatch.setattr(membership, "remember", lambda *given, **words: noted.append(given[0].names["10.0.0.9"]))
    made = work(store, tmp_path, control_plane=("10.0.0.8",), workers=("10.0.0.9",))
    plan(made)["record"].action()
    words = {"back": ["10.0.0.8", "new-8", "10.0.0.9", "new-9"], "described": made.asked.hosts, "ssh_hosts": {}}
    assert noted == [(["10.0.0.8"], ["10.0.0.9"], words), "new-9"]


def test_lease_is_abandoned_only_by_ended_process_of_same_machine() -> None:
    def held_by(holder: str) -> dict[str, Any]:
        return {"spec": {"holderIdentity": holder}}

    mine = lease.holder()
    assert not lease.abandoned(held_by(mine))
    assert lease.abandoned(held_by(f"{mine.rpartition('.')[0]}.1"))
    assert not lease.abandoned(held_by(mine.partition(" ")[0]))
    assert not lease.abandoned(held_by("ops@elsewhere:4711"))
    assert not lease.abandoned(held_by("somebody"))
