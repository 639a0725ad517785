"""A CloudImage taken apart, to be broken in one place: what is not broken keeps its digest or gets the right one."""

from __future__ import annotations

import json
from typing import Any

from harness import cloudimage
from harness.cloudimage import (
    Blob,
    CloudImage,
    EmbeddedImage,
    ExpectedValue,
    History,
    ImageApp,
    ImageSet,
    Info,
    PlatformImage,
    ProvingRun,
    conformance,
)
from harness.cloudimage.conformance import ClauseOutcome, ConformanceReport
from harness.cloudimage.model import BLOB
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64

NAME = "web"
INFO = Info(
    kubernetes="v1.36.3",
    env={"MODE": "fast", "A": "ü"},
    launch=("export A=1 && kubectl apply -f manifests/a.yaml", "helm install web charts/web -f etc/values.yaml"),
    launch_template=("kubectl apply -f $FILE",),
    launch_arguments={"FILE": "manifests/a.yaml"},
    apps=(ImageApp("nginx", "kube", ("b.yaml",), {"P": "1"}, ("kubectl apply -f application/apps/nginx/b.yaml",), {"cni": "true"}),),
    labels={"org.example.team": "web"},
    base={"reference": "docker.io/library/kubernetes:v1.36.3", "digest": digest_of(b"base")},
    kube_version=">=1.20",
    cluster_apps=("nginx",),
    proven=ProvingRun({"reference": "kubernetes", "digest": digest_of(b"on")}, digest_of(b"exercise"), 1),
    values=(ExpectedValue("MODE", default="fast"), ExpectedValue("Password", required=True, secret=True)),
    merged_from=({"reference": "shop:1", "digest": digest_of(b"shop")},),
    converted_from={"tool": "sealer", "version": "0.10", "digest": digest_of(b"sealer")},
)
FILES = (
    [
        LayerEntry("bin", "dir"),
        LayerEntry("bin/kubelet", "file", 0o755, b"kubelet"),
        LayerEntry("bin/kubeadm", "symlink", target="kubelet"),
    ],
    [
        LayerEntry("application/apps/nginx/b.yaml", "file", 0o644, b"kind: Pod"),
        LayerEntry("charts/web/Chart.yaml", "file", 0o644, b"name: web"),
        LayerEntry("etc/values.yaml.tmpl", "file", 0o644, b"a: {{ .MODE }}"),
        LayerEntry("manifests/a.yaml", "file", 0o644, b"kind: Pod"),
    ],
)


def embedded_image(store: Store, platform: Platform, name: str, *layers: bytes) -> ImageSet:
    """A container image for two platforms, of which one is kept; a ``name`` that ends with ``@`` gets the digest."""
    config = Descriptor(OCI_CONFIG, *store.put(canonical_json(platform.to_json())))
    content = [Descriptor(OCI_LAYER_GZIP, *store.put(layer)) for layer in layers]
    value = {"schemaVersion": 2, "config": config.to_json(), "layers": [layer.to_json() for layer in content]}
    manifest = Descriptor(OCI_MANIFEST, *store.put(canonical_json(value)), platform=platform)
    elsewhere = Descriptor(OCI_MANIFEST, digest_of(b"other platform"), 14, platform=Platform("linux", "s390x"))
    entries = [manifest.to_json(), elsewhere.to_json()]
    index = Descriptor(OCI_INDEX, *store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})))
    name = f"{name}{index.digest}" if name.endswith("@") else name
    image = EmbeddedImage(name, index.digest, OCI_INDEX, index.size, ("pulled",), ("manifests/a.yaml:3",))
    blobs = (index, manifest, config, *content)
    return ImageSet((image,), tuple(Blob(blob.digest, blob.media_type, blob.size) for blob in blobs))


def part(store: Store, platform: Platform = AMD64, info: Info = INFO) -> PlatformImage:
    layers = [write_layer(entries, store) for entries in FILES]
    images = embedded_image(store, platform, "docker.io/library/nginx:1.25", b"base", b"nginx")
    images = images.union(embedded_image(store, platform, "quay.io/team/pinned@", b"pinned"))
    images = images.union(embedded_image(store, platform, "registry.k8s.io/pause:3.2", b"pause"))
    return PlatformImage(
        platform,
        tuple(layer.descriptor for layer in layers),
        tuple(layer.diff_id for layer in layers),
        (History("COPY bin", "sha256:1"), History("LABEL a=b", empty=True), History("COPY manifests")),
        info,
        images,
    )


