"""Applications in the plan that makes their cluster: what is judged before a machine is asked, and when each is installed."""

from __future__ import annotations

from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ImageApp
from harness.clusterfile import ApplicationDocument, Clusterfile
from harness.errors import InputError, StoreError
from harness.lifecycle import plan as lifecycle_plan
from harness.lifecycle import run
from harness.lifecycle.apps import cluster_apps, install, installation
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import REGISTRY, SITE
from harness.lifecycle.provision import registry
from harness.lifecycle.steps import preparation
from harness.oci.store import Store
from tests.unit.lifecycle.apps.test_records import Kube, target
from tests.unit.lifecycle.apps.test_records import build as build_app
from tests.unit.lifecycle.test_run import asked, build, changed, prepared, store

__all__ = ["store"]  # a fixture

CALICO = ImageApp("calico", "kube", commands=("kubectl apply -f calico.yaml",), labels={"cluster.alpha.sealer.io/kube-cni-calico": "true"})


def app(store: Store, name: str, **info: Any) -> None:
    build_app(store, name, env={"DbPassword": "none", "Greeting": "hello"}, **info)


def network(store: Store, name: str = "calico:1") -> None:
    app(store, name, apps=(CALICO,), launch=("kubectl get nodes",), cluster_apps=("calico",))


def request(*images: str, **changes: Any) -> Clusterfile:
    return asked(1, 1, image=images[0], images=images[1:], **changes)


def ids(found: Clusterfile, store: Store) -> list[str]:
    steps = run.plan(run.prepare(found, store))
    lifecycle_plan.check(steps)
    return [step.id for step in steps]


def test_run_plan_several_app_images_installs_them_in_order_after_record(store: Store) -> None:
    build(store)
    app(store, "shop:1")
    app(store, "more:1")
    assert ids(request("more:1", "web", "shop:1"), store)[-3:] == ["record", "app-more", "app-shop"]
    steps = {step.id: step for step in run.plan(run.prepare(request("web", "shop:1", "more:1"), store))}
    assert steps["app-more"].needs == ("app-shop",)
    assert steps["app-shop"].title == "put shop:1 in as shop"
    assert "check-applications" in steps["send-images"].needs


def test_run_plan_without_app_images_has_no_app_steps(store: Store) -> None:
    build(store)
    assert not [name for name in ids(asked(), store) if "app" in name]


def test_run_plan_network_app_precedes_node_wait_and_missing_network_is_refused(store: Store) -> None:
    build(store, network=False)
    app(store, "shop:1")
    network(store)
    order = ids(request("web", "shop:1", "calico:1"), store)
    assert order.index("register-control-plane") < order.index("app-calico") < order.index("start-addons") < order.index("wait-for-nodes")
    assert order[-1] == "app-shop"
    with pytest.raises(StoreError, match="web brings no pod network") as refused:
        run.prepare(request("web", "shop:1"), store)
    assert "name an application image with CNI beside it" in (refused.value.hint or "")


def test_installation_make_network_app_is_launched_first_and_only_once(store: Store) -> None:
    network(store)
    app(store, "listed:1", apps=(CALICO,), launch=CALICO.commands, cluster_apps=("calico",))
    for name, commands in (("calico:1", (*CALICO.commands, "kubectl get nodes")), ("listed:1", CALICO.commands)):
        wanted = Request.of(name)
        assert installation.make(target(Kube()), wanted, installation.read(wanted, store), store).commands == commands


def test_run_prepare_second_pod_network_is_refused(store: Store) -> None:
    build(store)
    network(store)
    with pytest.raises(InputError, match=r"calico:1: brings a pod network, as web does"):
        run.prepare(request("web", "calico:1"), store)
    build(store, "bare", network=False)
    network(store, "other:1")
    with pytest.raises(InputError, match=r"other:1: brings a pod network, as calico:1 does"):
        run.prepare(request("bare", "calico:1", "other:1"), store)


def test_run_prepare_unsuitable_app_images_reports_all_faults_at_once(store: Store) -> None:
    build(store)
    app(store, "old:1", kube_version="<1.30")
    app(store, "future:1", kube_version=">=1.40")
    app(store, "bad:1", files={"etc/page.yaml": "a: {{ Nothing }}"})
    with pytest.raises(InputError) as refused:
        run.prepare(request("web", "old:1", "future:1", "bad:1"), store)
    assert [fault.where for fault in refused.value.faults] == ["old:1", "future:1", "bad:1: etc/page.yaml:1"]


def test_run_preflight_size_includes_each_app_image_once(store: Store) -> None:
    build(store)
    app(store, "shop:1")
    app(store, "same:1")
    app(store, "more:1", images=("docker.io/library/another:1",))
    digests = {name: cloudimage.read(store, name).digest for name in ("shop:1", "same:1", "more:1")}
    assert digests["shop:1"] == digests["same:1"] != digests["more:1"]
    sizes = {name: cloudimage.read(store, name).size for name in ("web", "shop:1", "more:1")}
    assert all(sizes.values())
    for names, wanted in (
        (("web",), sizes["web"]),
        (("web", "shop:1"), sizes["web"] + sizes["shop:1"]),
        (("web", "shop:1", "more:1", "same:1"), sum(sizes.values())),
    ):
        context = prepared(store, clusterfile=request(*names))
        targets = [preparation.target(context.resolved, node) for node in context.spec.nodes]
        assert preparation.wanted_of_machines(context.resolved, targets).size == wanted


def test_check_applications_image_without_platform_of_first_node_is_refused(store: Store) -> None:
    build(store)
    app(store, "shop:1")
    context = prepared(store, clusterfile=request("web", "shop:1"))
    found = [step for step in run.plan(context) if step.id == "check-applications"]
    assert found[0].action() == "shop:1"
    address = context.spec.first.address
    arm = {**context.resolved.facts.machines}
    arm[address] = type(arm[address])(arch="arm64")
    context._resolved = type(context.resolved)(context.spec, type(context.resolved.facts)(arm))
    with pytest.raises(StoreError, match="not made for linux/arm64"):
        found[0].action()


def test_cluster_apps_target_follows_run_context_and_step_collects_result(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    app(store, "shop:1")
    context = prepared(store, clusterfile=request("web", "shop:1"))
    found = cluster_apps.target(context)
    assert (found.way, found.root, found.image) == (REGISTRY, "/var/lib/slipway/apps", context.spec.image.digest)
    assert (found.holders, len(found.nodes)) == (context.spec.registries, 2)
    assert found.facts == {"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"}
    elsewhere = cluster_apps.target(changed(context, elsewhere=registry.Anything("")))
    assert (elsewhere.way, elsewhere.holders) == (SITE, ())

    class Work:
        waits = True

    work = Work()
    monkeypatch.setattr(installation, "make", lambda *_: work)
    monkeypatch.setattr(install, "carry_out", lambda *_: install.InstallResult("shop", "shop:1", "", "lab", ("Pod a",), (), (), 1.0))
    results: list[install.InstallResult] = []
    step = cluster_apps.step(context, ApplicationDocument("shop", image="shop:1"), results, ("record",), waits=False)
    assert (step.action(), work.waits, [one.name for one in results]) == ("1 objects", False, ["shop"])
