"""Kubefile -> CloudImage: layers, discovery of the container images by running them, and the image in the store.

``Kubefile text -> Kubefile -> steps with ids -> layers -> throw-away cluster -> image set -> index -> tag``

An image may be for several platforms. Layers are made for each; the cluster runs on this machine's, and what it pulled is what the
others need too, each resolved for its platform.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage, kubefile, log, templates
from harness.build import container_images, discover, dry_run, image_choice, releases, sandbox
from harness.build.capture import Proxy, PulledImage, collect
from harness.build.image_choice import ImageChoice
from harness.build.layers import BuildStep, LayerBuilder, cache_key_files
from harness.cloudimage import CloudImage, EmbeddedImage, History, ImageApp, ImageSet, Info, PlatformImage, elf
from harness.clusterfile import secrets
from harness.errors import BuildError, CheckError, CommandError, Fault, InputError, StoreError
from harness.host import scratch, tools
from harness.kubefile import Kubefile, applications, instructions, version_range
from harness.lifecycle.kube import readiness
from harness.oci.layer import Layer, LayerEntry, write_layer
from harness.oci.model import INDEXES, Platform, canonical_json
from harness.oci.reference import OWN_DOMAIN, Reference, as_asked
from harness.oci.registry import config
from harness.oci.registry.client import Client, Manifest
from harness.oci.registry.credentials import CredentialStore
from harness.oci.registry.fetcher import Fetcher, GuardedSource, LayoutSource, NoLogins, Permits, Source, Stream, stored_manifest
from harness.oci.store import Store
from harness.runtimes import Facts
from harness.sealer.image import convert, is_sealer
from harness.trust import policy

FORMAT = "1"
"""Part of every discovery key: raise it when a discovery would find something else."""

_KIND_LABELS = {"cni": instructions.LABEL_CNI, "csi": instructions.LABEL_CSI}


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """Settings of one build. ``discover`` holds ``pulled`` and ``declared``, or one of them; ``cluster`` is a key of CLUSTERS."""

    context: Path
    tag: str
    file: Path | None = None
    platforms: tuple[Platform, ...] = dataclasses.field(default_factory=lambda: (Platform.host(),))
    build_args: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_list: Path | None = None
    cluster: str = "kind"
    discover: tuple[str, ...] = ("pulled", "declared")
    settle: float = 5.0
    """Seconds for which nothing may change before the workloads count as settled."""
    timeout: float = 600.0
    """Seconds that the workloads may take to become ready."""
    use_cache: bool = True
    keep: bool = False
    network: str = container_images.BRIDGE
    """Network of RUN steps and Dockerfile builds: a key of container_images.NETWORKS."""
    images_from: str = image_choice.AUTO
    """Origin of the images that images/ defines: one of image_choice.MODES."""
    allow_login: tuple[str, ...] = ()
    """Repositories, as patterns, for which the cluster may pull with the user's logins although no file names them."""
    allow_older: bool = False
    """Take images of registries that were signed earlier than those that their tags meant before."""

    @property
    def path(self) -> Path:
        return self.file or self.context / "Kubefile"


@dataclasses.dataclass(frozen=True)
class Built:
    """Result of a build. ``cached``: every layer was in the store already; ``booted``: discovery ran a cluster."""

    image: CloudImage
    steps: tuple[BuildStep, ...]
    booted: bool
    undeclared: tuple[str, ...]
    unpulled: tuple[str, ...]

    @property
    def cached(self) -> bool:
        return all(step.cached for step in self.steps if step.layer) and not self.booted


def read(options: BuildOptions, platform: Platform) -> Kubefile:
    """Parse the Kubefile for one platform and compare it with the context. Raises InputError with every fault of both."""
    parsed = _parse(options, platform)
    applications.applications(parsed, options.context)
    return parsed


def _parse(options: BuildOptions, platform: Platform) -> Kubefile:
    path = options.path
    try:
        text = path.read_text()
    except FileNotFoundError as missing:
        raise InputError([Fault(str(path), "there is no Kubefile", "name it with --file, or the folder that holds it")]) from missing
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([Fault(str(path), f"cannot be read: {error}")]) from error
    return kubefile.parse(text, str(path), build_args=options.build_args, platform=str(platform), context=options.context)


