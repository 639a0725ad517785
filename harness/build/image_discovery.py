"""Discovery of container images: pulled in a run on a throw-away cluster, and declared in files."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage, log
from harness.build import container_images, discover, sandbox
from harness.build.capture import Proxy
from harness.build.declared_images import DeclaredImage, ScanResult
from harness.build.image_lists import shim_lists, with_shim_lists
from harness.build.image_set import collect
from harness.build.layers import LayerBuilder, cache_key_files
from harness.build.options import BuildOptions
from harness.build.platform_build import PlatformBuild
from harness.build.pull_record import PulledImage
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.errors import BuildError, CheckError, InputError
from harness.host import scratch, tools
from harness.kubefile import instructions
from harness.lifecycle.kube import wait
from harness.oci.model import INDEXES, Platform, canonical_json
from harness.oci.reference import Reference, as_asked
from harness.oci.registry.sources import Source
from harness.oci.store import Store
from harness.runtimes import Facts
from harness.templates.tree import render_tree

FORMAT = "1"
"""Part of every discovery key: raise it when a discovery would find something else."""

_QUIET_SHARE = 0.25
"""Of the time that workloads took to become ready: an operator on a busy machine makes its own pods late, too."""


def discover_images(
    options: BuildOptions, parts: Sequence[PlatformBuild], build_for_host: Callable[[], PlatformBuild]
) -> dict[Platform, DiscoveredImages]:
    """Discover the container images of each platform. Only this machine's platform can run, so it is first, requested or not."""
    here = next((part for part in parts if not part.foreign), None)
    runs = "pulled" in options.discover and any(part.info.kubernetes for part in parts)
    if here is None and runs:
        here = build_for_host()
    discovered = {here.platform: ImageDiscovery(options, here).images()} if here else {}
    seen = discovered[here.platform].images if here and runs else None
    for part in parts:
        if part.foreign:
            discovered[part.platform] = ImageDiscovery(options, part, seen).images()
    return discovered


@dataclasses.dataclass(frozen=True)
class DiscoveredImages:
    images: ImageSet
    booted: bool
    undeclared: tuple[str, ...]
    unpulled: tuple[str, ...]


def _requested_by(image: cloudimage.EmbeddedImage, workloads: Sequence[str]) -> cloudimage.EmbeddedImage:
    return dataclasses.replace(image, requested_by=tuple(sorted({*image.requested_by, *workloads})))


