"""images/<name>/Dockerfile -> container image, built by the engine and kept as an OCI image in the store.

A line ``# image: NAME:TAG`` above a ``FROM`` says which image that stage is. The name may hold the Dockerfile's build arguments:
``# image: slipway.dev/kube-proxy:${VERSION}`` serves every version. The Dockerfiles are ordinary and build anywhere;
slipway adds a base made from the Debian archive where it cannot be pulled, and digests that depend on the content only.

For another processor nothing is emulated as long as the Dockerfile does as those of images/ do: stages with RUN begin with
``FROM --platform=${BUILDPLATFORM:-linux}``, so they run on the machine that builds, and make files for ``TARGETARCH``. Go programs are
compiled on the machine and copied from ``go/`` (see image_context).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from harness import assets, log, process, untrusted
from harness.build import image_context
from harness.build.image_choice import ImageChoice
from harness.cloudimage import BuiltHere, elf
from harness.errors import BuildError, CommandError, EngineError, Fault, InputError
from harness.host import apt, docker, scratch, site_network
from harness.oci.admission import Admitted
from harness.oci.graph import below_of
from harness.oci.layer import Layer
from harness.oci.layer.compression import PROGRAMS, ZstdWriter
from harness.oci.layer.extract import open_layer
from harness.oci.model import EPOCH, OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Platform, canonical_json
from harness.oci.reference import Reference
from harness.oci.registry import config
from harness.oci.registry.client import Client
from harness.oci.registry.credentials import CredentialStore
from harness.oci.store import Store
from harness.trust.sbom import packages

_IMAGE = re.compile(r"#\s*image:\s*(?P<name>\S+)\s*$")
_FROM = image_context.FROM
_BUILDPLATFORM = re.compile(r"--platform=(\$BUILDPLATFORM|\$\{BUILDPLATFORM\})\s+")
_ARG = re.compile(r"ARG\s+(?P<name>\w+)(?:=(?P<value>\S*))?\s*$", re.IGNORECASE)
_PAINT = re.compile(r"\x1b\[[0-9;]*m")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
BRIDGE, HOST = "bridge", "host"
NETWORKS = (BRIDGE, HOST)
"""Docker's own network for containers, or this machine's, which only the user can ask for."""
_LONGEST_TAG = 100
"""Letters of a tag, of at most 128."""
_TOLD = 6
"""Packages that are named in a line."""
FORMAT = "3"
"""Part of every key: raise it when the conversion below changes what it writes."""


@dataclasses.dataclass(frozen=True)
class BaseImage:
    """Base image of a stage. ``here``: for the machine that builds (``FROM --platform=...``), not for the platform of the image."""

    name: str
    here: bool = False


@dataclasses.dataclass(frozen=True)
class Definition:
    """One image that a folder of images/ defines. ``pattern`` is its name, with ``${ARG}`` left in; ``target`` its stage."""

    folder: Path
    pattern: str
    target: str | None
    arguments: tuple[tuple[str, str], ...]
    bases: tuple[BaseImage, ...]

    def match(self, reference: Reference) -> dict[str, str] | None:
        """Build arguments that make this definition ``reference``, in its short or its full form; None when none do."""
        parts = _VARIABLE.split(self.pattern)
        expression = "".join(re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/:]+)" for index, part in enumerate(parts))
        matched = re.fullmatch(expression, reference.familiar) or re.fullmatch(expression, str(reference))
        return None if matched is None else matched.groupdict()

    def context(self, arguments: Mapping[str, str]) -> image_context.Context | None:
        """Build context for the build arguments of ``match``; None when their version cannot be built."""
        return image_context.plan(self.folder, self.target, arguments.get("VERSION", "") if "${VERSION}" in self.pattern else "")

    @property
    def name(self) -> str:
        """The name with the Dockerfile's own defaults."""
        return _VARIABLE.sub(lambda found: dict(self.arguments).get(found[1], ""), self.pattern)


