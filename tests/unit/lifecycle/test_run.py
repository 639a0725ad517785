"""What ``run`` will do, what it refuses, and what it writes down. No machine is asked anything."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from harness import cloudimage
from harness.cloudimage import ImageApp, Info, PlatformImage
from harness.clusterfile import Clusterfile
from harness.errors import CheckError, InputError, SlipwayError, StoreError, UsageError
from harness.lifecycle import plan as lifecycle_plan
from harness.lifecycle import run
from harness.lifecycle.cluster import request
from harness.lifecycle.steps.context import ClusterContext
from harness.nodes import Login, Machine
from harness.oci.layer import scan, write_layer
from harness.oci.model import Platform
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes.pki import Pki
from tests.unit.lifecycle.standin import StandIn, known

KEYS = Pki({"ca.crt": b"of one cluster"})
LOGIN = Credential("slipway", "0123456789abcdef" * 4)
FACTS = "kubernetes: v1.36.3\nimageRepository: registry.example.org\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return Store(tmp_path / "store")


def build(store: Store, name: str = "web", files: Mapping[str, str] | None = None, *, network: bool = True, **info: Any) -> None:
    """A small CloudImage in the store."""
    root = store.root.parent / f"root-{name}"
    usual = {"etc/slipway.yaml": FACTS, "etc/addons/dns.yaml": "kind: Service"}
    cni = {"etc/cni/10-own.conflist": "{}"} if network else {}
    for path, text in {**cni, **(usual if files is None else files)}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    layer = write_layer(scan(root), store)
    image = PlatformImage(Platform.parse("linux/amd64"), (layer.descriptor,), (layer.diff_id,), info=Info(kubernetes="v1.36.3", **info))
    store.tag(name, cloudimage.write(store, [image]))


def machines(*addresses: str, **login: Any) -> tuple[Machine, ...]:
    return tuple(Machine(address, Login(**login)) for address in addresses)


def asked(control_plane: int = 1, workers: int = 0, /, **changes: Any) -> Clusterfile:
    """The request for a cluster; ``changes`` are of its machines, or of its document Cluster."""
    if "clusterfile" in changes:
        return cast("Clusterfile", changes["clusterfile"])
    host_env = changes.pop("host_env", {})
    found = request.of_machines(
        "default",
        "web",
        changes.pop("control_plane", machines(*(f"10.0.0.{number + 1}" for number in range(control_plane)))),
        changes.pop("workers", machines(*(f"10.0.0.{number + 101}" for number in range(workers)))),
    )
    assert found.cluster is not None
    hosts = tuple(dataclasses.replace(host, env=host_env.get(host.ips[0], {})) if host.ips else host for host in found.cluster.hosts)
    return dataclasses.replace(found, cluster=dataclasses.replace(found.cluster, hosts=hosts, **changes))


def prepared(store: Store, control_plane: int = 1, workers: int = 0, /, **changes: Any) -> ClusterContext:
    """A context whose machines have told about themselves."""
    return known(run.prepare(asked(control_plane, workers, **changes), store).spec, login=LOGIN)


def changed(context: ClusterContext, **changes: Any) -> ClusterContext:
    """The same with another spec."""
    return known(dataclasses.replace(context.spec, **changes), context.resolved.facts.machines, login=LOGIN)


def ids(context: ClusterContext) -> list[str]:
    return [step.id for step in run.plan(context)]


def test_run_plan_is_described_with_nodes_and_titles_without_connecting(store: Store) -> None:
    build(store, launch=("kubectl apply -f manifests",))
    described = lifecycle_plan.describe(run.plan(run.prepare(asked(3, 2), store)))
    by_id = {step["id"]: step for step in described}
    assert by_id["send-rootfs"]["nodes"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.101", "10.0.0.102"]
    assert by_id["send-images"]["nodes"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert by_id["launch-1"]["title"] == "launch: kubectl apply -f manifests"
    assert by_id["launch-1"]["nodes"] == ["10.0.0.1"]


def test_run_plan_steps_wait_only_for_earlier_steps(store: Store) -> None:
    build(store, launch=("a", "b"))
    for control_plane, workers in ((1, 0), (1, 1), (3, 0), (5, 3)):
        lifecycle_plan.check(run.plan(run.prepare(asked(control_plane, workers), store)))


def test_run_plan_all_node_steps_wait_for_machine_checks(store: Store) -> None:
    build(store)
    plan = run.plan(run.prepare(asked(1, 1), store))
    assert [step.id for step in plan[:2]] == ["connect", "check-machines"]
    waiting = {step.id: set(step.needs) for step in plan}

    def leads_to(name: str) -> bool:
        return name == "check-machines" or any(leads_to(before) for before in waiting[name])

    assert all(leads_to(step.id) for step in plan if step.nodes)


def test_run_plan_control_plane_nodes_do_not_wait_for_each_other(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(asked(3, 1), store))}
    for name in ("start-kubelets", "certify-control-plane", "start-control-plane", "wait-for-api"):
        assert plan[name].after_all == (), name


def test_run_plan_images_are_sent_in_parallel_with_rootfs(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(asked(), store))}
    assert plan["send-images"].needs == ("check-machines",)
    assert "send-images" not in plan["send-rootfs"].needs


def test_run_plan_sends_images_to_three_control_plane_nodes_and_balances_others(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(asked(5, 1), store))}
    assert len(plan["send-images"].nodes) == 3
    assert [node.address for node in plan["start-balancers"].nodes] == ["10.0.0.4", "10.0.0.5", "10.0.0.101"]


def test_run_plan_registers_control_plane_after_api_wait_and_before_addons(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(asked(3, 1), store))}
    assert [node.address for node in plan["finish-cluster"].nodes] == ["10.0.0.1"]
    welcome = plan["register-control-plane"]
    assert (len(welcome.nodes), welcome.after, welcome.after_all) == (3, ("wait-for-api",), ("finish-cluster",))
    # No addon is placed before the control-plane nodes have their marks.
    assert plan["start-addons"].after_all == ("register-control-plane",)


def test_run_plan_kubelets_of_all_nodes_are_hastened_once_every_api_answers(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(asked(3, 2), store))}
    hasten = plan["hasten-kubelets"]
    assert (len(hasten.nodes), hasten.after, hasten.after_all, hasten.inputs) == (5, ("start-kubelets",), ("wait-for-api",), None)
    assert "hasten-kubelets" in plan["wait-for-nodes"].needs


def test_run_plan_without_workers_has_no_balancers(store: Store) -> None:
    build(store)
    assert "start-balancers" not in ids(run.prepare(asked(), store))


def test_run_plan_launch_commands_run_in_order_after_wait_for_nodes(store: Store) -> None:
    build(store, launch=("one", "two"))
    plan = {step.id: step for step in run.plan(run.prepare(asked(), store))}
    assert plan["launch-1"].needs == ("wait-for-nodes",)
    assert plan["launch-2"].needs == ("launch-1",)
    assert plan["wait-for-workloads"].needs == ("launch-2",)


def test_run_given_commands_replace_launch_commands_of_image(store: Store) -> None:
    build(store, launch=("one", "two"))
    titles = [step.title for step in run.plan(run.prepare(asked(commands=("mine",)), store)) if step.id.startswith("launch")]
    assert titles == ["launch: mine"]
    assert not any(name.startswith("launch") for name in ids(run.prepare(asked(commands=()), store)))


def test_run_plan_network_application_starts_before_wait_for_nodes(store: Store) -> None:
    calico = ImageApp(
        "calico", "kube", commands=("kubectl apply -f calico.yaml",), labels={"cluster.alpha.sealer.io/kube-cni-calico": "true"}
    )
    build(store, apps=(calico,), cluster_apps=("calico",))
    order = ids(run.prepare(asked(), store))
    assert order.index("finish-cluster") < order.index("cluster-app-1") < order.index("wait-for-nodes")
    assert prepared(store).resolved.cluster.own_network


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"control_plane": ()}, UsageError, "no control-plane node"),
        ({"control_plane": machines("10.0.0.1", "10.0.0.2")}, UsageError, "odd number"),
        ({"workers": machines("10.0.0.1")}, UsageError, r"10\.0\.0\.1 given twice"),
        ({"env": {"a b": "c"}}, InputError, "not a name for a variable"),
        ({"name": "Lab 1"}, UsageError, "not a name for a cluster"),
        ({"image": "webb"}, StoreError, "no such image"),
    ],
)
def test_prepare_invalid_request_is_refused(store: Store, changes: dict[str, Any], error: type[SlipwayError], says: str) -> None:
    build(store)
    with pytest.raises(error, match=says):
        run.prepare(asked(**changes), store)


def test_prepare_application_image_is_refused(store: Store) -> None:
    build(store, type="app")
    with pytest.raises(StoreError, match="brings no Kubernetes"):
        run.prepare(asked(), store)


class Recorded(StandIn):
    """A first control-plane node whose cluster keeps a record of its machines."""

    def __init__(self, text: str) -> None:
        super().__init__("10.0.0.1")
        self.answers = {"get configmap": json.dumps({"data": {"Clusterfile": text}}), "get nodes,": '{"items": []}'}


def begin(store: Store, *hosts: str, made_with: str | None = None, profile: str | None = None) -> None:
    context = with_profile(prepared(store, 1, 1), profile)
    spec: dict[str, Any] = {"image": "web"}
    spec["hosts"] = [{"ips": list(hosts[:1]), "roles": ["control-plane"]}, {"ips": list(hosts[1:]), "roles": ["node"]}]
    spec |= {"profile": made_with} if made_with else {}
    text = yaml.safe_dump({"apiVersion": "slipway.dev/v1", "kind": "Cluster", "metadata": {"name": "default"}, "spec": spec})
    context = changed(context, control_plane=(Recorded(text),), workers=(StandIn("10.0.0.101"),))
    with contextlib.ExitStack() as stack:
        run._begin(context, stack)


def test_run_existing_cluster_with_other_machines_is_refused(store: Store) -> None:
    build(store)
    begin(store, "10.0.0.1", "10.0.0.101")
    with pytest.raises(UsageError, match=r"10\.0\.0\.101 is not in it; 10\.0\.0\.102 is, and is not named") as refused:
        begin(store, "10.0.0.1", "10.0.0.102")
    assert "slipway join" in (refused.value.hint or "")


@pytest.mark.parametrize(("made_with", "profile", "hint"), [("cis", None, "--profile cis"), (None, "cis", "leave --profile out")])
def test_run_existing_cluster_with_other_profile_is_refused(store: Store, made_with: str | None, profile: str | None, hint: str) -> None:
    build(store)
    begin(store, "10.0.0.1", "10.0.0.101", made_with="cis", profile="cis")
    with pytest.raises(UsageError, match="is there, and was made with") as refused:
        begin(store, "10.0.0.1", "10.0.0.101", made_with=made_with, profile=profile)
    assert hint in (refused.value.hint or "")


def test_run_machine_of_other_cluster_is_refused_before_any_claim(store: Store) -> None:
    build(store)
    first, worker = StandIn("10.0.0.1"), StandIn("10.0.0.101")
    worker.answers = {"/cluster 2>": "prod 99"}
    context = changed(prepared(store, 1, 1), control_plane=(first,), workers=(worker,))
    with contextlib.ExitStack() as stack, pytest.raises(CheckError, match=r"10\.0\.0\.101 belongs to a cluster prod"):
        run._begin(context, stack)
    assert [len(node.commands) for node in (first, worker)] == [1, 1]


def with_profile(context: ClusterContext, name: str | None) -> ClusterContext:
    assert context.spec.clusterfile.cluster is not None
    cluster = dataclasses.replace(context.spec.clusterfile.cluster, profile=name)
    return changed(context, clusterfile=dataclasses.replace(context.spec.clusterfile, cluster=cluster))