def write(store: Store, *platforms: PlatformImage, name: str = NAME) -> CloudImage:
    store.tag(name, cloudimage.write(store, platforms or [part(store)]))
    return cloudimage.read(store, name)


def examined(store: Store, name: str = NAME) -> ConformanceReport:
    return conformance.check(store, name)


def failed(report: ConformanceReport) -> list[str]:
    return [result.clause.id for result in report.failed]


def evidence(report: ConformanceReport, clause: str) -> str:
    return "\n".join(next(result for result in report.results if result.clause.id == clause).evidence)


def outcome(report: ConformanceReport, clause: str) -> ClauseOutcome:
    return next(result.outcome for result in report.results if result.clause.id == clause)


class Draft:
    """The documents of an image for one platform, as plain values to change. ``save`` writes them and names the image."""

    def __init__(self, store: Store, image: CloudImage) -> None:
        self.store = store
        self.index: Any = store.json(image.digest)
        self.rootfs: Any = store.json(self.index["manifests"][0]["digest"])
        self.set: Any = store.json(self.index["manifests"][1]["digest"])
        self.config: Any = store.json(self.rootfs["config"]["digest"])
        self.images: Any = store.json(self.set["config"]["digest"])
        self.info: Any = json.loads(self.rootfs["annotations"]["dev.slipway.cloudimage"])
        self.bytes: dict[str, bytes] = {}
        """Bytes of a document by its name (``index``, ``rootfs``, ``set``, ``config``, ``images``) instead of what its value gives."""
        self.keep_info = True
        """Write ``info`` into the annotation."""
        self.root_type = OCI_INDEX

    @property
    def entry(self) -> Any:
        """Entry of the rootfs in the index."""
        return self.index["manifests"][0]

    @property
    def set_entry(self) -> Any:
        return self.index["manifests"][1]

    def add(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Put a blob; its descriptor."""
        return Descriptor(media_type, *self.store.put(data)).to_json()

    def embed(self, data: bytes, media_type: str) -> dict[str, Any]:
        """Add a blob to the image set, where the order wants it."""
        blob = self.add(data, media_type)
        self.images["blobs"] = sorted([*self.images["blobs"], blob], key=lambda each: str(each["digest"]))
        self.set["layers"] = sorted([*self.set["layers"], {**blob, "mediaType": BLOB}], key=lambda each: str(each["digest"]))
        return blob

    def drop(self, digest: str) -> None:
        """Remove a blob from the image set."""
        self.images["blobs"] = [blob for blob in self.images["blobs"] if blob["digest"] != digest]
        self.set["layers"] = [layer for layer in self.set["layers"] if layer["digest"] != digest]

    def layer(self, data: bytes, diff_id: str, media_type: str | None = None) -> None:
        """Put another layer in the place of the second one."""
        self.rootfs["layers"][1] = self.add(data, media_type or self.rootfs["layers"][1]["mediaType"])
        self.config["rootfs"]["diff_ids"][1] = diff_id

    def embedded(self, number: int) -> Any:
        """Manifest of an embedded image, behind its index."""
        index = self.store.json(self.images["images"][number]["digest"])
        return self.store.json(index["manifests"][0]["digest"])

    def save(self) -> str:
        """Write all documents, innermost first; the digest of the index."""
        if self.keep_info:
            self.rootfs["annotations"]["dev.slipway.cloudimage"] = canonical_json(self.info).decode()
        self._put("config", self.config, self.rootfs.get("config"))
        self._put("images", self.images, self.set.get("config"))
        self._put("rootfs", self.rootfs, self._at(0))
        self._put("set", self.set, self._at(1))
        digest, size = self.store.put(self.bytes.get("index", canonical_json(self.index)))
        self.store.tag(NAME, Descriptor(self.root_type, digest, size))
        return digest

    def _at(self, number: int) -> Any:
        entries = self.index.get("manifests")
        return entries[number] if isinstance(entries, list) and len(entries) > number else None

    def _put(self, name: str, value: Any, pointer: Any) -> None:
        digest, size = self.store.put(self.bytes.get(name, canonical_json(value)))
        if isinstance(pointer, dict) and not pointer.pop("as it is", False):
            pointer |= {"digest": digest, "size": size}