def settled(options: BuildOptions) -> BuildOptions:
    """Return the options with SOURCE and VERSION of the Kubefile resolved, where the Kubefile or the user leaves them open.

    Resolved once per build: the download site may answer differently later, and all platforms need the same version. Raises BuildError
    when the version does not exist; ``read_all`` reports the faults of a Kubefile.
    """
    platform = options.platforms[0]
    try:
        source = releases.source(_parse(options, platform), options.images_from)
        resolved = _with_argument(options, "SOURCE", source)
        return _with_argument(resolved, "VERSION", releases.whole(_parse(resolved, platform), _image_roots(options.context)))
    except InputError:
        return options


def _with_argument(options: BuildOptions, name: str, value: str | None) -> BuildOptions:
    return options if value is None else dataclasses.replace(options, build_args={**options.build_args, name: value})


def read_all(options: BuildOptions) -> dict[Platform, Kubefile]:
    """Parse the Kubefile for each requested platform. Raises InputError with every fault, each once."""
    kubefiles: dict[Platform, Kubefile] = {}
    faults: dict[str, Fault] = {}
    for platform in options.platforms:
        try:
            kubefiles[platform] = read(options, platform)
        except InputError as error:
            faults.update({str(fault): fault for fault in error.faults})
    if faults:
        raise InputError(list(faults.values()))
    for warning in dict.fromkeys(str(warning) for parsed in kubefiles.values() for warning in parsed.warnings):
        log.warning(warning)
    return kubefiles


