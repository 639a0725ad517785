"""images/<name>/Dockerfile -> container image, built by the engine and kept as an OCI image in the store.

A line ``# image: NAME:TAG`` above a ``FROM`` says which image that stage is. The name may hold the Dockerfile's build arguments:
``# image: slipway.dev/kube-proxy:${VERSION}`` serves every version that is asked for. The Dockerfiles are ordinary and
build anywhere; what we add is a base made from the archive where it cannot be pulled, and digests that depend on the content only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from harness import engine, log, packages, paths, process, scratch
from harness.errors import BuildError, CommandError, EngineError, Fault, InputError
from harness.oci.deflate import GzipWriter
from harness.oci.layer import Layer
from harness.oci.model import EPOCH, OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.oci.store import Store

_IMAGE = re.compile(r"#\s*image:\s*(?P<name>\S+)\s*$")
_FROM = re.compile(r"FROM\s+(?:--platform=\S+\s+)?(?P<base>\S+)(?:\s+AS\s+(?P<stage>\S+))?\s*$", re.IGNORECASE)
_ARG = re.compile(r"ARG\s+(?P<name>\w+)(?:=(?P<value>\S*))?\s*$", re.IGNORECASE)
_PAINT = re.compile(r"\x1b\[[0-9;]*m")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
LABEL_KEY = "dev.slipway.key"
FORMAT = "1"
"""Part of every key: raise it when the conversion below changes what it writes."""


@dataclasses.dataclass(frozen=True)
class Definition:
    """One image that a folder of images/ yields. ``pattern`` is its name, with ``${ARG}`` left in; ``target`` its stage."""

    folder: Path
    pattern: str
    target: str | None
    arguments: tuple[tuple[str, str], ...]
    bases: tuple[str, ...]

    def match(self, reference: str) -> dict[str, str] | None:
        """The build arguments with which this definition is ``reference`` (a familiar name); None when it never is."""
        parts = _VARIABLE.split(self.pattern)
        expression = "".join(re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/:]+)" for index, part in enumerate(parts))
        found = re.fullmatch(expression, reference)
        return None if found is None else found.groupdict()

    @property
    def name(self) -> str:
        """The name with the Dockerfile's own defaults."""
        return _VARIABLE.sub(lambda found: dict(self.arguments).get(found[1], ""), self.pattern)


def definitions(root: Path) -> tuple[Definition, ...]:
    """Every image that ``root``/<name>/Dockerfile define. Raises InputError for two folders that define one name."""
    found = [definition for path in sorted(root.glob("*/Dockerfile")) for definition in _read(path)]
    names = [definition.pattern for definition in found]
    faults = [
        Fault(f"{definition.folder}/Dockerfile", f"{definition.pattern} is defined twice")
        for index, definition in enumerate(found)
        if definition.pattern in names[:index]
    ]
    if faults:
        raise InputError(faults)
    return tuple(found)


def bundled() -> list[Path]:
    """The images/ that came with the package: those of a checkout, or those that the wheel carries."""
    package = Path(__file__).parent
    return [path for path in (package.parent / "images", package / "assets" / "images") if path.is_dir()]


def _read(path: Path) -> Iterator[Definition]:
    arguments: dict[str, str] = {}
    stages: list[tuple[str, str | None, str | None]] = []
    pending: str | None = None
    for line in path.read_text().splitlines():
        if found := _IMAGE.match(line.strip()):
            pending = found["name"]
        elif found := _FROM.match(line.strip()):
            stages.append((found["base"], found["stage"], pending))
            pending = None
        elif found := _ARG.match(line.strip()):
            arguments.setdefault(found["name"], found["value"] or "")
    internal = {stage for _, stage, _ in stages if stage} | {"scratch"}
    bases = tuple(dict.fromkeys(base for base, _, _ in stages if base not in internal))
    for _, stage, name in stages:
        if name:
            yield Definition(path.parent, name, stage, tuple(arguments.items()), bases)