def definitions(root: Path) -> tuple[Definition, ...]:
    """Every image that ``root``/<name>/Dockerfile define. Raises InputError for two folders that define one name."""
    images = [definition for path in sorted(root.glob("*/Dockerfile")) for definition in _read(path)]
    names = [definition.pattern for definition in images]
    faults = [
        Fault(f"{definition.folder}/Dockerfile", f"{definition.pattern} is defined twice")
        for index, definition in enumerate(images)
        if definition.pattern in names[:index]
    ]
    if faults:
        raise InputError(faults)
    return tuple(images)


def compiled_versions(reference: Reference, roots: Iterable[Path]) -> tuple[str, ...]:
    """Versions in which ``roots`` compile an image of this name, whatever tag ``reference`` has: ``v1.36.3``, the newest last."""
    matching = [definition for root in roots for definition in definitions(root) if definition.match(reference) is not None]
    return tuple(version for definition in matching for version in image_context.versions(definition.folder))


def bundled() -> list[Path]:
    """The images/ that came with the package: those of a checkout, or those that the wheel carries."""
    folder = assets.bundled("images")
    return [folder] if folder else []


def _read(path: Path) -> Iterator[Definition]:
    text = path.read_text()
    arguments: dict[str, str] = {}
    named: list[tuple[str | None, str]] = []
    pending: str | None = None
    for line in text.splitlines():
        if match := _IMAGE.match(line.strip()):
            pending = match["name"]
        elif match := _FROM.match(line.strip()):
            named += [(match["stage"], pending)] if pending else []
            pending = None
        elif match := _ARG.match(line.strip()):
            arguments.setdefault(match["name"], match["value"] or "")
    for stage, name in named:
        yield Definition(path.parent, name, stage, tuple(arguments.items()), _bases(text, stage))


def _bases(text: str, target: str | None) -> tuple[BaseImage, ...]:
    """Base images of a stage and of the stages that it copies from."""
    _, stages = image_context.needed(text, target)
    internal = {stage.name for stage in stages} | {"scratch"}
    return tuple(dict.fromkeys(BaseImage(stage.base, stage.here) for stage in stages if stage.base not in internal))