class _BuiltImages(Source):
    """Container images of images/, built when a cluster pulls them."""

    def __init__(self, builder: container_images.Builder, arguments: Mapping[str, str], choice: ImageChoice) -> None:
        self.builder = builder
        self.arguments = arguments
        self.choice = choice
        self.used: dict[str, str] = {}
        self.absent: set[str] = set()
        """Names in ``used`` that their registry does not have."""

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:  # noqa: ARG002 -- built images have one form
        if reference.digest:
            known = reference.digest in self.used.values()
            return stored_manifest(self.builder.store, reference.digest, "images/") if known else None
        return self.make(reference) if self.builder.builds(reference, self.choice) else None

    def make(self, reference: Reference) -> Manifest | None:
        """Build the image; None when no folder defines it. Raises BuildError."""
        manifest = self.builder.ensure(reference, self.arguments)
        if manifest is None:
            return None
        self.used[str(reference)] = manifest.digest
        return stored_manifest(self.builder.store, manifest.digest, "images/")

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        names = {
            name: digest_of_name for name, digest_of_name in self.used.items() if Reference.parse(name).repository == reference.repository
        }
        return LayoutSource(self.builder.store, names, "images/").blob(reference, digest, size)

    def admit(self, pinned: Reference) -> bool:
        return pinned.digest in self.used.values()

    def marked(self, image: EmbeddedImage) -> EmbeddedImage:
        """The image with its origin, when it was built here under the name of another project."""
        reference = Reference.parse(image.name)
        if self.used.get(image.name) != image.digest or reference.domain == OWN_DOMAIN:
            return image
        return dataclasses.replace(image, built=self.builder.origin(reference, self.arguments))

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Return True when every image that an earlier discovery built would be built again, with the same key."""
        absent = record.get("absent", ())
        built = {Reference.parse(name): (key, name in absent) for name, key in record["built"].items()}
        return all(self.builder.key(name) == key and (was_absent or self.choice.builds(name)) for name, (key, was_absent) in built.items())


class _BuiltAsLastResort(Source):
    """Container images of images/, built because their registry does not have them. The last source."""

    def __init__(self, own: _BuiltImages) -> None:
        self.own = own

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:  # noqa: ARG002
        if reference.digest or not self.own.choice.may_build(reference) or self.own.builder.find(reference) is None:
            return None
        built = self.own.make(reference)
        self.own.absent.add(str(reference))
        return built

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:  # noqa: ARG002
        return None

    def admit(self, pinned: Reference) -> bool:  # noqa: ARG002
        return False


def build(options: BuildOptions, store: Store) -> Built:
    """Build a CloudImage and tag it. Raises InputError, BuildError, StoreError or EngineError; the store stays whole."""
    options = settled(options)
    kubefiles = read_all(options)
    reference = _tag(options.tag)
    if options.network == container_images.HOST:
        log.warning(
            "--network host: RUN and Dockerfiles share the network of this machine: they reach its services on loopback, and abstract "
            "sockets; use it only for files that you trust"
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(store.shared_lease())
        stack.enter_context(scratch.cleaned())
        rules, permits = config.load(), Permits(options.allow_login)
        client, anonymous = Client(rules, CredentialStore()), Client(rules, NoLogins())
        stack.callback(client.close)
        stack.callback(anonymous.close)
        remote = GuardedSource(client, anonymous, permits, policy.gate(allow_older=options.allow_older).admit_remote)
        choice = ImageChoice(options.images_from, image_choice.probe(rules, NoLogins()))
        parts = [_part(options, platform, parsed, store, remote, choice, stack) for platform, parsed in kubefiles.items()]
        discovered = _discoveries(options, parts, lambda: _part_here(options, store, remote, choice, stack))
        descriptor = cloudimage.write(store, [part.image(discovered[part.platform]) for part in parts])
        store.tag(str(reference), descriptor)
        image = cloudimage.read(store, reference.familiar)
    steps = tuple(step for part in parts for step in part.steps)
    every = [discovered[part.platform] for part in parts]
    return Built(
        image, steps, any(images.booted for images in discovered.values()),
        tuple(dict.fromkeys(name for images in every for name in images.undeclared)),
        tuple(dict.fromkeys(name for images in every for name in images.unpulled)),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PlatformBuild:
    """A CloudImage under construction, for one platform: its rootfs is made, its container images are not known yet."""

    platform: Platform
    parsed: Kubefile
    base: PlatformImage | None
    apps: tuple[applications.KubefileApp, ...]
    info: Info
    work: LayerBuilder
    sources: tuple[Source, ...]
    own: _BuiltImages
    steps: tuple[BuildStep, ...]
    permits: Permits

    @property
    def foreign(self) -> bool:
        """True when this machine cannot run the platform."""
        return not self.platform.matches(Platform.host())

    def image(self, discovered: DiscoveredImages) -> PlatformImage:
        return PlatformImage(
            platform=self.platform,
            layers=tuple(layer.descriptor for layer in self.work.layers),
            diff_ids=tuple(layer.diff_id for layer in self.work.layers),
            history=(
                *(self.base.history if self.base else ()),
                *(History(step.text, step.id, step.layer is None) for step in self.steps),
            ),
            info=self.info,
            images=(self.base.images if self.base else ImageSet()).union(discovered.images).sorted(),
        )


def _part(
    options: BuildOptions, platform: Platform, parsed: Kubefile, store: Store, remote: GuardedSource,
    choice: ImageChoice, stack: contextlib.ExitStack,
) -> PlatformBuild:  # fmt: skip
    """Make the rootfs for one platform."""
    if len(options.platforms) > 1 or options.platforms != (platform,):
        log.info(f"for {platform}:")
    base = _base(parsed, store, platform)
    builder = container_images.Builder(store, _image_roots(options.context), platform, options.network, options.allow_older)
    arguments = {name: value for item in parsed.of(instructions.Arg) for name, value in item.values.items() if value is not None}
    own = _BuiltImages(builder, arguments, choice)
    embedded = {image.name: image.digest for image in base.images.images} if base else {}
    remote.permits.declare([*embedded, *(copy.from_image for copy in parsed.of(instructions.Copy) if copy.from_image)])
    sources: tuple[Source, ...] = (LayoutSource(store, embedded, "base image"), own, remote, _BuiltAsLastResort(own))
    work = stack.enter_context(_layer_builder(options, parsed, store, builder, sources, base, choice))
    steps = _layers(parsed, work)
    apps = applications.applications(parsed, options.context)
    info = _info(parsed, apps, base, work, store)
    steps += _helm_layer(info, work, parsed, platform)
    for warning in exposed(parsed, info, steps):
        log.warning(warning)
    part = PlatformBuild(platform, parsed, base, apps, info, work, sources, own, tuple(steps), remote.permits)
    if part.foreign:
        _warn_of_misfits(part)
    return part


def exposed(parsed: Kubefile, info: Info, steps: Sequence[BuildStep]) -> list[str]:
    """Return a warning for each build argument that looks like a secret and whose value the image holds in clear."""
    written = json.dumps([info.to_json(), [step.text for step in steps]], ensure_ascii=False)
    return [
        f"{parsed.where(instruction)}: the value of ARG {name} looks like a secret and is written into the image in clear: "
        "use {{ " + name + " }} in a file or ${" + name + "} in ENV, and give the value to `slipway run -e`"
        for instruction in parsed.of(instructions.Arg)
        for name, value in instruction.values.items()
        if value and secrets.is_secret(name, value) and json.dumps(value, ensure_ascii=False)[1:-1] in written
    ]


def _part_here(
    options: BuildOptions, store: Store, remote: GuardedSource, choice: ImageChoice, stack: contextlib.ExitStack
) -> PlatformBuild:
    """Make the rootfs for this machine's platform, only to run it. Raises BuildError."""
    here = Platform.host()
    try:
        return _part(options, here, read(options, here), store, remote, choice, stack)
    except BuildError as error:
        platforms = ", ".join(str(platform) for platform in options.platforms)
        hint = (
            f"container images for {platforms} are found by running the image on this machine, as {here}; --discover declared avoids that"
        )
        raise BuildError(error.message, hint=f"{error.hint}; {hint}" if error.hint else hint, details=error.details) from error