@dataclasses.dataclass(frozen=True)
class Builder:
    """Builds the images of ``roots`` when something asks for them by name; ``store`` keeps the results."""

    store: Store
    roots: tuple[Path, ...]

    def find(self, reference: Reference) -> tuple[Definition, dict[str, str]] | None:
        """The definition that yields ``reference`` and the build arguments it takes; None when no folder does."""
        for root in self.roots:
            for definition in definitions(root):
                arguments = definition.match(reference.familiar)
                if arguments is not None:
                    return definition, arguments
        return None

    def ensure(self, reference: Reference, arguments: Mapping[str, str] | None = None) -> Descriptor | None:
        """The manifest of ``reference``, built if its inputs are new; None when no folder defines it.

        ``arguments`` are offered to the Dockerfile, which takes those it declares. Raises BuildError with the engine's output.
        """
        found = self.find(reference)
        if found is None:
            return None
        definition, bound = found
        wanted = {**{key: value for key, value in (arguments or {}).items() if key in dict(definition.arguments)}, **bound}
        key = self._key(definition, wanted)
        record = self.store.record("container-image", key)
        if record is not None:
            descriptor = Descriptor.from_json(record["manifest"])
            if self.store.has(descriptor.digest):
                return descriptor
        with log.step(f"build container image {reference.familiar}"):
            identity = self.build(definition, wanted, reference.familiar)
            descriptor = export(identity, self.store)
        self.store.keep(
            "container-image", key, {"name": str(reference), "manifest": descriptor.to_json(), "blobs": _blobs(self.store, descriptor)}
        )
        return descriptor

    def key(self, reference: Reference) -> str | None:
        """What an image of ours is made from, as a digest; None when no folder defines it."""
        found = self.find(reference)
        return None if found is None else self._key(*found)

    def engine_image(self, client: engine.Client, reference: Reference) -> str:
        """Have an image in the engine (to run it there), built only when its inputs are new; its id. Raises BuildError."""
        found = self.find(reference)
        if found is None:
            ensure_base(client, reference.familiar)
            return str(client.images.get(reference.familiar).id)
        key = self._key(*found)
        try:
            present = client.images.get(reference.familiar)
        except engine.NotFound:
            present = None
        if present is not None and present.labels.get(LABEL_KEY) == key:
            return str(present.id)
        with log.step(f"build container image {reference.familiar}"):
            return self.build(*found, reference.familiar)

    def build(self, definition: Definition, arguments: Mapping[str, str], tag: str) -> str:
        """Build with the engine, tag the result there, return the engine's image id. Raises BuildError."""
        client = engine.connect(timeout=3600)
        for base in definition.bases:
            own = self.find(Reference.parse(base))
            if own is None:
                ensure_base(client, base)
            else:
                self.build(own[0], own[1], base)
        # Host network: the archive and mirrors that this machine reaches are what the build reaches, loopback included.
        stream = client.api.build(
            path=str(definition.folder), tag=tag, target=definition.target or "", buildargs=dict(arguments), network_mode="host", rm=True,
            forcerm=True, decode=True, labels={LABEL_KEY: self._key(definition, arguments)},
        )  # fmt: skip
        said = ""
        identity = ""
        for event in stream:
            # The engine paints what goes to standard error, and may cut it anywhere.
            said += _PAINT.sub("", str(event.get("stream", "")))
            if "error" in event:
                lines = [line for line in said.splitlines() if line.strip()]
                for line in lines:
                    log.debug(line)
                raise BuildError(f"{definition.folder}/Dockerfile: {event['error']}", details="\n".join(lines[-30:]))
            identity = event.get("aux", {}).get("ID", identity)
        return identity or str(client.images.get(tag).id)

    def _key(self, definition: Definition, arguments: Mapping[str, str]) -> str:
        digest = hashlib.sha256()
        described = [FORMAT, definition.pattern, definition.target, sorted(arguments.items()), paths.architecture()]
        for base in definition.bases:
            own = self.find(Reference.parse(base))
            described.append(self._key(*own) if own else base)
        digest.update(json.dumps(described).encode())
        for path in sorted(definition.folder.rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(definition.folder)} {path.stat().st_mode & 0o777:o}\n".encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def _blobs(store: Store, manifest: Descriptor) -> list[str]:
    document = json.loads(store.read(manifest.digest))
    return [manifest.digest, document["config"]["digest"], *(entry["digest"] for entry in document["layers"])]


def ensure_base(client: engine.Client, name: str) -> None:
    """Have the base image ``name`` in the engine: there already, pulled, or (Debian) made from the package archive."""
    try:
        client.images.get(name)
    except engine.NotFound:
        pass
    else:
        return
    with log.step(f"base image {name}") as shown:
        try:
            client.images.pull(name)
            shown.note = "pulled"
        except engine.APIError as error:
            made = re.fullmatch(r"debian:(\w+)-slim", name)
            if made is None:
                raise BuildError(f"the base image {name} cannot be pulled: {error.explanation or error}") from error
            make_debian(client, name, made[1])
            shown.note = "made from the package archive"


