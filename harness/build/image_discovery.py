"""Discovery of container images: pulled in a run on a throw-away cluster, and declared in files."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage, log
from harness.build import cluster_base, cluster_run, container_images, discover, exercise, image_lock, sandbox, sandbox_plan
from harness.build.charts import is_chart
from harness.build.cluster_base import ClusterBase
from harness.build.cluster_run import ClusterRun, RootfsRun, RunRecord
from harness.build.declared_images import REFUSE, TAKE, DeclaredImage, ScanResult, unwanted, with_possible
from harness.build.image_lists import images_with_auth, shim_lists, with_shim_lists
from harness.build.image_set import collect
from harness.build.launch_commands import LaunchCommand, launch_commands
from harness.build.layers import LayerBuilder, cache_key_files
from harness.build.options import BuildOptions
from harness.build.platform_build import PlatformBuild
from harness.build.pull_record import PulledImage
from harness.build.sandbox_plan import SandboxApplication, SandboxPlan
from harness.cloudimage import ImageSet, Info, PlatformImage, ProvingRun
from harness.clusterfile import secrets
from harness.errors import BuildError, Fault, InputError, UsageError
from harness.host import scratch, tools
from harness.kubefile import applications, version_range
from harness.lifecycle.apps import records
from harness.lifecycle.steps.context import FACTS
from harness.oci.model import INDEXES, Platform, canonical_json
from harness.oci.reference import Reference, as_asked
from harness.oci.registry.sources import LayoutSource, Source
from harness.oci.store import Store
from harness.runtimes import Facts
from harness.templates.tree import render_tree

FORMAT = "2"
"""Part of every discovery key: raise it when a discovery would find something else."""


def discover_images(
    options: BuildOptions, parts: Sequence[PlatformBuild], build_for_host: Callable[[], PlatformBuild]
) -> dict[Platform, DiscoveredImages]:
    """Discover the container images of each platform. Only this machine's platform can run, so it is first, requested or not."""
    here = next((part for part in parts if not part.foreign), None)
    base = _base(options, parts[0])
    runs = "pulled" in options.discover and (base is not None or any(part.info.kubernetes for part in parts))
    if here is None and runs:
        here = build_for_host()
    discovered = {here.platform: ImageDiscovery(options, here, base=base).images()} if here else {}
    seen = discovered[here.platform].images if here and runs else None
    for part in parts:
        if part.foreign:
            discovered[part.platform] = ImageDiscovery(options, part, seen).images()
    return discovered


def _base(options: BuildOptions, part: PlatformBuild) -> ClusterBase | None:
    """The image that an application image runs on; None for an image with Kubernetes, and for an application that is only read.

    Raises InputError when ``--on`` is not for this image, and as ``cluster_base.choose`` does.
    """
    path = part.parsed.path
    if part.info.type == "kube":
        cluster_base.refuse(options.on, path)
        if "pulled" in options.discover and not _boots(part):
            log.warning(f"{path}: the image has no Kubernetes to run on, so only declared images are known")
        return None
    if "pulled" not in options.discover:
        return None
    named = options.on not in (cluster_base.AUTO, cluster_base.NONE)
    hooks = any(file.startswith("plugins/") for file in part.work.files())
    if not named and not part.info.launch and not hooks and not exercise.read(part.parsed, options.path.parent):
        log.info(f"{path}: there is nothing to launch, so only declared images are known")
        return None
    return cluster_base.choose(part.work.store, options.on, Platform.host(), part.info.kube_version, path)


def _boots(part: PlatformBuild) -> bool:
    """A cluster can be made of the rootfs alone. That of another tool has a Kubernetes, and no facts about it."""
    return FACTS in part.work.files()


@dataclasses.dataclass(frozen=True)
class DiscoveredImages:
    images: ImageSet
    booted: bool
    undeclared: tuple[str, ...]
    unpulled: tuple[str, ...]
    proven: ProvingRun | None = None


def _requested_by(image: cloudimage.EmbeddedImage, workloads: Sequence[str]) -> cloudimage.EmbeddedImage:
    return dataclasses.replace(image, requested_by=tuple(sorted({*image.requested_by, *workloads})))