def _warn_of_misfits(part: PlatformBuild) -> None:
    """Warn of programs for another processor. They are rarely intended, but there may be a reason, so the build does not fail."""
    wrong = elf.misfits(part.work.store, part.work.layers, part.platform)
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        log.warning(f"{part.parsed.path}: not for {part.platform}: {', '.join(wrong[:5])}{more}; ${{ARCH}} in a COPY takes the right file")


def _discoveries(
    options: BuildOptions, parts: Sequence[PlatformBuild], make_here: Callable[[], PlatformBuild]
) -> dict[Platform, DiscoveredImages]:
    """Discover the container images of each platform. Only this machine's platform can run, so it is first, requested or not."""
    here = next((part for part in parts if not part.foreign), None)
    runs = "pulled" in options.discover and any(part.info.kubernetes for part in parts)
    if here is None and runs:
        here = make_here()
    discovered = {here.platform: ImageDiscovery(options, here).images()} if here else {}
    seen = discovered[here.platform].images if here and runs else None
    for part in parts:
        if part.foreign:
            discovered[part.platform] = ImageDiscovery(options, part, seen).images()
    return discovered


def _tag(text: str) -> Reference:
    try:
        reference = Reference.parse(text)
    except ValueError as error:
        raise InputError([Fault(f"--tag {text}", str(error))]) from error
    if reference.digest:
        raise InputError([Fault(f"--tag {text}", "a tag cannot hold a digest")])
    return reference


def _image_roots(context: Path) -> tuple[Path, ...]:
    """Folders that may hold <name>/Dockerfile: images/ in the context, images/ beside its kubefiles/ folder, then slipway's own."""
    absolute = context.resolve()
    candidates = [absolute / "images", absolute.parent.parent / "images", *container_images.bundled()]
    roots = [path for path in candidates if any(path.glob("*/Dockerfile"))]
    return tuple(dict.fromkeys(roots))


def _base(parsed: Kubefile, store: Store, platform: Platform) -> PlatformImage | None:
    if parsed.base.image == "scratch":
        return None
    where = parsed.where(parsed.base)
    try:
        descriptor = store.resolve(parsed.base.image)
        sealer = is_sealer(store, descriptor)
        image = None if sealer else cloudimage.read(store, parsed.base.image)
    except StoreError as error:
        raise BuildError(
            f"{where}: the base image {parsed.base.image} is not in the local store: {error.message}",
            hint=error.hint or "build, pull or load it first",
        ) from error
    try:
        policy.admit(store, parsed.base.image, descriptor.digest)
        return _converted(parsed, store, platform) if image is None else image.platform(platform)
    except StoreError as error:
        raise BuildError(f"{where}: the base image {error.message}", hint=error.hint) from error


