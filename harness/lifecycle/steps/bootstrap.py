"""Steps that start Kubernetes: kubelets, control planes, and what is configured once for the whole cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from harness.lifecycle.plan import Step, digest
from harness.lifecycle.steps.context import NETWORK_ADDON, ClusterContext, ResolvedCluster
from harness.nodes import Node
from harness.nodes.ssh import SshNode
from harness.runtimes import Member
from harness.runtimes.kubeadm import Kubeadm


def kubernetes_inputs(resolved: ResolvedCluster, node: Node) -> str:
    cluster = resolved.cluster
    members = [(member.name, member.address, member.role) for member in cluster.members if member.is_master]
    return digest(
        resolved.runtime.identity,
        dataclasses.astuple(cluster.facts),
        members,
        cluster.cert_sans,
        cluster.network.pods,
        cluster.network.services,
        node.address,
        *([resolved.member(node).address6] if cluster.network.dual else []),
        *(cluster.documents),
        *([cluster.certificate_days] if cluster.certificate_days else []),
        *([cluster.virtual_ip] if cluster.virtual_ip else []),
        # Its files are named after their content.
        *([cluster.profile.name, *cluster.profile.documents] if cluster.profile.name else []),
    )


def _member_step(
    context: ClusterContext,
    id: str,
    title: str,
    action: Callable[[Kubeadm, Member], object],
    nodes: tuple[SshNode, ...],
    *after: str,
    after_all: tuple[str, ...] = (),
) -> Step:
    """A step on each node by itself that depends on the settings of Kubernetes."""
    return Step(
        id,
        title,
        lambda node: action(context.resolved.runtime, context.resolved.member(node)),
        nodes,
        after=after,
        after_all=after_all,
        inputs=lambda node: kubernetes_inputs(context.resolved, node),
    )


def start_kubelets(context: ClusterContext) -> Step:
    return _member_step(context, "start-kubelets", "start the kubelets", Kubeadm.start_kubelet, context.nodes, "start-containerd")


def certify_masters(context: ClusterContext) -> Step:
    masters, title = context.selected(context.spec.masters), "write the certificates of the masters"
    return _member_step(context, "certify-masters", title, Kubeadm.certify, masters, "start-kubelets")


def start_masters(context: ClusterContext) -> Step:
    before = ("certify-masters", "start-registry")
    return _member_step(context, "start-masters", "start the masters", Kubeadm.start_master, context.spec.masters, *before)


def wait_for_api(context: ClusterContext) -> Step:
    """Every time: what comes then needs an API that answers now, and machines may have booted since it did."""
    return Step(
        "wait-for-api",
        "wait for the API",
        lambda node: context.resolved.runtime.wait_api(context.resolved.member(node), context.spec.timeout),
        context.selected(context.spec.masters),
        after=("start-masters",),
    )


def finish_cluster(context: ClusterContext) -> Step:
    """Run once: kubeadm's cluster-wide phases, and the pod network unless an application brings it."""

    def inputs(node: Node) -> str:
        resolved = context.resolved
        return digest(kubernetes_inputs(resolved, node), resolved.network_addon, resolved.cluster.chosen_proxy_mode)

    return Step(
        "finish-cluster",
        "configure the cluster",
        lambda _: context.resolved.runtime.finish(context.resolved.network_addon),
        (context.spec.first,),
        after=("wait-for-api",),
        inputs=inputs,
    )


def welcome_masters(context: ClusterContext) -> Step:
    """On each master once its own API answers: one whose first run was cut off may not even have its rootfs yet."""
    masters, title = context.selected(context.spec.masters), "tell the cluster of the masters"
    return _member_step(context, "welcome-masters", title, Kubeadm.welcome, masters, "wait-for-api", after_all=("finish-cluster",))


def start_addons(context: ClusterContext, after: str, beside: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda _: {}) -> Step:
    """The addons of the image besides the pod network: they need a node that is ready. ``beside`` gives manifests for all addons."""

    def others() -> dict[str, str]:
        every = context.resolved.addons
        return {**{name: text for name, text in every.items() if name != NETWORK_ADDON}, **beside(every)}

    return Step(
        "start-addons",
        "start the addons",
        # Whoever waits longer for a node is told by the next step, which sees whether the machines are there still.
        lambda _: context.resolved.runtime.apply(others(), min(context.spec.timeout, 60)),
        (context.spec.first,),
        after_all=(after,),
        inputs=lambda node: digest(kubernetes_inputs(context.resolved, node), others()),
    )