@dataclasses.dataclass
class ImageDiscovery:
    """Discovery of the container images that the cluster needs: pulled in a test run, and declared in its files."""

    options: BuildOptions
    part: PlatformBuild
    seen: ImageSet | None = None
    """For a platform that this machine cannot run: the images that the run on this machine's own platform pulled."""
    base: ClusterBase | None = None
    """The image that an application image runs on."""

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

    @property
    def runs(self) -> bool:
        """The image runs on a throw-away cluster, its own or that of another image."""
        return "pulled" in self.options.discover and not self.part.foreign and (self.base is not None or _boots(self.part))

    @property
    def exercise(self) -> tuple[exercise.ExerciseStep, ...]:
        return exercise.read(self.part.parsed, self.options.path.parent)

    @property
    def proven(self) -> ProvingRun | None:
        """The run, as far as the rest of the image does not tell it."""
        if not self.runs:
            return None
        on = {"reference": self.base.reference, "digest": self.base.digest} if self.base else None
        run = ProvingRun(on, exercise.digest(self.exercise), self.options.workers)
        return run if run.to_json() else None

    @property
    def sources(self) -> tuple[Source, ...]:
        """Origins of container images. A base comes first: its images are in its cluster, under their names."""
        if self.base is None:
            return self.part.sources
        names = {image.name: image.digest for image in self.base.image.images.images}
        return (LayoutSource(self.work.store, names, "cluster image"), *self.part.sources)

    @functools.cached_property
    def _listed_with_auth(self) -> tuple[tuple[DeclaredImage, ...], tuple[Fault, ...]]:
        """Images of the ``imageListWithAuth.yaml`` of the context, and the faults in it."""
        return images_with_auth(self.options.context)

    def key(self) -> str:
        """Digest of everything that can change the outcome: files (not comments), launch, environment, list, kind of cluster; no README."""
        lists = [*([self.options.image_list] if self.options.image_list else []), *shim_lists(self.options.context)]
        listed = "".join(path.read_text(errors="replace") for path in lists)
        inherited = self.embedded.to_json() if self.part.base else None
        described: list[Any] = [
            FORMAT, str(self.part.platform), cache_key_files(self.work.files()), list(self.info.launch), self.info.to_json()["apps"],
            dict(self.info.env), listed, self.options.cluster, sorted(self.options.discover), inherited, self.options.images_from,
            self.options.possible, [image.name for image in self._listed_with_auth[0]], tools.present_kubectl() is not None,
            [dict(archive.listing.images) for archive in self.part.archives], dict(self.part.locked),
        ]  # fmt: skip
        if self.proven is not None:
            # The base by its digest: under another name it is the same.
            described.append([self.base and self.base.digest, self.proven.exercise, self.proven.workers])
        if values := self._values_of_key():
            described.append(values)
        if self.seen is not None:
            described.append(
                [[image.reference, image.digest, list(self._owners().get(image.reference, ()))] for image in self._pulled_elsewhere()]
            )
        return hashlib.sha256(canonical_json(described)).hexdigest()

    def _values_of_key(self) -> dict[str, str]:
        """The values that a run would have on top of ENV; those of secrets only as fingerprints."""
        values = self.part.values.environment(self.options.env)
        hidden = {value.name for value in self.info.values if value.secret}
        return {
            name: secrets.fingerprint(text, f"build.{name}") if name in hidden or secrets.is_secret(name, text) else text
            for name, text in values.items()
        }

    def _pulled_elsewhere(self) -> list[PulledImage]:
        """Images that the run on this machine pulled, to resolve for this platform. A manifest without index keeps only its name."""
        embedded_names = {image.name for image in self.embedded.images}
        return [
            PulledImage(
                image.name, image.digest if image.media_type in INDEXES and image.name not in embedded_names else "", image.media_type, ""
            )
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
            images = ImageSet.from_json(record["images"])
            return DiscoveredImages(images, False, tuple(record["undeclared"]), tuple(record["unpulled"]), self.proven)
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
        with contextlib.ExitStack() as stack:
            base = stack.enter_context(cluster_run.unpacked_base(self.work.store, self.base)) if self.base and self.runs else None
            return self._found(base)

    def _found(self, base: RootfsRun | None) -> DiscoveredImages:
        tree = self.work.tree()
        facts = sandbox_plan.facts(tree)
        values, overrides = self.part.values, self.options.env
        log.hide(*(overrides[value.name] for value in values.values if value.secret and value.name in overrides))
        if wrong := values.missing(overrides, booting=self.runs):
            raise InputError(wrong)
        for warning in values.warnings:
            log.warning(str(warning))
        # The scan has no stand-ins: an image that depends on a value is not declared under a name that is made up.
        defaults = {**self.info.env, **overrides}
        env = sandbox_plan.environment(facts, defaults) if facts else defaults
        if base is not None:
            env = sandbox_plan.application_environment(base.env, defaults)
        app_env = {app.name: {**env, **app.env, **overrides} for app in self.info.apps}
        scan = self._scan(tree, env, app_env)
        stand_ins = values.environment({})
        env = {**stand_ins, **env}
        # Only without a fault in a template are the warnings of the scan worth reading.
        render_tree(tree, env, {name: {**stand_ins, **own} for name, own in app_env.items()})
        if self.options.possible == TAKE:
            scan = with_possible(scan, TAKE)
        declared, listed = self._declared(scan)
        record = RunRecord(tuple(self._pulled_elsewhere()), self._owners(), frozenset())
        if self.runs:
            self._build_ahead((*declared, *listed))
            replaced = values.used(overrides)
            for value in values.values:
                if value.name in replaced:
                    log.info(f"{value.name}: {replaced[value.name]} stands in for it ({value.places}); -e {value.name}=VALUE gives another")
            with _naming(replaced):
                record = self._boot(base or RootfsRun(tree, _known(facts), env, self._image()), env)
            scan = _without(scan, record.pulled)
        self._report_possible(scan)
        self._report_unlocked([*(item.name for item in (*declared, *listed)), *(image.reference for image in record.pulled)])
        part = self.part
        collected = collect(record.pulled, declared, listed=listed, store=part.work.store, sources=self.sources, platform=part.platform)
        named = {str(as_asked(Reference.parse(item.name))) for item in (*declared, *listed)}
        asked = {image.reference for image in record.pulled}
        embedded = {image.name for image in self.embedded.images}
        owned = tuple(self._marked(_requested_by(image, record.owners.get(image.name, ()))) for image in collected.images)
        return DiscoveredImages(
            ImageSet(owned, collected.blobs),
            self.runs,
            tuple(sorted(asked - named - embedded)),
            tuple(sorted(named - asked - record.every - embedded)) if self.runs else (),
            self.proven,
        )

    def _marked(self, image: cloudimage.EmbeddedImage) -> cloudimage.EmbeddedImage:
        """The image with its origin when it was built under the name of another project, here or for the base."""
        same = next((other for other in (self.base.image.images.images if self.base else ()) if other.name == image.name), None)
        if same is not None and same.digest == image.digest and same.built:
            return dataclasses.replace(image, built=same.built)
        return self.part.own.marked(image)

    def _scan(self, tree: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]]) -> ScanResult:
        """Images that files of the tree name. Raises InputError for a manifest that is not YAML."""
        settings = discover.ScanSettings(
            env=env,
            app_env=app_env,
            image_list=self.options.image_list,
            launch=self._commands(),
            helm=tools.helm() if any(is_chart(path) for path in self.work.files()) else None,
            kube_version=self._kube_version(),
            kubectl=tools.present_kubectl(),
        )
        with log.step("read the images that files declare") as shown:
            scan = with_shim_lists(discover.discover(discover.files(tree), settings), self.options.context, tree)
            listed, faults = self._listed_with_auth
            if faults := (*scan.faults, *faults):
                raise InputError(faults)
            shown.note = f"{len(scan.names)} found" + (f", {len(scan.possible)} possible" if scan.possible else "")
        archived = [image for archive in self.part.archives for image in archive.images]
        return dataclasses.replace(scan, images=(*scan.images, *listed, *archived))

    def _kube_version(self) -> str | None:
        """The version that charts are rendered for: the image's own, that of its base, or the lowest that it admits."""
        own = self.info.kubernetes or (self.base.kubernetes if self.base else None)
        return own or (version_range.lowest(self.info.kube_version) if self.info.kube_version else None)

    def _commands(self) -> tuple[LaunchCommand, ...]:
        """Launch commands, and those of applications that the image does not launch by itself: a Clusterfile may."""
        idle = [
            applications.with_environment(command, app.env)
            for app in self.info.apps
            for command in app.commands
            if not any(launched.endswith(command) for launched in self.info.launch)
        ]
        return launch_commands(self.part.parsed, [*self.info.launch, *idle])

    def _report_possible(self, scan: ScanResult) -> None:
        """Warn of possible images that nothing needed so far. Raises InputError when they are to be refused."""
        if self.options.possible == REFUSE and scan.possible:
            raise InputError([unwanted(image) for image in scan.possible])
        for image in scan.possible:
            log.warning(f"{image.where}: {image.name} may be an image, but no pod runs it; --possible take includes it, or an image list")

    def _report_unlocked(self, images: Iterable[str]) -> None:
        """Warn of tags that an ``images.lock`` does not have: they mean what their registry says today."""
        if not self.part.locked or self.options.lock:
            return
        own = {image.name for archive in self.part.archives for image in archive.images}
        own |= {image.name for image in (*self.embedded.images, *(self.base.image.images.images if self.base else ()))}
        names = {name for name in images if not Reference.parse(name).digest}
        for name in sorted(names - set(self.part.locked) - own - set(self.part.own.used)):
            log.warning(f"{name} is not in {image_lock.NAME}: `slipway build --lock` adds it")

    def _declared(self, scan: ScanResult) -> tuple[tuple[DeclaredImage, ...], tuple[DeclaredImage, ...]]:
        """Images that manifests and charts declare, and images in lists."""
        self.part.permits.declare(item.name for item in scan.images)
        for warning in scan.warnings:
            log.warning(str(warning))
        listed = tuple(item for item in scan.images if item.found_by == "listed")
        declared = tuple(item for item in scan.images if item.found_by == "declared")
        return (declared if "declared" in self.options.discover else ()), listed

    def _build_ahead(self, named: Sequence[DeclaredImage]) -> None:
        """Build the images of images/ that the cluster will pull: a kubelet times out on a pull that takes as long as a compile.

        Those that the base, or the image of the cluster, embeds are in the store, wherever they were built.
        """
        own = self.part.own
        embedded = {image.name for image in (*self.embedded.images, *(self.base.image.images.images if self.base else ()))}
        for reference in dict.fromkeys(Reference.parse(item.name) for item in named):
            if not reference.digest and str(as_asked(reference)) not in embedded and own.builder.builds(reference, own.choice):
                own.make(reference)

    def _boot(self, rootfs: RootfsRun, env: Mapping[str, str]) -> RunRecord:
        """Run the image on a throw-away cluster of ``rootfs``; ``env`` is the application's when that is a base."""
        make = CLUSTERS[self.options.cluster]
        with tempfile.TemporaryDirectory(prefix="slipway-cluster-", dir=scratch.folder()) as work:

            def boot(plan: SandboxPlan) -> contextlib.AbstractContextManager[sandbox.Sandbox]:
                return make(plan, self.sources, self.work.store, self.part.own.builder, Path(work))

            run = ClusterRun(self.options, boot, self.exercise)
            if self.base is None:
                return run.of_cluster(rootfs)
            tree = self.work.tree()
            application = SandboxApplication(_application_name(self.options.tag), tree, env)
            return run.of_application(self.base, rootfs, application, cluster_run.application_commands(tree, self.info))

    def _image(self) -> PlatformImage:
        """The image under construction, with the container images of its base."""
        descriptors = tuple(layer.descriptor for layer in self.work.layers)
        diff_ids = tuple(layer.diff_id for layer in self.work.layers)
        return PlatformImage(self.part.platform, descriptors, diff_ids, (), self.info, self.embedded)