def _converted(parsed: Kubefile, store: Store, platform: Platform) -> PlatformImage:
    """Convert a base image of sealer to a CloudImage; log what cannot be restored."""
    where = parsed.where(parsed.base)
    try:
        conversion = convert(store, parsed.base.image, platform=platform)
    except StoreError as error:
        raise BuildError(f"{where}: {error.message}", hint=error.hint) from error
    for problem in conversion.problems:
        log.warning(f"{where}: {conversion.source.name}: {problem}")
    for note in conversion.notes:
        log.info(f"{where}: {conversion.source.name}: {note}")
    return conversion.platforms[0]


def _layer_builder(
    options: BuildOptions, parsed: Kubefile, store: Store, builder: container_images.Builder, sources: Sequence[Source],
    base: PlatformImage | None, choice: ImageChoice,
) -> LayerBuilder:  # fmt: skip
    layers = [Layer(descriptor, diff_id) for descriptor, diff_id in zip(base.layers, base.diff_ids, strict=True)] if base else []
    parent = hashlib.sha256(canonical_json([parsed.platform, *(layer.diff_id for layer in layers)])).hexdigest()
    work = LayerBuilder(store, builder, Fetcher(sources, store), options.context, base=layers, parent=parent, choice=choice)
    work.use_cache = options.use_cache
    log.debug(f"{parsed.path}: {len(parsed.instructions)} instructions on {parsed.base.image}")
    return work


def _layers(parsed: Kubefile, work: LayerBuilder) -> list[BuildStep]:
    """Perform every instruction; only those that make files are displayed."""
    steps = []
    for instruction in parsed.instructions:
        if not isinstance(instruction, instructions.Copy | instructions.AppInstruction | instructions.Run):
            step = work.perform(parsed, instruction)
            # The value of a build argument may be confidential: an image lists the names, not the values.
            if isinstance(instruction, instructions.Arg):
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


def _info(parsed: Kubefile, apps: Sequence[applications.KubefileApp], base: PlatformImage | None, work: LayerBuilder, store: Store) -> Info:
    """Run settings of the image. Environment, labels and applications of the base are inherited; its launch unless it is replaced."""
    inherited = base.info if base else Info(type="app")
    own = tuple(
        ImageApp(app.name, app.kind, app.files, dict(app.env), app.commands, _role_labels(app)) for app in apps
    )  # fmt: skip
    names = {app.name for app in own}
    kept = tuple(_overridden(parsed, app) for app in inherited.apps if app.name not in names)
    every = (*kept, *own)
    launch = applications.launch(parsed, {app.name: app.commands for app in every}, {app.name: dict(app.env) for app in every})
    labels = {**inherited.labels, **parsed.labels, **{key: value for app in own for key, value in app.labels.items()}}
    cluster_apps = (*inherited.cluster_apps, *(app.name for app in own if app.labels and app.name not in inherited.cluster_apps))
    version = _kubernetes(work, store) or inherited.kubernetes
    if parsed.kube_version and version and not version_range.satisfies(version, parsed.kube_version):
        raise BuildError(f"{parsed.path}: KUBEVERSION {parsed.kube_version} does not admit Kubernetes {version} of the base image")
    reference = {"reference": parsed.base.image, "digest": _digest_of(parsed, store, base)} if base else None
    return Info(
        type="kube" if version or inherited.type == "kube" else "app", kubernetes=version, env={**inherited.env, **parsed.environment},
        launch=launch if parsed.launch or parsed.commands else inherited.launch,
        apps=every, labels=labels, base=reference, kube_version=parsed.kube_version or inherited.kube_version, cluster_apps=cluster_apps,
        converted_from=None if "etc/slipway.yaml" in work.files() else inherited.converted_from,
    )  # fmt: skip


