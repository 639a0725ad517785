"""The rootfs of a CloudImage for one platform: its base, its layers, its run settings."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from harness import log
from harness.build import container_images, dry_run, image_lock
from harness.build.base_image import base_image
from harness.build.built_images import BuiltAsLastResort, BuiltImages
from harness.build.expected_values import ImageValues
from harness.build.image_archives import ArchivedImages, ImageArchive, find_archives
from harness.build.image_choice import ImageChoice
from harness.build.image_info import exposed, image_info, image_values
from harness.build.image_lock import PinnedTags
from harness.build.layers import BuildStep, LayerBuilder
from harness.build.options import BuildOptions, image_roots, read
from harness.cloudimage import History, ImageSet, Info, PlatformImage, ProvingRun, elf
from harness.errors import BuildError, CommandError
from harness.host import tools
from harness.kubefile import Kubefile, applications
from harness.kubefile.instructions import AppInstruction, Arg, Copy, Exercise, Run
from harness.oci.layer import Layer, LayerEntry, write_layer
from harness.oci.model import Platform, canonical_json
from harness.oci.reference import OWN_DOMAIN, Reference
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.guarded import GuardedSource, Permits
from harness.oci.registry.sources import LayoutSource, Source
from harness.oci.store import Store


@dataclasses.dataclass(frozen=True)
class PlatformBuild:
    """A CloudImage under construction, for one platform: its rootfs is made, its container images are not known yet."""

    platform: Platform
    parsed: Kubefile
    base: PlatformImage | None
    info: Info
    work: LayerBuilder
    sources: tuple[Source, ...]
    own: BuiltImages
    steps: tuple[BuildStep, ...]
    permits: Permits
    archives: tuple[ImageArchive, ...] = ()
    """Container images as files of the build context."""
    locked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Digests of tags in the ``images.lock`` beside the Kubefile."""
    values: ImageValues = dataclasses.field(default_factory=ImageValues)
    """The values that its files expect."""

    @property
    def foreign(self) -> bool:
        """True when this machine cannot run the platform."""
        return not self.platform.matches(Platform.host())

    def image(self, discovered: ImageSet, proven: ProvingRun | None = None) -> PlatformImage:
        """The image with the container images of its base and those that were discovered; ``proven`` is the run that found them."""
        return PlatformImage(
            platform=self.platform,
            layers=tuple(layer.descriptor for layer in self.work.layers),
            diff_ids=tuple(layer.diff_id for layer in self.work.layers),
            history=(
                *(self.base.history if self.base else ()),
                *(History(step.text, step.id, step.layer is None) for step in self.steps),
            ),
            info=dataclasses.replace(self.info, proven=proven),
            images=(self.base.images if self.base else ImageSet()).union(discovered).sorted(),
        )

    def from_registries(self, discovered: ImageSet) -> Iterator[tuple[str, str]]:
        """Name and digest of each discovered image that a registry has: not of those of the base, of archives, and built here."""
        without_tag = {image.name for image in self.base.images.images} if self.base else set()
        without_tag |= {image.name for archive in self.archives for image in archive.images} | set(self.own.used)
        for image in discovered.images:
            if image.name not in without_tag and image.built is None and Reference.parse(image.name).domain != OWN_DOMAIN:
                yield image.name, image.digest


