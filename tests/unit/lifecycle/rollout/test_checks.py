"""What a rollout refuses before anything is changed."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ImageApp
from harness.errors import CheckError
from harness.lifecycle.apps import records
from harness.lifecycle.kube import etcd
from harness.lifecycle.kube.readiness import Resource
from harness.lifecycle.provision import rootfs_update
from harness.lifecycle.rollout import checks
from harness.lifecycle.steps.context import NETWORK_MANIFEST
from harness.nodes.files import NodeFile
from harness.oci.store import Store
from harness.process import ProcessResult
from harness.runtimes import static_pods
from tests.unit.lifecycle.rollout.test_plan import addon, plan
from tests.unit.lifecycle.test_run import FACTS, build, changed, store
from tests.unit.lifecycle.test_upgrade import etcd_images, image, work

__all__ = ["store"]  # a fixture


@pytest.mark.parametrize(
    ("runs", "wanted", "why"),
    [
        ("3.5.26-0", "3.6.8-0", ""),
        ("3.6.8-0", "3.6.8-0", ""),
        ("3.6.8-0", "3.7.0-0", ""),
        ("3.5.21-0", "3.5.26-0", ""),
        ("custom", "3.6.8-0", ""),
        ("3.5.25-0", "3.6.8-0", "etcd 3.5.25 cannot become 3.6.8: it must be 3.5.26 or newer before"),
        ("3.5.26-0", "3.7.0-0", "from etcd 3.5.26 to 3.7.0 is more than one minor version"),
    ],
)
def test_require_etcd_version_step_follows_upgrade_rules(store: Store, tmp_path: Path, runs: str, wanted: str, why: str) -> None:
    made = work(store, tmp_path)
    vars(made.resolved)["images"] = etcd_images(wanted)
    # It is the oldest that counts: control-plane nodes that were updated before a change was cut off have the new one already.
    for node, tag in zip(made.found.control_plane, (wanted, runs, wanted), strict=True):
        node.answers[f"cat {etcd.MANIFEST}"] = f"    image: registry.k8s.io/etcd:{tag}\n"  # type: ignore[attr-defined]
    with pytest.raises(CheckError, match=why) if why else contextlib.nullcontext():
        checks.require_etcd(made)


def kubernetes_node(name: str, *, ready: bool = True, **spec: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    return {"kind": "Node", "metadata": {"name": name}, "spec": spec, "status": {"conditions": conditions}}


def bare(node: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": "alone", "namespace": "web"}, "spec": {"nodeName": node}, "status": {"phase": "Running"}}


def test_require_calm_unready_node_is_refused(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    made.found.first.answers[" get events "] = "{}"  # type: ignore[attr-defined]
    with pytest.raises(CheckError, match="the cluster is not healthy: Node host-4"):
        checks._require_calm(made, [kubernetes_node("host-1"), kubernetes_node("host-4", ready=False)])
    outside = {"kind": "Pod", "metadata": {"name": "a", "namespace": "web"}, "spec": {}, "status": {"phase": "Pending"}}
    checks._require_calm(made, [kubernetes_node("host-1"), outside])


def test_require_owners_bare_pod_on_drained_node_is_refused(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path, 1, 2)
    nodes: list[Resource] = [
        kubernetes_node("host-1", taints=[{"key": "node-role.kubernetes.io/master", "effect": "NoSchedule"}]),
        kubernetes_node("host-2"),
        kubernetes_node("host-3"),
    ]
    with pytest.raises(CheckError, match="nothing would start web/alone again"):
        checks._require_owners(made, [*nodes, bare("host-2")])
    # A node that stays as it is, or the only one that takes pods, is not drained.
    made.versions = {"10.0.0.2": "v1.36.4"}
    checks._require_owners(made, [*nodes, bare("host-2")])
    made.versions = {}
    checks._require_owners(made, [*nodes[:2], bare("host-2")])


def test_check_step_application_rejecting_kubernetes_version_is_refused(store: Store, tmp_path: Path) -> None:
    shop = records.Installed("shop", "shop:1", "sha256:9", kube_version="<1.36.4")
    with pytest.raises(CheckError, match=r"shop .*v1\.36\.4"):
        plan(work(store, tmp_path, apps=(shop,)))["check"].action()


@pytest.mark.parametrize(
    ("runs", "brings", "refused"),
    [
        ("daemonset.apps/kube-flannel-ds\n", "kube-flannel-ds", False),
        ("daemonset.apps/kube-flannel-ds\n", "kube-router", True),
        # What the network of a cluster is may not be known.
        ("", "kube-router", False),
    ],
)
def test_require_network_image_with_other_pod_network_is_refused(
    store: Store, tmp_path: Path, runs: str, brings: str, *, refused: bool
) -> None:
    made = work(store, tmp_path)
    build(store, files={"etc/slipway.yaml": FACTS, NETWORK_MANIFEST: addon(brings)})
    made.context = changed(made.context, image=cloudimage.read(store, "web"))
    made.resolved._files.update({node.address: {NETWORK_MANIFEST: NodeFile.text(addon(brings))} for node in made.spec.nodes})
    made.found.first.answers["get daemonsets.apps"] = runs  # type: ignore[attr-defined]
    with pytest.raises(CheckError, match="another pod network than kube-flannel-ds") if refused else contextlib.nullcontext():
        checks._require_network(made)


def test_require_network_app_network_replacing_addon_network_is_refused(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    app = ImageApp("calico", "kube", labels={"app.alpha.sealer.io/cni": "calico"})
    image(store, apps=(app,), cluster_apps=("calico",))
    made.context = changed(made.context, image=cloudimage.read(store, "web"))
    made.found.first.answers["get daemonsets.apps"] = "daemonset.apps/kube-flannel-ds\n"  # type: ignore[attr-defined]
    with pytest.raises(CheckError, match="nothing has been changed"):
        checks._require_network(made)


@pytest.mark.parametrize(("has", "refused"), [({"nft_queue": False}, True), ({"nft_queue": True}, False), ({}, False)])
def test_require_enforcement_kernel_without_nft_queue_is_refused(
    store: Store, tmp_path: Path, has: dict[str, bool], *, refused: bool
) -> None:
    made = work(store, tmp_path, 1, 1)
    vars(made.resolved)["images"] = SimpleNamespace(
        images=[SimpleNamespace(name="registry.k8s.io/networking/kube-network-policies:v0.8.0")]
    )
    worker = made.spec.workers[0].address
    machines: Any = made.resolved.facts.machines
    machines[worker] = dataclasses.replace(machines[worker], has=has)
    with pytest.raises(CheckError, match="host-2: NetworkPolicies would protect nothing") if refused else contextlib.nullcontext():
        checks._require_enforcement(made)


def test_check_step_of_resumed_change_resumes_static_pods_first(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed: list[str] = []
    monkeypatch.setattr(static_pods, "resume", lambda node: resumed.append(node.address))
    monkeypatch.setattr(records, "unfit", lambda *_: ["stop here"])
    for again, expected in ((False, []), (True, ["10.0.0.1", "10.0.0.2", "10.0.0.3"])):
        made = work(store, tmp_path / str(again), resumed=again)
        with pytest.raises(CheckError, match="stop here"):
            plan(made)["check"].action()
        assert sorted(resumed) == expected


def test_compare_step_reports_all_nodes_with_full_disk(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = work(store, tmp_path, 1, 1)
    made.resolved._files.update({node.address: {} for node in made.spec.nodes})
    monkeypatch.setattr(rootfs_update, "ask", lambda *_: {})

    def run(command: str, **_: Any) -> ProcessResult:
        return ProcessResult((), 0, "1000\n" if "df -Pk" in command else "", "")

    for node in made.spec.nodes:
        monkeypatch.setattr(node, "run", run)
    with pytest.raises(CheckError, match=r"host-1 has 1 MB free .*\n.*host-2"):
        plan(made)["compare"].action()
