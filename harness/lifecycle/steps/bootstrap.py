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
    members = [(member.name, member.address, member.role) for member in cluster.members if member.is_control_plane]
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


def certify_control_plane(context: ClusterContext) -> Step:
    control_plane, title = context.selected(context.spec.control_plane), "write the certificates of the control-plane nodes"
    return _member_step(context, "certify-control-plane", title, Kubeadm.certify, control_plane, "start-kubelets")


def start_control_plane(context: ClusterContext) -> Step:
    before = ("certify-control-plane", "start-registry")
    return _member_step(
        context, "start-control-plane", "start the control-plane nodes", Kubeadm.start_control_plane, context.spec.control_plane, *before
    )


def wait_for_api(context: ClusterContext) -> Step:
    """Every time: what comes then needs an API that answers now, and machines may have booted since it did."""
    return Step(
        "wait-for-api",
        "wait for the API",
        lambda node: context.resolved.runtime.wait_api(context.resolved.member(node), context.spec.timeout),
        context.selected(context.spec.control_plane),
        after=("start-control-plane",),
    )


def hasten_kubelets(context: ClusterContext) -> Step:
    """Every time: it costs a question, and a kubelet that waits for its next try delays the cluster by up to 20 seconds."""
    return Step(
        "hasten-kubelets",
        "have the kubelets register",
        lambda node: context.resolved.runtime.hasten(context.resolved.member(node)),
        context.nodes,
        after=("start-kubelets",),
        after_all=("wait-for-api",),
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


def register_control_plane(context: ClusterContext) -> Step:
    """On each control-plane node once its own API answers: one whose first run was cut off may not even have its rootfs yet."""
    control_plane, title = context.selected(context.spec.control_plane), "register the control-plane nodes"
    return _member_step(
        context, "register-control-plane", title, Kubeadm.welcome, control_plane, "wait-for-api", after_all=("finish-cluster",)
    )


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