def _role_labels(app: applications.KubefileApp) -> dict[str, str]:
    return {f"{_KIND_LABELS[app.role]}{app.name}": "true"} if app.role in _KIND_LABELS else {}


def _overridden(parsed: Kubefile, app: ImageApp) -> ImageApp:
    """An application of the base, with APPCMDS and APPENV of this Kubefile applied."""
    commands, env = applications.overrides(parsed, app.name)
    return dataclasses.replace(app, commands=app.commands if commands is None else commands, env={**app.env, **env})


def _digest_of(parsed: Kubefile, store: Store, base: PlatformImage) -> str:
    """Digest of the base as an image for this platform alone, so that the result does not depend on its other platforms."""
    named = store.resolve(parsed.base.image)
    if base.info.converted_from and is_sealer(store, named):
        return base.info.converted_from["digest"]
    whole = cloudimage.read(store, parsed.base.image)
    return whole.digest if len(whole.platforms) == 1 else cloudimage.write(store, [base]).digest


def _kubernetes(work: LayerBuilder, store: Store) -> str | None:
    """Kubernetes version according to the rootfs."""
    if "etc/slipway.yaml" not in work.files():
        return None
    record_key = hashlib.sha256(canonical_json([list(work.files()["etc/slipway.yaml"])])).hexdigest()
    record = store.record("facts", record_key)
    if record is None:
        facts = sandbox.facts(work.tree())
        record = {"kubernetes": facts.kubernetes if facts else ""}
        store.keep("facts", record_key, record)
    return str(record["kubernetes"]) or None


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
        listed = self.options.image_list.read_text() if self.options.image_list else ""
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
        declared, listed = self._declared(tree, env, app_env)
        templates.render_tree(tree, env, app_env)
        pulled, owners = self._pulled_elsewhere(), self._owners()
        boots = "pulled" in self.options.discover and facts is not None and not self.part.foreign
        if boots and facts is not None:
            self._build_ahead((*declared, *listed))
            pulled, owners = self._boot(tree, facts, env)
        elif "pulled" in self.options.discover and self.part.platform == self.options.platforms[0] and facts is None:
            log.warning(f"{self.part.parsed.path}: the image has no Kubernetes to run on, so only declared images are known")
        collected = collect(
            pulled, declared, listed=listed, store=self.work.store, sources=self.part.sources, platform=self.part.platform
        )  # fmt: skip
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

    def _declared(
        self, tree: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]]
    ) -> tuple[tuple[discover.DeclaredImage, ...], tuple[discover.DeclaredImage, ...]]:
        """Images that manifests and charts declare, and images in lists. Raises InputError for a manifest that is not YAML."""
        helm = tools.helm() if any(path.rpartition("/")[2] == "Chart.yaml" for path in self.work.files()) else None
        with log.step("read the images that files declare") as shown:
            version = self.info.kubernetes
            given = self.options.image_list
            scan = discover.declared(tree, env=env, app_env=app_env, image_list=given, helm=helm, kube_version=version)
            shown.note = f"{len(scan.images)} found"
        self.part.permits.declare(item.name for item in scan.images)
        for warning in scan.warnings:
            log.warning(str(warning))
        for item in scan.possible:
            log.warning(f"{item.where}: {item.name} may be an image, but no pod runs it; if it is needed, put it in an image list")
        listed = tuple(item for item in scan.images if item.found_by == "listed")
        declared = tuple(item for item in scan.images if item.found_by == "declared")
        return (declared if "declared" in self.options.discover else ()), listed

    def _build_ahead(self, named: Sequence[discover.DeclaredImage]) -> None:
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
            readiness.settle(box, timeout=self.options.timeout, quiet=self.options.settle)
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


def check(options: BuildOptions) -> dict[str, Any]:
    """Return what ``build --check`` prints, as JSON values. Needs neither base image nor engine nor network. Raises InputError."""
    if options.images_from == image_choice.AUTO:
        options = dataclasses.replace(options, images_from=image_choice.BUILT)
    options = settled(options)
    plans = [dry_run.plan(parsed, options.context) for parsed in read_all(options).values()]
    return plans[0] if len(plans) == 1 else {**plans[0], "platforms": [plan["platform"] for plan in plans]}
