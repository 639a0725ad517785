"""The step that records a cluster: in the cluster itself, and on this machine."""

from __future__ import annotations

from harness.clusterfile import write
from harness.lifecycle.cluster import access
from harness.lifecycle.cluster import record as cluster_record
from harness.lifecycle.cluster.record import ELSEWHERE, OWN, ClusterRecord
from harness.lifecycle.plan import Step
from harness.lifecycle.steps.context import ClusterContext


def record(context: ClusterContext, after: str) -> Step:
    """Keep in the cluster what was applied, without secrets, and here how to get at it."""

    def action() -> None:
        write_record(context, write.redacted(context.spec.clusterfile), unready="")

    return Step("record", "record the cluster", action, after=(after,))


def write_record(context: ClusterContext, text: str, unready: str | None = None) -> None:
    """Record the cluster with the Clusterfile ``text``, and cache here how it is reached."""
    image, registry = context.spec.image, OWN if context.spec.elsewhere is None else ELSEWHERE
    cluster_record.apply(context.spec.first, ClusterRecord(image.name or image.digest, image.digest, text, registry, unready=unready))
    keep_access(context)


def keep_access(context: ClusterContext) -> None:
    """Cache on this machine a kubeconfig and how the nodes are reached."""
    spec = context.spec
    spec.state.write("kubeconfig", context.resolved.runtime.kubeconfig(spec.first.address).decode())
    access.remember(spec.state, spec.control_plane, spec.workers, image={"image": spec.image.name, "digest": spec.image.digest})