def _application_name(tag: str) -> str:
    """The name under which the application is installed in the run: that of `slipway apps install`, where the image's name gives one."""
    try:
        return records.name_of(tag)
    except UsageError:
        return "application"


def _known(facts: Facts | None) -> Facts:
    if facts is None:
        raise BuildError("the rootfs says no Kubernetes", hint="COPY etc/slipway.yaml, or build FROM an image with Kubernetes")
    return facts


def _without(scan: ScanResult, pulled: Sequence[PulledImage]) -> ScanResult:
    """The result without the possible images that the run pulled: they are known to be images."""
    names = {image.reference for image in pulled}
    return dataclasses.replace(scan, possible=tuple(image for image in scan.possible if image.name not in names))


@contextlib.contextmanager
def _naming(stand_ins: Mapping[str, str]) -> Iterator[None]:
    """Name the stand-ins in the error of a run that fails: first of all those that its output names."""
    try:
        yield
    except BuildError as error:
        if stand_ins:
            output = f"{error.message}\n{error.details or ''}"
            guilty = {name: text for name, text in stand_ins.items() if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", output)} or stand_ins
            values = ", ".join(f"{name}={text}" for name, text in guilty.items())
            options = " ".join(f"-e {name}=VALUE" for name in guilty)
            hint = f"it ran with what stands in for values that are not known yet ({values}); give real ones: slipway build {options}"
            error.hint = f"{error.hint}; {hint}" if error.hint else hint
        raise


SandboxFactory = Callable[
    [SandboxPlan, Sequence[Source], Store, container_images.Builder, Path], contextlib.AbstractContextManager[sandbox.Sandbox]
]
CLUSTERS: dict[str, SandboxFactory] = {"kind": sandbox.kind, "container": sandbox.container}
