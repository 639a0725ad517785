"""Container images that nothing names any more leave the registries of the cluster.

What stays: the images of the cluster's CloudImage and of the one before it (rollback needs it), those of all recorded applications, and
every repository that a workload of the cluster pulls another image from. What cannot be known to be of no use stays as well.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Collection, Iterable, Sequence

from harness import assets, cloudimage, log
from harness.errors import SlipwayError, StoreError
from harness.lifecycle.apps import records
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.target import REGISTRY, AppTarget
from harness.lifecycle.cluster import change
from harness.lifecycle.plan import Step
from harness.lifecycle.provision import registry
from harness.lifecycle.provision.registry import Layout
from harness.nodes import LONG_TIMEOUT, Node, each
from harness.nodes.files import STATE
from harness.nodes.kubectl import NodeKubectl
from harness.oci.reference import Reference
from harness.oci.store import Store

_WORKLOADS = "pods,deployments.apps,daemonsets.apps,statefulsets.apps,jobs.batch,cronjobs.batch"
"""Kinds whose images are in use. Old ReplicaSets are not: they name what an update has replaced."""
_REPOSITORIES = "docker/registry/v2/repositories"
_LINK = re.compile(rf"{_REPOSITORIES}/[\w.:/\[\]-]+/link", re.ASCII)
_DIGEST = re.compile(r"/sha256/([0-9a-f]{64})/link")


def step(target: AppTarget, store: Store, after: str) -> list[Step]:
    """Remove what nothing names. It is no failure of the command where that does not succeed: the next one tries again."""

    def action() -> str:
        try:
            return remove(target, store)
        except SlipwayError as error:
            log.warning(f"images that nothing uses stay in the registries of {target.name}: {error.message}")
            return "kept"

    if target.way != REGISTRY or not target.image:
        return []
    return [Step("remove-images", "remove unused images from the registries", action, after_all=(after,))]


def remove(target: AppTarget, store: Store) -> str:
    """Remove from the registries of a cluster what nothing names, and return a note for the display."""
    last = change.read(target.kubectl)
    if last is not None and last.state == change.RUNNING:
        return "kept: a change of the cluster is not finished"
    former = [version.digest for version in (last.before, last.after)] if last is not None else []
    return remove_others(target.kubectl, target.holders, [target.image, *former], records.listed(target.kubectl), store)


def remove_others(kubectl: NodeKubectl, holders: Sequence[Node], images: Iterable[str], apps: Iterable[Installed], store: Store) -> str:
    """Remove from the registries ``holders`` all that neither the CloudImages ``images`` (digests) nor applications nor workloads name."""
    try:
        sets = [part.images for digest in dict.fromkeys(images) for part in cloudimage.read(store, digest).platforms]
        # Each by itself: of a name that means two images, both stay.
        layouts = [registry.layout(store, images) for images in (*sets, *(records.union([app], store) for app in apps))]
    except StoreError as error:
        log.debug(f"the registries are left as they are: {error.message}")
        return f"kept: {error.message}"
    used = other_repositories(workload_images(kubectl), layouts)
    gone = each(holders, lambda node: _remove_from(node, layouts, used))
    return f"{max(gone, default=0)} files of older images removed"


def workload_images(kubectl: NodeKubectl) -> tuple[str, ...]:
    """The names of the images that workloads of the cluster use, as they write them."""
    return tuple(sorted(set(kubectl.run("get", _WORKLOADS, "--all-namespaces", "--output=jsonpath={..image}").split())))


def other_repositories(names: Iterable[str], layouts: Sequence[Layout]) -> tuple[str, ...]:
    """The repositories, with their domains, of the images among ``names`` that no layout has."""
    links = {path for layout in layouts for path in layout.links}
    repositories: set[str] = set()
    for name in names:
        try:
            reference = Reference.parse(name)
        except ValueError:  # an image id, or what a machine made of one
            continue
        folder = f"{_REPOSITORIES}/{reference.repository}/_manifests"
        if reference.digest:
            named = f"{folder}/revisions/{reference.digest.replace(':', '/')}/link"
        else:
            named = f"{folder}/tags/{reference.tag or 'latest'}/current/link"
        if named not in links:
            repositories.add(reference.repository)
    return tuple(sorted(repositories))


def _remove_from(node: Node, layouts: Sequence[Layout], repositories: Collection[str]) -> int:
    paths = {path for layout in layouts for path in (*layout.blobs, *layout.links)} | _kept(node, repositories)
    script = assets.script("registry_prune", state=STATE, storage=registry.STORAGE)
    return len(node.run(script, input="".join(f"{path}\n" for path in (*sorted(paths), "end")), timeout=LONG_TIMEOUT).stdout.splitlines())


def _kept(node: Node, repositories: Collection[str]) -> set[str]:
    """The files of whole repositories on a node, with the blobs that they name."""
    if not repositories:
        return set()
    folders = " ".join(shlex.quote(posixpath.join(_REPOSITORIES, name)) for name in repositories)
    script = f"cd {registry.STORAGE} 2>/dev/null || exit 0; find {folders} -type f -name link 2>/dev/null || true"
    links = {path for path in node.run(script, timeout=LONG_TIMEOUT).stdout.splitlines() if _LINK.fullmatch(path)}
    blobs = {registry.blob_path(f"sha256:{match[1]}") for path in links if (match := _DIGEST.search(path))}
    return links | blobs