def make_debian(client: engine.Client, name: str, suite: str) -> None:
    """Make a minimal Debian from the archives that apt uses here and give it to the engine as ``name``."""
    try:
        program = packages.ensure("mmdebstrap", "mmdebstrap")
    except CommandError as error:
        raise EngineError(f"{name} cannot be pulled, and making it needs mmdebstrap", hint=error.hint) from error
    with tempfile.TemporaryDirectory(prefix="slipway-base-", dir=scratch.folder()) as work:
        tree = Path(work, "base.tar")
        sources = [str(path) for path in _apt_sources(suite)]
        # apt's own settings (mirrors without a valid-until date, proxies) hold for the base as they hold for this machine.
        dump = process.run(["apt-config", "dump"]).stdout
        settings = [line for line in dump.splitlines() if re.match(r'Acquire::(Check-|Retries|https?::Proxy )[^"]*"[^@"]*";', line)]
        Path(work, "50host").write_text("\n".join(settings) + "\n")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc")]
        hook = f"--customize-hook=copy-in {work}/50host /etc/apt/apt.conf.d"
        process.run(
            [program, "--quiet", "--variant=minbase", "--include=ca-certificates", hook, *left_out, suite, tree, *sources],
            env={"SOURCE_DATE_EPOCH": "0"},
        )
        repository, tag = name.split(":")
        client.api.import_image(src=str(tree), repository=repository, tag=tag, changes=['CMD ["bash"]'])


def _apt_sources(suite: str) -> list[Path]:
    places = [
        *Path("/etc/apt/sources.list.d").glob("*.sources"),
        Path("/etc/apt/sources.list"),
        *Path("/etc/apt/sources.list.d").glob("*.list"),
    ]
    return sorted(path for path in places if path.exists() and re.search(rf"\b{suite}\b", path.read_text()))


def export(identity: str, store: Store) -> Descriptor:
    """Take an image out of the engine into the store as an OCI image whose digest depends on its content alone.

    Docker writes the time of the build into files, layers and config; all of that is set to the epoch here.
    """
    client = engine.connect()
    with tempfile.TemporaryFile(dir=scratch.folder()) as archive:
        for chunk in client.images.get(identity).save(chunk_size=1 << 20):
            archive.write(chunk)
        archive.seek(0)
        return convert(archive, store)


def convert(archive: IO[bytes], store: Store) -> Descriptor:
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

        entry = json.load(opened("manifest.json"))[0]
        config = json.load(opened(entry["Config"]))
        layers = [_normalise(opened(name), store) for name in entry["Layers"]]
    return _manifest(store, config, [one for one in layers if one is not None])


def _normalise(source: IO[bytes], store: Store) -> Layer | None:
    """One layer of the engine as a gzip layer with its times set to the epoch; None when it changes nothing.

    Owners stay, unlike those of a rootfs: a container image's files may belong to the user that its process runs as.
    """
    digest = hashlib.sha256()
    seen = 0
    with store.writer() as blob, GzipWriter(blob.write) as compressed:
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
    return Layer(Descriptor(OCI_LAYER_GZIP, blob.digest, blob.size), f"sha256:{digest.hexdigest()}") if seen else None


class _Tee:
    """A sink that hashes what passes through it."""

    def __init__(self, sink: GzipWriter, digest: Any) -> None:
        self.sink = sink
        self.digest = digest

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.sink.write(data)
        return len(data)


def _manifest(store: Store, docker: Mapping[str, Any], layers: list[Layer]) -> Descriptor:
    kept = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal")
    settings = {key: value for key in kept if (value := (docker.get("config") or {}).get(key))}
    labels = {name: value for name, value in settings.pop("Labels", {}).items() if name != LABEL_KEY}
    settings |= {"Labels": labels} if labels else {}
    config = canonical_json({
        "architecture": docker["architecture"], "os": docker["os"], "created": EPOCH, "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [one.diff_id for one in layers]},
    })  # fmt: skip
    digest, size = store.put(config)
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest, "size": size},
        "layers": [one.descriptor.to_json() for one in layers],
    })  # fmt: skip
    digest, size = store.put(manifest)
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=size)