@dataclasses.dataclass
class ImageDiscovery:
    """Discovery of the container images that the cluster needs: pulled in a test run, and declared in its files."""

    options: BuildOptions
    part: PlatformBuild
    seen: ImageSet | None = None
    """For a platform that this machine cannot run: the images that the run on this machine's own platform pulled."""

    @property
    def work(self) -> LayerBuilder:
        return self.part.work

    @property
    def info(self) -> Info:
        return self.part.info

    @property
    def embedded(self) -> ImageSet:
        """The container images of the base."""
        return self.part.base.images if self.part.base else ImageSet()

    def key(self) -> str:
        """Digest of everything that can change the outcome: files (not comments), launch, environment, list, kind of cluster; no README."""
        lists = [*([self.options.image_list] if self.options.image_list else []), *shim_lists(self.options.context)]
        listed = "".join(path.read_text(errors="replace") for path in lists)
        inherited = self.embedded.to_json() if self.part.base else None
        described: list[Any] = [
            FORMAT, str(self.part.platform), cache_key_files(self.work.files()), list(self.info.launch), self.info.to_json()["apps"],
            dict(self.info.env), listed, self.options.cluster, sorted(self.options.discover), inherited, self.options.images_from,
        ]  # fmt: skip
        if self.seen is not None:
            described.append(
                [[image.reference, image.digest, list(self._owners().get(image.reference, ()))] for image in self._pulled_elsewhere()]
            )
        return hashlib.sha256(canonical_json(described)).hexdigest()

    def _pulled_elsewhere(self) -> list[PulledImage]:
        """Images that the run on this machine pulled, to resolve for this platform. A manifest without index keeps only its name."""
        known = {image.name for image in self.embedded.images}
        return [
            PulledImage(image.name, image.digest if image.media_type in INDEXES and image.name not in known else "", image.media_type, "")
            for image in (self.seen.images if self.seen else ())
            if "pulled" in image.found_by
        ]

    def _owners(self) -> dict[str, tuple[str, ...]]:
        return {image.name: image.requested_by for image in self.seen.images if "pulled" in image.found_by} if self.seen else {}

    def images(self) -> DiscoveredImages:
        key = self.key()
        record = self.work.store.record("discovery", key) if self.options.use_cache else None
        if record is not None and self._still_holds(record):
            log.info("images: as discovered before; nothing that could change them has changed")
            return DiscoveredImages(ImageSet.from_json(record["images"]), False, tuple(record["undeclared"]), tuple(record["unpulled"]))
        discovered = self._run()
        value = {
            "images": discovered.images.to_json(), "undeclared": list(discovered.undeclared), "unpulled": list(discovered.unpulled),
            "built": {name: self.part.own.builder.key(Reference.parse(name)) for name in self.part.own.used},
            "absent": sorted(self.part.own.absent),
        }  # fmt: skip
        self.work.store.keep("discovery", key, value)
        return discovered

    def _still_holds(self, record: Mapping[str, Any]) -> bool:
        """Return False when an image of images/ would be built differently now, or when a blob has left the store."""
        return self.part.own.holds(record) and all(self.work.store.has(blob["digest"]) for blob in record["images"]["blobs"])

    def _run(self) -> DiscoveredImages:
        tree = self.work.tree()
        facts = sandbox.facts(tree)
        env = sandbox.environment(facts, self.info.env) if facts else dict(self.info.env)
        app_env = {app.name: {**env, **app.env} for app in self.info.apps}
        scan = self._scan(tree, env, app_env)
        # A value that is missing is a fault of this; only without one are the warnings of the scan worth reading.
        render_tree(tree, env, app_env)
        declared, listed = self._declared(scan)
        pulled, owners = self._pulled_elsewhere(), self._owners()
        boots = "pulled" in self.options.discover and facts is not None and not self.part.foreign
        if boots and facts is not None:
            self._build_ahead((*declared, *listed))
            pulled, owners = self._boot(tree, facts, env)
        elif "pulled" in self.options.discover and self.part.platform == self.options.platforms[0] and facts is None:
            log.warning(f"{self.part.parsed.path}: the image has no Kubernetes to run on, so only declared images are known")
        part = self.part
        collected = collect(pulled, declared, listed=listed, store=part.work.store, sources=part.sources, platform=part.platform)
        named = {str(as_asked(Reference.parse(item.name))) for item in (*declared, *listed)}
        asked = {image.reference for image in pulled}
        known = {image.name for image in self.embedded.images}
        owned = tuple(self.part.own.marked(_requested_by(image, owners.get(image.name, ()))) for image in collected.images)
        return DiscoveredImages(
            ImageSet(owned, collected.blobs),
            boots,
            tuple(sorted(asked - named - known)),
            tuple(sorted(named - asked - known)) if boots else (),
        )

    def _scan(self, tree: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]]) -> ScanResult:
        """Images that files of the tree name. Raises InputError for a manifest that is not YAML."""
        helm = tools.helm() if any(path.rpartition("/")[2] == "Chart.yaml" for path in self.work.files()) else None
        with log.step("read the images that files declare") as shown:
            version = self.info.kubernetes
            given = self.options.image_list
            scan = discover.declared(tree, env=env, app_env=app_env, image_list=given, helm=helm, kube_version=version)
            scan = with_shim_lists(scan, self.options.context, tree)
            if scan.faults:
                raise InputError(scan.faults)
            shown.note = f"{len(scan.images)} found"
        return scan

    def _declared(self, scan: ScanResult) -> tuple[tuple[DeclaredImage, ...], tuple[DeclaredImage, ...]]:
        """Images that manifests and charts declare, and images in lists."""
        self.part.permits.declare(item.name for item in scan.images)
        for warning in scan.warnings:
            log.warning(str(warning))
        for item in scan.possible:
            log.warning(f"{item.where}: {item.name} may be an image, but no pod runs it; if it is needed, put it in an image list")
        listed = tuple(item for item in scan.images if item.found_by == "listed")
        declared = tuple(item for item in scan.images if item.found_by == "declared")
        return (declared if "declared" in self.options.discover else ()), listed

    def _build_ahead(self, named: Sequence[DeclaredImage]) -> None:
        """Build the images of images/ that the cluster will pull: a kubelet times out on a pull that takes as long as a compile."""
        own = self.part.own
        for reference in dict.fromkeys(Reference.parse(item.name) for item in named):
            if not reference.digest and own.builder.builds(reference, own.choice):
                own.make(reference)

    def _boot(self, tree: Path, facts: Facts, env: Mapping[str, str]) -> tuple[list[PulledImage], dict[str, tuple[str, ...]]]:
        """Run the image on a throw-away cluster. Returns the pulled images, and for each image the workloads that use it."""
        own_network = any(label.startswith(instructions.LABEL_CNI) for app in self.info.apps for label in app.labels)
        plan = sandbox.SandboxPlan(tree, facts, env, self._image(), own_network, self.options.keep)
        make = CLUSTERS[self.options.cluster]
        with tempfile.TemporaryDirectory(prefix="slipway-cluster-", dir=scratch.folder()) as work:  # noqa: SIM117 -- reads better
            with make(plan, self.part.sources, self.work.store, self.part.own.builder, Path(work)) as box:
                # As on real nodes: the pod network is installed before they are Ready.
                cluster_apps = [command for app in self.info.apps if app.name in self.info.cluster_apps for command in app.commands]
                _launch(box, cluster_apps)
                with log.step("node ready"):
                    box.run("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s")
                _launch(box, [command for command in self.info.launch if command not in cluster_apps])
                with log.step("workloads ready") as shown:
                    self._settle(box, box.proxy)
                    shown.note = f"{len(box.proxy.pulled)} images pulled, {log.size(box.proxy.served_bytes)} served"
                return box.proxy.pulled, sandbox.requesters(box)

    def _image(self) -> PlatformImage:
        """The image under construction, with the container images of its base."""
        descriptors = tuple(layer.descriptor for layer in self.work.layers)
        diff_ids = tuple(layer.diff_id for layer in self.work.layers)
        return PlatformImage(self.part.platform, descriptors, diff_ids, (), self.info, self.embedded)

    def _settle(self, box: sandbox.Sandbox, proxy: Proxy) -> None:
        try:
            wait.settle(box, timeout=self.options.timeout, quiet=self.options.settle, quiet_share=_QUIET_SHARE)
        except CheckError as error:
            refused = [f"registry: {name}: {reason}" for name, reason in proxy.failures.items()]
            details = "\n".join([error.details or "", *refused]).strip()
            raise BuildError(
                f"the workloads of the image do not become ready: {error.message}", hint=error.hint, details=details
            ) from error


def _launch(box: sandbox.Sandbox, commands: Sequence[str]) -> None:
    for command in commands:
        with log.step(f"launch: {command}"):
            box.launch(command)


SandboxFactory = Callable[
    [sandbox.SandboxPlan, Sequence[Source], Store, container_images.Builder, Path], contextlib.AbstractContextManager[sandbox.Sandbox]
]
CLUSTERS: dict[str, SandboxFactory] = {"kind": sandbox.kind, "container": sandbox.container}
