"""Addons, and what a configuration of Kubernetes depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping

from harness.lifecycle import run
from harness.lifecycle.steps import bootstrap
from harness.oci.store import Store
from harness.runtimes.kubeadm import Kubeadm
from tests.unit.lifecycle.steps.test_preparation import ADDONS
from tests.unit.lifecycle.test_run import FACTS, KEYS, build, prepared, store, with_profile

__all__ = ["store"]  # a fixture


NAMED = 'apiVersion: v1\nkind: Service\nmetadata: {name: "dns-{{ DNSSvcIP }}", namespace: kube-system}\n'


def test_addons_network_is_applied_first_and_others_before_wait_for_nodes(store: Store) -> None:
    build(
        store,
        files={"etc/slipway.yaml": FACTS, "etc/addons/network.yaml": "cidr: {{ PodCIDR }}", "etc/addons/dns.yaml": NAMED},
    )
    context = prepared(store, 3, 2)
    applied: list[dict[str, str]] = []
    timeouts: list[float] = []

    def apply(manifests: Mapping[str, str], timeout: float) -> None:
        applied.append(dict(manifests))
        timeouts.append(timeout)

    context.resolved.runtime.finish = applied.append  # type: ignore[method-assign, assignment]
    context.resolved.runtime.apply = apply  # type: ignore[method-assign]
    plan = {step.id: step for step in run.plan(context)}
    plan["finish-cluster"].action(context.spec.first)
    plan["start-addons"].action(context.spec.first)
    record = applied[1].pop("slipway-addons.json")
    assert applied == [{"network.yaml": "cidr: 100.64.0.0/10"}, {"dns.yaml": NAMED.replace("{{ DNSSvcIP }}", "10.96.0.10")}]
    assert json.loads(record)["data"] == {"objects": "+ v1 Service kube-system dns-10.96.0.10\n"}
    # So long a node that takes pods is waited for.
    assert timeouts == [60]

    def waits_for(name: str, other: str) -> bool:
        """On all nodes of the other step."""
        return any(before == other or waits_for(before, other) for before in plan[name].after_all)

    assert waits_for("start-addons", "finish-cluster")
    assert "start-addons" in plan["wait-for-nodes"].needs


def test_kubernetes_inputs_depend_on_profile_and_on_addons_only_with_profile(store: Store) -> None:
    build(store, "bare")
    build(store, "more", files={"etc/slipway.yaml": FACTS, **ADDONS})

    def inputs(image: str, profile: str | None) -> str:
        context = with_profile(prepared(store, image=image), profile)
        assert isinstance(context.resolved.runtime, Kubeadm)
        context.resolved.runtime._pki = KEYS
        return bootstrap.kubernetes_inputs(context.resolved, context.spec.first)

    assert inputs("bare", "cis") != inputs("bare", None)
    assert inputs("bare", "cis") != inputs("more", "cis")
    assert inputs("bare", None) == inputs("more", None)
