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
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import log, untrusted
from harness.build import image_context
from harness.build.definitions import BaseImage, Definition, bundled, definitions
from harness.build.engine_export import export
from harness.build.engine_images import ensure_base, foreign_name, is_kept, kept_name
from harness.build.image_choice import ImageChoice
from harness.build.image_packages import asked_for, layers_of, named_packages, packages_in
from harness.build.run_steps import BRIDGE, HOST, emulation_hint, is_foreign_program, network_hint
from harness.cloudimage import BuiltHere, elf
from harness.errors import BuildError
from harness.host import docker, scratch, site_network
from harness.oci.admission import Admitted
from harness.oci.graph import below_of
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.registry import config
from harness.oci.registry.client import Client
from harness.oci.registry.credentials import CredentialStore
from harness.oci.store import Store

_BUILDPLATFORM = re.compile(r"--platform=(\$BUILDPLATFORM|\$\{BUILDPLATFORM\})\s+")
FORMAT = "3"
"""Part of every key: raise it when the conversion below changes what it writes."""


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
    hosts: tuple[str, ...] = ()
    """More names that the steps resolve: entries of run_steps.added_hosts. In no key: a name for a machine does not change what it has."""

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
        docker.lend_authorities(site_network.own_authorities())
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
                network_mode=network, extra_hosts=list(self.hosts), container_limits=docker.STEP_LIMITS, rm=True, forcerm=True, decode=True,
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
            output += untrusted.uncoloured(str(event.get("stream", "")))
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
        arguments = {
            "TARGETARCH": self.platform.architecture, "TARGETOS": self.platform.os, "TARGETPLATFORM": str(self.platform),
            "TARGETVARIANT": self.platform.variant, "BUILDARCH": Platform.host().architecture, "BUILDPLATFORM": str(Platform.host()),
        }  # fmt: skip
        return {name: value for name, value in arguments.items() if value and name in dict(definition.arguments)}

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
        match = image_context.FROM.match(line.strip())
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


def package_image(client: docker.Client, name: str) -> str:
    """Have an image of the package's own in the engine; its name there. Raises BuildError."""
    return Builder(Store.default(), tuple(bundled())).engine_image(client, Reference.parse(name))


def _blobs(store: Store, manifest: Descriptor) -> list[str]:
    return [manifest.digest, *(blob.digest for blob in below_of(store.json(manifest.digest), manifest.digest))]
