"""The container images of applications on their way to the nodes: into registries, or node by node."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from typing import BinaryIO

from harness import cloudimage, log
from harness.cloudimage import CloudImage, ImageSet
from harness.errors import CheckError, StoreError
from harness.lifecycle.apps import records
from harness.lifecycle.apps.target import SITE, AppTarget
from harness.lifecycle.plan import Step
from harness.lifecycle.provision import registry
from harness.lifecycle.steps import preparation
from harness.lifecycle.steps.context import ClusterContext
from harness.nodes import Node, each
from harness.nodes.files import Files, add, install_files, read_files, tar_stream
from harness.oci.model import OCI_INDEX, canonical_json
from harness.oci.store import Store

_CERTS_D = "/etc/containerd/certs.d"
_CTR = """export PATH=$PATH:/usr/local/bin
if command -v ctr > /dev/null 2>&1; then ctr=ctr; elif command -v k3s > /dev/null 2>&1; then ctr='k3s ctr'
else echo 'there is no ctr: images can be brought to containerd only' >&2; exit 1; fi
"""


def warn_of_platforms(target: AppTarget, name: str, image: CloudImage) -> None:
    """Warn of platforms of the cluster that an image is not made for."""
    missing = sorted({str(platform) for platform in target.platforms.values() if not records.of_platforms(image, [platform])})
    if missing:
        log.warning(f"{name} is not made for {', '.join(missing)}: its pods cannot run on those nodes")


def warn_of_others(target: AppTarget, store: Store, app: str, images: ImageSet) -> None:
    """Warn of image names that mean another image in the cluster or in another application."""
    digests = {image.name: image.digest for image in images.images}
    others = {f"the application {other.name}": other.digest for other in records.listed(target.kubectl) if other.name != app}
    for owner, digest in {"the cluster's own image": target.image, **others}.items():
        try:
            cloud_image = cloudimage.read(store, digest)
        except StoreError:
            continue
        for image in (image for part in cloud_image.platforms for image in part.images.images):
            if digests.get(image.name, image.digest) != image.digest:
                log.warning(f"{image.name} is another image in {owner}: from now on it is that of {app}")


def hosts_files(target: AppTarget, elsewhere: registry.Elsewhere | None, node: Node, names: Sequence[str]) -> Files:
    """hosts.toml files for registries that a node does not know, after those that it has. Raises CheckError when it has none.

    Only the node knows whether it asks itself, its balancer, rules of its kernel or the registry of the site.
    """
    if target.way == SITE and elsewhere is not None:
        return elsewhere.files(names)
    domains = node.run(f"ls {_CERTS_D} 2>/dev/null || true").stdout.split()
    missing = [name for name in names if name not in domains]
    if not missing:
        return {}
    # A registry of the site keeps its images in folders, whose names have no colon.
    folder = _as_folder if target.way == SITE else str
    for path, data in read_files(node, [f"{_CERTS_D}/{name}/hosts.toml" for name in domains]).items():
        text, end = data.decode(), f'/{folder(path.split("/")[-2])}"'
        if end in text:
            texts = {name: text.replace(end, f'/{folder(name)}"') for name in missing}
            # A login in it is needed for the others, too.
            return {f"{_CERTS_D}/{name}/hosts.toml": registry.hosts_file(text.encode()) for name, text in texts.items()}
    if "_default" in domains:
        return {}
    raise CheckError(f"{node.name} does not say where images of {', '.join(missing)} are", hint="--registry REGISTRY[/PATH]")


def _as_folder(domain: str) -> str:
    return domain.replace(":", "-").lower()


def import_images(node: Node, store: Store, images: ImageSet) -> int:
    """Import the images that a node's containerd lacks; return their number. Raises CommandError where there is no containerd."""
    listed = node.run(f"{_CTR}$ctr -n k8s.io images ls | awk '{{ print $1, $3 }}'", timeout=120).stdout.splitlines()
    present = {tuple(line.split()) for line in listed}
    missing = [image for image in images.images if (image.name, image.digest) not in present]
    if not missing:
        return 0
    content = frozenset(node.run(f"{_CTR}$ctr -n k8s.io content ls -q", timeout=120).stdout.split())
    blobs = [blob for blob in images.blobs if blob.digest not in content]
    entries = [
        {"mediaType": image.media_type, "digest": image.digest, "size": image.size,
         "annotations": {"io.containerd.image.name": image.name}}
        for image in missing
    ]  # fmt: skip

    def write(stream: BinaryIO) -> None:
        with tar_stream(stream) as tar:
            add(tar, "oci-layout", canonical_json({"imageLayoutVersion": "1.0.0"}), 0o644)
            for blob in blobs:
                entry = tarfile.TarInfo(f"blobs/{blob.digest.replace(':', '/')}")
                entry.size, entry.mode = blob.size, 0o644
                with store.open(blob.digest) as data:
                    tar.addfile(entry, data)
            add(tar, "index.json", canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}), 0o644)

    node.run(f"{_CTR}$ctr -n k8s.io images import --no-unpack -", input=write, timeout=3600)
    return len(missing)


def bring_back(context: ClusterContext, after: str) -> Step:
    """Fill new registries with the images of the applications that the records of a restored cluster name."""
    spec = context.spec

    def tell(node: Node, domains: Sequence[str]) -> None:
        files = preparation.machine_files(context.resolved, node, domains)
        install_files(node, {path: file for path, file in files.items() if path.startswith(_CERTS_D)})

    def fill(node: Node, layout: registry.Layout) -> None:
        context.exchange.bring(node, layout.name, lambda: registry.parcel(spec.store, layout))
        registry.name(node, spec.store, layout)

    def action() -> str:
        apps = records.listed(context.kubectl)
        if not apps:
            return "none"
        each(spec.nodes, lambda node: tell(node, [domain for app in apps for domain in app.domains]))
        if spec.elsewhere is None:
            layout = registry.layout(spec.store, records.union(apps, spec.store))
            each(spec.registries, lambda node: fill(node, layout))
        return ", ".join(app.name for app in apps)

    return Step("bring-back-applications", "restore the images of applications", action, after=(after,))