@dataclasses.dataclass(frozen=True)
class Builder:
    """Builds the images of ``roots`` for ``platform`` when something asks for them by name; ``store`` keeps the results."""

    store: Store
    roots: tuple[Path, ...]
    platform: Platform = dataclasses.field(default_factory=Platform.host)
    network: str = BRIDGE
    """Network of the steps: one of NETWORKS."""
    allow_older: bool = False
    """Take a base that was signed earlier than the one that its tag meant before."""

    def on(self, platform: Platform) -> Builder:
        """The builder of the same images for another platform."""
        return dataclasses.replace(self, platform=platform)

    @property
    def here(self) -> Builder:
        """The builder of what runs on this machine."""
        return self.on(Platform.host())

    @property
    def foreign(self) -> bool:
        return not self.platform.matches(Platform.host())

    def engine_name(self, name: str) -> str:
        """Name of image ``name`` in the engine, for this builder's platform.

        An image that ``roots`` define has its key in the tag, so that another checkout, which builds another image of that name at the
        same time, does not take over the name. A pulled image for this machine's platform keeps its name.
        """
        reference = Reference.parse(name)
        defined = self.find(reference)
        if defined is not None:
            return kept_name(reference, self._key(*defined))
        return foreign_name(name, self.platform) if self.foreign else name

    def find(self, reference: Reference) -> tuple[Definition, dict[str, str]] | None:
        """The definition that yields ``reference`` and the build arguments it takes; None when no folder does."""
        for root in self.roots:
            for definition in definitions(root):
                arguments = definition.match(reference)
                if arguments is not None and definition.context(arguments) is not None:
                    return definition, arguments
        return None

    def builds(self, reference: Reference, choice: ImageChoice) -> bool:
        """Return True for an image that a folder defines and that is built without a request to its registry."""
        return self.find(reference) is not None and choice.builds(reference)

    def ensure(self, reference: Reference, arguments: Mapping[str, str] | None = None) -> Descriptor | None:
        """The manifest of ``reference``, built if its inputs are new; None when no folder defines it.

        ``arguments`` are offered to the Dockerfile, which takes those it declares. Raises BuildError with the engine's output.
        """
        defined = self.find(reference)
        if defined is None:
            return None
        definition, bound = defined
        build_args = self._wanted(definition, bound, arguments)
        key = self._key(definition, build_args)
        record = self.store.record("container-image", key)
        if record is not None:
            descriptor = Descriptor.from_json(record["manifest"])
            if self.store.has(descriptor.digest):
                return descriptor
        with log.step(f"build container image {reference.familiar}{self._target()}") as shown:
            identity = self.build(definition, build_args, reference.familiar)
            descriptor = export(identity, self.store, self.platform)
            self._check(definition, descriptor)
            versions = packages_in(self.store, layers_of(self.store, descriptor))
            shown.note = asked_for(definition, versions) or ", ".join(self._modules(definition, build_args))
        self.store.keep(
            "container-image",
            key,
            {
                "name": str(reference),
                "manifest": descriptor.to_json(),
                "blobs": _blobs(self.store, descriptor),
                "packages": versions,
            },
        )
        return descriptor

    @staticmethod
    def _wanted(definition: Definition, bound: Mapping[str, str], arguments: Mapping[str, str] | None) -> dict[str, str]:
        """The offered arguments that the Dockerfile declares, and those that the image's name states."""
        return {**{key: value for key, value in (arguments or {}).items() if key in dict(definition.arguments)}, **bound}

    def _target(self) -> str:
        return f" for {self.platform}" if self.foreign else ""

    def _check(self, definition: Definition, manifest: Descriptor) -> None:
        """Refuse an image with programs for another processor: its Dockerfile ignores TARGETARCH and copied this machine's."""
        if not self.foreign:
            return
        wrong = elf.misfits(self.store, layers_of(self.store, manifest), self.platform)
        if wrong:
            raise BuildError(
                f"{definition.folder}/Dockerfile: {len(wrong)} programs of the image for {self.platform} are for another processor",
                hint="in a stage that runs here, fetch or compile for $TARGETARCH (ARG TARGETARCH), as `obtain` of the builder image does",
                details="\n".join(wrong[:20]),
            )

    def key(self, reference: Reference) -> str | None:
        """Digest of the inputs of an image; None when no folder defines it."""
        defined = self.find(reference)
        return None if defined is None else self._key(*defined)

    def origin(self, reference: Reference, arguments: Mapping[str, str] | None = None) -> BuiltHere | None:
        """Origin of a built image; None when no folder defines it or it was not built."""
        defined = self.find(reference)
        if defined is None:
            return None
        definition, bound = defined
        record = self.store.record("container-image", self._key(definition, self._wanted(definition, bound, arguments)))
        versions = record["packages"] if record else {}
        named = named_packages(definition, versions)
        parts = [*self._modules(definition, bound), *(f"{name} {version}" for name, version in named.items())]
        return BuiltHere(tuple(parts), f"images/{definition.folder.name}")

    @staticmethod
    def _modules(definition: Definition, arguments: Mapping[str, str]) -> tuple[str, ...]:
        """The Go modules that an image is compiled from."""
        context = definition.context(arguments)
        return context.modules if context else ()

    def engine_image(self, client: docker.Client, reference: Reference) -> str:
        """Have an image in the engine (to run it there), built only when its inputs are new; its name there. Raises BuildError."""
        name = self.engine_name(reference.familiar)
        defined = self.find(reference)
        if defined is None:
            ensure_base(client, reference.familiar, self.platform)
        elif not is_kept(client, name):
            with log.step(f"build container image {reference.familiar}{self._target()}") as shown:
                self.build(*defined, reference.familiar)
                versions = self._ask(client, name)
                shown.note = asked_for(defined[0], versions)
            self.store.keep("packages", self._key(*defined), {"packages": versions})
        return name

    def _ask(self, client: docker.Client, identity: str) -> dict[str, str]:
        """Debian packages of an image in the engine, from its package database; empty where it has none."""
        if self.foreign:
            return {}
        words = ["-c", "! command -v dpkg-query > /dev/null || dpkg-query --show --showformat '${Package} ${Version}\\n'"]
        try:
            code, output = docker.run_container(client, identity, words, entrypoint="/bin/sh", network_disabled=True)
        except docker.APIError:  # no shell in it
            return {}
        if code != 0:
            raise BuildError(f"image {identity} does not say which packages it has", details=output)
        return dict(sorted(line.split(" ", 1) for line in output.splitlines()))

    def made_from(self, reference: Reference) -> list[object]:
        """Inputs of an image that runs in the build, for the keys of its results: its own key and the versions of its packages.

        The versions are known once it was built. Raises BuildError.
        """
        key = self.key(reference)
        record = self.store.record("packages", str(key))
        if record is None:
            client = docker.connect()
            versions = self._ask(client, self.engine_image(client, reference))
            self.store.keep("packages", str(key), {"packages": versions})
            record = {"packages": versions}
        return [key, sorted(record["packages"].items())]

    def build(self, definition: Definition, arguments: Mapping[str, str], tag: str) -> str:
        """Build with the engine, name the result there, return the engine's image id. Raises BuildError."""
        client = docker.connect(timeout=3600)
        key = self._key(definition, arguments)
        name = kept_name(Reference.parse(tag), key)
        for base in definition.bases:
            self._ensure(client, definition, base)
        context = definition.context(arguments)
        if context is None:
            raise BuildError(
                f"{definition.folder}: {tag} cannot be compiled here",
                hint=f"there are {', '.join(image_context.versions(definition.folder))}",
            )
        with (
            context.written(self.platform.architecture) as folder,
            self._dockerfile(definition, context) as dockerfile,
            self._step_network(client) as network,
        ):
            # The classic builder has no security options for its steps, so they keep NET_RAW unless slipway started the engine.
            stream = client.api.build(
                path=str(folder), dockerfile=dockerfile, tag=name, target=definition.target or "",
                buildargs={**site_network.proxies(), **self._platform_arguments(definition), **arguments},
                labels={docker.LABEL_KEY: key},
                network_mode=network, container_limits=docker.STEP_LIMITS, rm=True, forcerm=True, decode=True,
            )  # fmt: skip
            identity = self._follow(definition, stream)
        return identity or str(client.images.get(name).id)

    @contextlib.contextmanager
    def _step_network(self, client: docker.Client) -> Iterator[str]:
        """Network for the steps of one Dockerfile: with NET_RAW a step could impersonate other containers on a shared bridge."""
        if self.network == HOST:
            yield HOST
            return
        with docker.network_apart(client) as name:
            yield name

    def _follow(self, definition: Definition, stream: Iterator[Mapping[str, Any]]) -> str:
        """Read what the engine says while it builds; the id of what it built. Raises BuildError."""
        output = ""
        identity = ""
        for event in stream:
            # The engine paints what goes to standard error, and may cut it anywhere.
            output += _PAINT.sub("", str(event.get("stream", "")))
            if "error" in event:
                lines = [line for line in output.splitlines() if line.strip()]
                for line in lines:
                    log.debug(line)
                hint = (
                    emulation_hint(self.platform) if is_foreign_program(f"{output}{event['error']}") else network_hint(output, self.network)
                )
                raise BuildError(f"{definition.folder}/Dockerfile: {event['error']}", hint=hint, details="\n".join(lines[-30:]))
            identity = event.get("aux", {}).get("ID", identity)
        return identity

    def _ensure(self, client: docker.Client, definition: Definition, base: BaseImage) -> None:
        """Provide the base image of a stage in the engine, for this machine or for the image's platform. Raises StoreError."""
        builder = self.here if base.here else self
        reference = Reference.parse(base.name)
        own = builder.find(reference)
        if own is not None:
            if not is_kept(client, builder.engine_name(base.name)):
                builder.build(*own, base.name)
            return
        # What the package's own Dockerfiles stand on is part of the package.
        is_ours = any(definition.folder.is_relative_to(root) for root in bundled())
        admitted = None if is_ours else _admit_base(reference, allow_older=self.allow_older)
        ensure_base(client, base.name, builder.platform)
        if admitted is not None:
            digests = client.images.get(builder.engine_name(base.name)).attrs.get("RepoDigests") or ()
            if not any(str(name).endswith(f"@{admitted.digest}") for name in digests):
                raise BuildError(
                    f"{definition.folder}/Dockerfile: the engine has another {base.name} than {admitted.digest}, which policy admits",
                    hint=f"docker pull {base.name}",
                )

    def _platform_arguments(self, definition: Definition) -> dict[str, str]:
        """Build arguments that BuildKit sets for a Dockerfile that declares them."""
        known = {
            "TARGETARCH": self.platform.architecture, "TARGETOS": self.platform.os, "TARGETPLATFORM": str(self.platform),
            "TARGETVARIANT": self.platform.variant, "BUILDARCH": Platform.host().architecture, "BUILDPLATFORM": str(Platform.host()),
        }  # fmt: skip
        return {name: value for name, value in known.items() if value and name in dict(definition.arguments)}

    @contextlib.contextmanager
    def _dockerfile(self, definition: Definition, context: image_context.Context) -> Iterator[str]:
        """The Dockerfile for the engine's classic build, which knows no platforms and builds every stage: bases get the names they have in
        the engine, stages that the target does not stand on are left out.
        """
        fitted = "".join(self._fitted(line, definition) for line in context.dockerfile.splitlines(keepends=True))
        with tempfile.TemporaryDirectory(prefix="dockerfile-", dir=scratch.folder()) as work:
            path = Path(work, "Dockerfile")
            path.write_text(fitted)
            yield str(path)

    def _fitted(self, line: str, definition: Definition) -> str:
        match = _FROM.match(line.strip())
        if match is None:
            return line
        base = BaseImage(match["base"], bool(match["here"]))
        line = _BUILDPLATFORM.sub("", line) if base.here else line
        if base not in definition.bases:
            return line
        start = line.index(base.name, line.upper().index("FROM") + 4)
        return line[:start] + (self.here if base.here else self).engine_name(base.name) + line[start + len(base.name) :]

    def _key(self, definition: Definition, arguments: Mapping[str, str]) -> str:
        digest = hashlib.sha256()
        processor = "/".join(part for part in (self.platform.architecture, self.platform.variant) if part)
        context = definition.context(arguments)
        described: list[object] = [FORMAT, definition.pattern, definition.target, sorted(arguments.items()), processor]
        described += context.described(self.platform.architecture) if context else []
        for base in definition.bases:
            builder = self.here if base.here else self
            own = builder.find(Reference.parse(base.name))
            described.append(builder._key(*own) if own else base.name)
        digest.update(json.dumps(described).encode())
        for path in context.files() if context else []:
            # Of the Dockerfile only the stages that are built count.
            if path != definition.folder / "Dockerfile":
                digest.update(f"{path.relative_to(definition.folder)} {path.stat().st_mode & 0o777:o}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def _admit_base(reference: Reference, *, allow_older: bool) -> Admitted | None:
    """Ask policy about the base image of a Dockerfile, as its registry has it now; None when no policy cares. Raises StoreError."""
    from harness.trust import policy  # here: its cryptography is slow to load

    gate = policy.gate(allow_older=allow_older)
    if not gate.asks(reference):
        return None
    with Client(config.load(), CredentialStore()) as client:
        named = dataclasses.replace(reference, tag=None) if reference.digest else reference
        return gate.admit_remote(client, dataclasses.replace(named, digest=reference.digest or client.manifest(reference).digest))


def kept_name(reference: Reference, key: str) -> str:
    """Name in the engine of an image built from inputs with this key: ``slipway.dev/node:13-0123456789ab``."""
    tag = f"{(reference.tag or '')[:_LONGEST_TAG]}-{key[: docker.SHORT_KEY]}"
    return dataclasses.replace(reference, tag=tag, digest=None).familiar


def is_kept(client: docker.Client, name: str) -> bool:
    """Return True when the engine has an image that slipway built under ``kept_name``, and mark it as used now."""
    try:
        present = client.images.get(name)
    except docker.NotFound:
        return False
    repository, _, tag = name.rpartition(":")
    # The engine records when an image was tagged last: prune finds idle images by that.
    present.tag(repository, tag)
    return True


def package_image(client: docker.Client, name: str) -> str:
    """Have an image of the package's own in the engine; its name there. Raises BuildError."""
    return Builder(Store.default(), tuple(bundled())).engine_image(client, Reference.parse(name))


def foreign_name(name: str, platform: Platform) -> str:
    """The tag under which an engine keeps image ``name`` for a platform that is not its own."""
    reference = Reference.parse(name)
    version = reference.tag or (reference.digest or "").removeprefix("sha256:")[:12]
    return dataclasses.replace(reference, tag=f"{version}-{str(platform).replace('/', '-')}", digest=None).familiar


def is_foreign_program(text: str) -> bool:
    """Return True when a program's output says that it could not start because it is for another processor."""
    return "exec format error" in text.lower()


def emulation_hint(platform: Platform) -> str:
    return (
        f"programs for {platform} do not run on this machine: let the step use this machine's, "
        "or have the kernel emulate (packages qemu-user-static and binfmt-support)"
    )


_NOT_REACHED = re.compile(r"127\.0\.0\.1|localhost|connection refused|could not connect|could not resolve|name resolution", re.IGNORECASE)


def network_hint(output: str, network: str) -> str | None:
    """Hint for a step without network access; None when its output shows no such failure."""
    if network == HOST or not _NOT_REACHED.search(output):
        return None
    return "steps run on a network of their own; what this machine alone reaches, as a mirror on 127.0.0.1, takes --network host"


def layers_of(store: Store, manifest: Descriptor) -> list[Layer]:
    """The layers of an image manifest that is in the store."""
    config, *layers = below_of(store.json(manifest.digest), manifest.digest)
    diff_ids = store.json(config.digest)["rootfs"]["diff_ids"]
    return [Layer(layer, diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True)]


def packages_in(store: Store, layers: Iterable[Layer]) -> dict[str, str]:
    """The Debian packages that files of an image are from, with the versions that the archive had: name -> version."""
    records: dict[str, bytes] = {}
    for layer in layers:
        with open_layer(store, layer.descriptor) as tar:
            for entry in tar:
                path = entry.name.removeprefix("./").removeprefix("rootfs/")
                if entry.kind == "file" and packages.is_record(path):
                    records[path] = tar.head(untrusted.FILE_LIMIT)
    return {package.name: package.version for package in packages.packages(records)}


def asked_for(definition: Definition, versions: Mapping[str, str]) -> str:
    """The packages that the Dockerfile names, with the versions that were found, in a line: some of them where they are many."""
    packages = [f"{name} {version}" for name, version in named_packages(definition, versions).items()]
    rest = [f"{len(packages) - _TOLD} more"] if len(packages) > _TOLD else []
    return ", ".join([*packages[:_TOLD], *rest])


def named_packages(definition: Definition, versions: Mapping[str, str]) -> dict[str, str]:
    """Packages of an image that its Dockerfile names, sorted."""
    words = set(re.findall(r"[a-z0-9][a-z0-9+.-]+", (definition.folder / "Dockerfile").read_text()))
    return {name: version for name, version in sorted(versions.items()) if name in words}


def _blobs(store: Store, manifest: Descriptor) -> list[str]:
    return [manifest.digest, *(blob.digest for blob in below_of(store.json(manifest.digest), manifest.digest))]


def ensure_base(client: docker.Client, name: str, platform: Platform | None = None) -> None:
    """Have the base image ``name`` in the engine: there already, pulled, or (Debian) made from the package archive.

    One for another platform than the engine's lies there as ``foreign_name()``.
    """
    foreign = platform is not None and not platform.matches(Platform.host())
    kept = foreign_name(name, platform) if foreign and platform else name
    try:
        client.images.get(kept)
    except docker.NotFound:
        pass
    else:
        return
    with log.step(f"base image {name}{f' for {platform}' if foreign else ''}") as shown:
        try:
            if foreign and platform:
                _pull_foreign(client, name, kept, platform)
            else:
                client.images.pull(name)
            shown.note = "pulled"
        except docker.APIError as error:
            debian = re.fullmatch(r"debian:(\w+)-slim", name)
            if debian is None:
                raise BuildError(f"the base image {name} cannot be pulled: {error.explanation or error}") from error
            make_debian(client, kept, debian[1], platform or Platform.host())
            shown.note = "made from the package archive"


def _pull_foreign(client: docker.Client, name: str, kept: str, platform: Platform) -> None:
    """Pull an image for another platform. The engine gives it the name itself, so what had that name gets it back."""
    try:
        own = client.images.get(name)
    except docker.NotFound:
        own = None
    client.api.pull(name, platform=str(platform))
    repository, _, tag = kept.rpartition(":")
    client.images.get(name).tag(repository, tag)
    if own is not None:
        repository, _, tag = Reference.parse(name).familiar.rpartition(":")
        own.tag(repository, tag)
    else:
        client.images.remove(name, noprune=True)


def make_debian(client: docker.Client, name: str, suite: str, platform: Platform) -> None:
    """Make a minimal Debian from the archives that apt uses here and give it to the engine as ``name``.

    Its packages are set up by programs of their own, so for another processor the kernel must emulate it. Raises EngineError, BuildError.
    """
    try:
        program = apt.ensure("mmdebstrap", "mmdebstrap")
    except CommandError as error:
        raise EngineError(f"{name} cannot be pulled, and making it needs mmdebstrap", hint=error.hint) from error
    foreign = [] if platform.matches(Platform.host()) else [f"--architectures={platform.architecture}"]
    with tempfile.TemporaryDirectory(prefix="slipway-base-", dir=scratch.folder()) as work:
        tree = Path(work, "base.tar")
        sources = [str(path) for path in _apt_sources(suite)] or [f"deb {_archive()} {suite} main"]
        # apt's own settings (mirrors without a valid-until date, proxies) hold for the base as they hold for this machine.
        dump = process.run(["apt-config", "dump"]).stdout
        settings = [line for line in dump.splitlines() if re.match(r'Acquire::(Check-|Retries|https?::Proxy )[^"]*"[^@"]*";', line)]
        Path(work, "50host").write_text("\n".join(settings) + "\n")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc")]
        hook = f"--customize-hook=copy-in {work}/50host /etc/apt/apt.conf.d"
        words: list[str | Path] = [
            program,
            "--quiet",
            "--variant=minbase",
            "--include=ca-certificates",
            *foreign,
            hook,
            *left_out,
            suite,
            tree,
            *sources,
        ]
        try:
            process.run(words, env={"SOURCE_DATE_EPOCH": "0"})
        except CommandError as error:
            if not foreign:
                raise
            hint = emulation_hint(platform)
            raise BuildError(
                f"no Debian {suite} for {platform} can be made here: {error.message}", hint=hint, details=error.details
            ) from error
        repository, tag = name.split(":")
        client.api.import_image(src=str(tree), repository=repository, tag=tag, changes=['CMD ["bash"]'])


def _archive() -> str:
    """The address of the Debian archive that apt uses here."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages", "Origin: Debian"]
    archives = [word for word in process.run(words).stdout.split() if "security" not in word]
    if not archives:
        raise BuildError("apt has no index of a Debian archive", hint="apt-get update")
    return archives[0]


def _apt_sources(suite: str) -> list[Path]:
    places = [
        *Path("/etc/apt/sources.list.d").glob("*.sources"),
        Path("/etc/apt/sources.list"),
        *Path("/etc/apt/sources.list.d").glob("*.list"),
    ]
    return sorted(path for path in places if path.exists() and re.search(rf"\b{suite}\b", path.read_text()))


def export(identity: str, store: Store, platform: Platform) -> Descriptor:
    """Take an image out of the engine into the store as an OCI image for ``platform`` whose digest depends on its content alone.

    Docker writes the time of the build into files, layers and config; all of that is set to the epoch here.
    """
    client = docker.connect()
    with tempfile.TemporaryFile(dir=scratch.folder()) as archive:
        for chunk in client.images.get(identity).save(chunk_size=1 << 20):
            archive.write(chunk)
        archive.seek(0)
        return convert(archive, store, platform)


def convert(archive: IO[bytes], store: Store, platform: Platform) -> Descriptor:
    """A docker-archive (what ``docker save`` writes) with one image -> OCI manifest in ``store``. Keeps its layers apart."""
    with tarfile.open(fileobj=archive) as tar:
        members = {member.name: member for member in tar.getmembers()}

        def opened(name: str) -> IO[bytes]:
            member = members[name]
            if member.issym():  # older engines link a layer that several images share
                parts = (Path(name).parent / member.linkname).parts
                resolved: list[str] = []
                for part in parts:
                    resolved = resolved[:-1] if part == ".." else [*resolved, part]
                member = members["/".join(resolved)]
            stream = tar.extractfile(member)
            if stream is None:
                raise BuildError(f"the engine's archive holds no {name}")
            return stream

        entry = untrusted.json_document(opened("manifest.json").read(), what="the engine's archive")[0]
        config = untrusted.json_object(opened(entry["Config"]).read(), what="the engine's archive")
        layers = [_normalise(opened(name), store) for name in entry["Layers"]]
    return _manifest(store, config, [layer for layer in layers if layer is not None], platform)


def _normalise(source: IO[bytes], store: Store) -> Layer | None:
    """One layer of the engine as a zstd layer with its times set to the epoch; None when it changes nothing.

    Owners stay, unlike those of a rootfs: a container image's files may belong to the user that its process runs as.
    """
    digest = hashlib.sha256()
    seen = 0
    with store.writer() as blob, ZstdWriter(blob.write, PROGRAMS) as compressed:
        tee = _Tee(compressed, digest)
        # A stream, not a file: tarfile then pads with plain zeros and never seeks.
        with (
            tarfile.open(fileobj=source, mode="r|") as old,
            tarfile.open(fileobj=cast("IO[bytes]", tee), mode="w|", format=tarfile.PAX_FORMAT) as new,
        ):
            for member in old:
                member.mtime = 0
                member.uname = member.gname = ""
                member.pax_headers = {name: value for name, value in member.pax_headers.items() if name.startswith("SCHILY.xattr.")}
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
                seen += 1
    return Layer(Descriptor(OCI_LAYER_ZSTD, blob.digest, blob.size), f"sha256:{digest.hexdigest()}") if seen else None


class _Tee:
    """A sink that hashes what passes through it."""

    def __init__(self, sink: ZstdWriter, digest: Any) -> None:
        self.sink = sink
        self.digest = digest

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.sink.write(data)
        return len(data)


def _manifest(store: Store, docker_config: Mapping[str, Any], layers: list[Layer], platform: Platform) -> Descriptor:
    kept = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal")
    settings = {key: value for key in kept if (value := (docker_config.get("config") or {}).get(key))}
    labels = {name: value for name, value in settings.pop("Labels", {}).items() if name != docker.LABEL_KEY}
    settings |= {"Labels": labels} if labels else {}
    config = canonical_json({
        # Not what the engine says: it takes every image that it builds for its own.
        **platform.to_json(), "created": EPOCH, "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    })  # fmt: skip
    digest, size = store.put(config)
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest, "size": size},
        "layers": [layer.descriptor.to_json() for layer in layers],
    })  # fmt: skip
    digest, size = store.put(manifest)
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=size)
