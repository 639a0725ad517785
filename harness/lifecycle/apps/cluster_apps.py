"""Applications that come with a cluster: steps of the plan that makes it.

Each is one step there, with a plan and a journal of its own. A pod network is installed before the nodes are waited for, which are not
Ready without it; all others once the cluster is recorded, in their order.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence

from harness.cloudimage import CloudImage
from harness.clusterfile import ApplicationDocument
from harness.lifecycle.apps import install, installation, requests
from harness.lifecycle.apps.install import InstallResult
from harness.lifecycle.apps.target import REGISTRY, SITE, AppTarget
from harness.lifecycle.plan import Insertion, Step
from harness.lifecycle.steps.context import ClusterContext, ResolvedCluster, own_network
from harness.nodes.files import STATE
from harness.runtimes import ROOTFS

BEFORE_SENDING = ("send-images", "unpack-rootfs", "start-registry")
"""Steps that change a machine first."""


def networks(images: Iterable[CloudImage]) -> tuple[str, ...]:
    """The images of applications that bring the pod network."""
    return tuple(image.name or image.digest for image in images if own_network(image.platforms[0].info))


def facts(resolved: ResolvedCluster) -> Mapping[str, str]:
    """The variables of the cluster for templates."""
    return {"PodCIDR": resolved.network.pods, "SvcCIDR": resolved.network.services}


def target(context: ClusterContext) -> AppTarget:
    """The cluster that a plan makes, as a target of applications. Its machines have been asked, its API answers."""
    spec, resolved = context.spec, context.resolved
    return AppTarget(
        name=spec.name,
        kubectl=context.kubectl,
        first=spec.first,
        nodes=spec.nodes,
        way=REGISTRY if spec.elsewhere is None else SITE,
        root=f"{STATE}/apps",
        kubernetes=resolved.kubernetes.kubernetes,
        platforms={node.address: resolved.facts.machines[node.address].platform for node in spec.nodes},
        # The plan has the machines to itself already.
        exclusive=contextlib.nullcontext,
        image=spec.image.digest,
        holders=spec.registries if spec.elsewhere is None else (),
        control_plane=spec.control_plane,
        path=f"{ROOTFS}/bin:$PATH:/usr/local/bin",
        facts=facts(resolved),
    )


def check(context: ClusterContext, images: Sequence[CloudImage]) -> Insertion:
    """See, before anything is sent, that the node which launches has a processor that the applications are made for."""

    def action() -> str:
        platform = context.resolved.facts.machines[context.spec.first.address].platform
        for image in images:
            image.platform(platform)
        return ", ".join(image.name or image.digest[7:19] for image in images)

    steps = [Step("check-applications", "check the application images", action, after=("check-machines",))] if images else []
    return Insertion(steps, BEFORE_SENDING)


def step(
    context: ClusterContext, document: ApplicationDocument, results: list[InstallResult], after: Sequence[str], *, waits: bool = True
) -> Step:
    """Install or update an application; its result is appended to ``results``. With ``waits`` until its workloads are ready."""

    def action() -> str:
        spec = context.spec
        # Its images are delivered apart from those of the cluster.
        context.exchange.close()
        request = requests.Request(document, by_file=True, elsewhere=spec.elsewhere, timeout=spec.timeout)
        work = installation.make(target(context), request, installation.read(request, spec.store), spec.store)
        work.waits = waits
        results.append(install.carry_out(work, time.monotonic()))
        return f"{len(results[-1].objects)} objects"

    return Step(f"app-{document.name}", f"put {document.image} in as {document.name}", action, after_all=tuple(after))


def network_steps(context: ClusterContext, documents: Sequence[ApplicationDocument], results: list[InstallResult]) -> Insertion:
    """Install the applications that bring the pod network, before the addons: these need a node that is ready.

    Later steps wait for their workloads, which may need the addons themselves.
    """
    steps: list[Step] = []
    for document in documents:
        after = (steps[-1].id,) if steps else ("register-control-plane", "start-kubelets", "start-registry")
        steps.append(step(context, document, results, after, waits=False))
    return Insertion(steps, ("start-addons",))