@dataclasses.dataclass(frozen=True)
class PlatformBuilder:
    """Makes the rootfs of each platform. What a build opens for it ends with ``stack``."""

    options: BuildOptions
    store: Store
    remote: GuardedSource
    choice: ImageChoice
    stack: contextlib.ExitStack

    def build(self, platform: Platform, parsed: Kubefile) -> PlatformBuild:
        """Make the rootfs for one platform. Raises BuildError."""
        options, store = self.options, self.store
        if len(options.platforms) > 1 or options.platforms != (platform,):
            log.info(f"for {platform}:")
        base = base_image(parsed, store, platform)
        builder = container_images.Builder(
            store, image_roots(options.context), platform, options.network, options.allow_older, options.hosts
        )
        arguments = {name: value for item in parsed.of(Arg) for name, value in item.values.items() if value is not None}
        own = BuiltImages(builder, arguments, self.choice)
        lock = image_lock.beside(options.path)
        archives = find_archives(options.context, dry_run.rootfs_files(parsed, options.context))
        embedded = {image.name: image.digest for image in base.images.images} if base else {}
        self.remote.permits.declare([*embedded, *(copy.from_image for copy in parsed.of(Copy) if copy.from_image)])
        sources: tuple[Source, ...] = (
            LayoutSource(store, embedded, "base image"),
            ArchivedImages(store, archives, platform, allow_older=options.allow_older),
            own,
            PinnedTags(self.remote, lock) if lock else self.remote,
            BuiltAsLastResort(own),
        )
        work = self.stack.enter_context(self._layer_builder(parsed, builder, sources, base))
        work.left_out = frozenset(archive.path for archive in archives)
        steps = _layers(parsed, work)
        info = image_info(parsed, applications.applications(parsed, options.context), base, work)
        steps += _helm_layer(info, work, parsed, platform)
        values = image_values(info, base, work)
        info = dataclasses.replace(info, env={**values.defaults, **info.env}, values=values.values)
        for warning in exposed(parsed, info, steps):
            log.warning(warning)
        part = PlatformBuild(platform, parsed, base, info, work, sources, own, tuple(steps), self.remote.permits, archives, lock, values)
        if part.foreign:
            _warn_of_misfits(part)
        return part

    def build_for_host(self) -> PlatformBuild:
        """Make the rootfs for this machine's platform, only to run it. Raises BuildError."""
        host = Platform.host()
        try:
            return self.build(host, read(self.options, host))
        except BuildError as error:
            platforms = ", ".join(str(platform) for platform in self.options.platforms)
            hint = (
                f"container images for {platforms} are found by running the image on this machine, as {host}; "
                "--discover declared avoids that, and --on none for an application"
            )
            raise BuildError(error.message, hint=f"{error.hint}; {hint}" if error.hint else hint, details=error.details) from error

    def _layer_builder(
        self, parsed: Kubefile, builder: container_images.Builder, sources: Sequence[Source], base: PlatformImage | None
    ) -> LayerBuilder:
        layers = [Layer(descriptor, diff_id) for descriptor, diff_id in zip(base.layers, base.diff_ids, strict=True)] if base else []
        parent = hashlib.sha256(canonical_json([parsed.platform, *(layer.diff_id for layer in layers)])).hexdigest()
        fetcher = Fetcher(sources, self.store)
        work = LayerBuilder(self.store, builder, fetcher, self.options.context, base=layers, parent=parent, choice=self.choice)
        work.use_cache = self.options.use_cache
        log.debug(f"{parsed.path}: {len(parsed.instructions)} instructions on {parsed.base.image}")
        return work


def _warn_of_misfits(part: PlatformBuild) -> None:
    """Warn of programs for another processor. They are rarely intended, but there may be a reason, so the build does not fail."""
    wrong = elf.misfits(part.work.store, part.work.layers, part.platform)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        log.warning(f"{part.parsed.path}: not for {part.platform}: {', '.join(wrong[:5])}{more}; ${{ARCH}} in a COPY takes the right file")


def _layers(parsed: Kubefile, work: LayerBuilder) -> list[BuildStep]:
    """Perform every instruction; only those that make files are displayed."""
    steps = []
    for instruction in parsed.instructions:
        if isinstance(instruction, Exercise):
            continue  # of the build, not of the image
        if not isinstance(instruction, Copy | AppInstruction | Run):
            step = work.perform(parsed, instruction)
            # The value of a build argument may be confidential: an image lists the names, not the values.
            if isinstance(instruction, Arg):
                step = dataclasses.replace(step, text=f"ARG {' '.join(instruction.values)}")
            steps.append(step)
            continue
        title = textwrap.shorten(instruction.text, 100, placeholder=" ...")
        with log.step(title) as shown:
            step = work.perform(parsed, instruction)
            size = step.layer.descriptor.size if step.layer else 0
            shown.note = "cached" if step.cached else log.size(size)
            steps.append(step)
    return steps


def _helm_layer(info: Info, work: LayerBuilder, parsed: Kubefile, platform: Platform) -> list[BuildStep]:
    """Add helm to an image whose launch commands use it: nodes have no helm. Raises BuildError when it cannot be compiled."""
    commands = [*info.launch, *(command for app in info.apps for command in app.commands)]
    if "bin/helm" in work.files() or not any("helm " in command for command in commands):
        return []
    with log.step("add bin/helm") as shown:
        identity = hashlib.sha256(canonical_json(["helm", tools.helm_key(platform.architecture)])).hexdigest()
        step = work.known(identity, "bin/helm, because a launch command needs it")
        if step is None:
            try:
                program = tools.pinned_helm(platform.architecture)
            except CommandError as error:
                raise BuildError(f"{parsed.path}: {error.message}", hint=error.hint, details=error.details) from error
            layer = write_layer([LayerEntry("bin", "dir", 0o755), LayerEntry("bin/helm", "file", 0o755, program)], work.store)
            step = work.remember(identity, "bin/helm, because a launch command needs it", layer)
        work.layers.append(step.layer)  # type: ignore[arg-type]
        shown.note = "cached" if step.cached else ""
        return [step]
