"""Several images in one request: one of them brings Kubernetes, the others are applications.

Their order is that of their installation. A request is settled before anything else reads it: the image of the cluster and a document
Application for each of the others, as a Clusterfile would have them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import cloudimage
from harness.cloudimage import CloudImage
from harness.clusterfile import ApplicationDocument, ClusterDocument, Clusterfile
from harness.clusterfile.cluster import DUAL_STACK
from harness.errors import Fault, FaultCollector, InputError, SlipwayError
from harness.lifecycle.apps import install, installation, records
from harness.lifecycle.apps.install import InstallResult
from harness.lifecycle.apps.installation import AppInstall
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import AppTarget, Where, opened
from harness.lifecycle.plan import describe
from harness.oci.reference import familiar
from harness.oci.store import Store

_OF_CLUSTER = frozenset({"PodCIDR", "SvcCIDR", "CertSANs", DUAL_STACK})
"""Values that the cluster gives to applications, whatever the request says."""


@dataclasses.dataclass(frozen=True)
class Sorted:
    """The images of a request by what they bring."""

    base: str | None
    """None: applications only."""
    apps: tuple[str, ...]


def sort(images: Sequence[str], store: Store) -> Sorted:
    """Sort images of the store. Raises InputError or StoreError with every image that is missing, not admitted or one too many."""
    from harness.trust import policy  # here: its cryptography is slow to load

    collector, kinds = FaultCollector(), dict[str, str]()
    for image in images:
        if familiar(image) in map(familiar, kinds):
            collector.add(Fault(image, "is given twice", "name each image once"))
            continue
        with collector.of(image):
            cloud_image = cloudimage.read(store, image)
            policy.admit(store, image, cloud_image.digest)
            kinds[image] = cloud_image.platforms[0].info.type
    bases = [image for image, kind in kinds.items() if kind != "app"]
    apps = tuple(image for image, kind in kinds.items() if kind == "app")
    if len(bases) > 1:
        hint = "one image of the cluster, and application images; an application image is built FROM scratch"
        collector.add(Fault(bases[1], f"brings Kubernetes, as {', '.join(bases[:1] + bases[2:])} does", hint))
    names: dict[str, str] = {}
    for image in apps:
        with collector.of(image):
            name = records.name_of(image)
            if name in names:
                collector.add(Fault(image, f"would be called {name}, as {names[name]} is", "documents Application give other names"))
            names.setdefault(name, image)
    collector.finish()
    return Sorted(bases[0] if bases else None, apps)


def settled(clusterfile: Clusterfile, store: Store) -> Clusterfile:
    """The request with a document Application for every image beside that of the cluster; one image stays as it is.

    A document that names the same image has its settings. The environment of the cluster counts for all images of the list.
    Raises as ``sort`` does, and InputError when no image brings Kubernetes.
    """
    cluster = clusterfile.cluster
    if cluster is None or not cluster.images:
        return clusterfile
    images = (cluster.image, *cluster.images)
    chosen = sort(images, store)
    if chosen.base is None:
        raise InputError([Fault(", ".join(images), "no image of these brings Kubernetes", "name the image of the cluster too")])
    listed = tuple(_document(clusterfile.apps, image, cluster) for image in chosen.apps)
    names = {app.name for app in listed}
    rest = tuple(app for app in clusterfile.apps if app.name not in names)
    return dataclasses.replace(clusterfile, cluster=dataclasses.replace(cluster, image=chosen.base, images=()), apps=(*listed, *rest))


def _document(apps: Iterable[ApplicationDocument], image: str, cluster: ClusterDocument) -> ApplicationDocument:
    shared = {name: value for name, value in cluster.env.items() if name not in _OF_CLUSTER}
    named = next((app for app in apps if familiar(app.image or "") == familiar(image)), None)
    document = named or ApplicationDocument(records.name_of(image), image=image)
    return dataclasses.replace(document, env={**shared, **document.env})


def judge(apps: Sequence[ApplicationDocument], target: AppTarget, store: Store, collector: FaultCollector) -> tuple[CloudImage, ...]:
    """Read the images of applications, and judge their values and versions for a cluster that is not asked anything."""
    images: list[CloudImage] = []
    for document in apps:
        with collector.of(document.image or document.name):
            request = Request(document)
            image = installation.read(request, store)
            images.append(image)
            platform = image.platforms[0].platform
            installation.work_of(dataclasses.replace(target, platforms={target.first.address: platform}), request, image, store)
    return tuple(images)


# ---- applications alone, for a cluster that runs ---------------------------------------------------------------------


@contextmanager
def prepared(requests: Sequence[Request], where: Where, store: Store, *, home: Path | None = None) -> Iterator[tuple[AppInstall, ...]]:
    """Open the cluster and check that it admits every application; nothing is changed. Raises all faults at once."""
    collector, images = FaultCollector(), dict[str, CloudImage]()
    for request in requests:
        with collector.of(request.document.image or ""):
            images[request.document.name] = installation.read(request, store)
    collector.finish()
    with opened(where, home=home) as target:
        works: list[AppInstall] = []
        for request in requests:
            with collector.of(request.document.image or ""):
                works.append(installation.make(target, request, images[request.document.name], store))
        collector.finish()
        yield tuple(works)


def described(works: Sequence[AppInstall]) -> list[dict[str, Any]]:
    """The steps of all, for ``--plan``: one application after the other."""
    if len(works) == 1:
        return describe(install.plan(works[0]))
    steps: list[dict[str, Any]] = []
    for work in works:
        before = [steps[-1]["id"]] if steps else []
        for step in describe(install.plan(work)):
            after = [f"{work.name}/{name}" for name in step["after"]] or before
            steps.append({**step, "id": f"{work.name}/{step['id']}", "title": f"{work.name}: {step['title']}", "after": after})
    return steps


def put(requests: Sequence[Request], where: Where, store: Store, *, home: Path | None = None) -> tuple[InstallResult, ...]:
    """Install applications in their order. The same call after a kill or a failure finishes the installation."""
    results: list[InstallResult] = []
    with store.shared_lease(), prepared(requests, where, store, home=home) as works, works[0].target.exclusive():
        for work in works:
            # The cluster stays reserved from the first to the last.
            work.target = dataclasses.replace(work.target, exclusive=contextlib.nullcontext)
            try:
                results.append(install.carry_out(work, time.monotonic()))
            except SlipwayError as error:
                rest = [other.name for other in works[len(results) + 1 :]]
                if rest:
                    error.hint = "; ".join(part for part in (error.hint, f"not begun: {', '.join(rest)}; the same command again") if part)
                raise
    return tuple(results)
