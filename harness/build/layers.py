"""The steps of a Kubefile that make files: each becomes one layer, cached by its inputs."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import posixpath
import re
import shlex
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import urllib3

from harness import log, untrusted
from harness.build.container_images import Builder
from harness.build.definitions import compiled_versions
from harness.build.image_choice import ImageChoice
from harness.build.run_steps import emulation_hint, is_foreign_program, network_hint
from harness.errors import BuildError, SlipwayError, StoreError
from harness.host import docker, liveness, scratch, site_network
from harness.kubefile import Kubefile
from harness.kubefile import context as kubefile_context
from harness.kubefile.instructions import AppInstruction, Arg, Copy, Instruction, Run
from harness.oci import layer
from harness.oci.graph import descriptors
from harness.oci.layer import Layer, LayerEntry, tarball
from harness.oci.layer.extract import OPAQUE, WHITEOUT, open_layer
from harness.oci.layer.tar_reader import TarEntry, TarReader
from harness.oci.model import Descriptor, canonical_json
from harness.oci.reference import OWN_DOMAIN, Reference
from harness.oci.registry.fetcher import Fetcher
from harness.oci.store import Store

FORMAT = "2"
"""Part of every step id: raise it when a step's layer would come out differently."""

BUILDER_IMAGE = "slipway.dev/builder:12"
MOUNT = "/rootfs"

Index = Mapping[str, Sequence[str]]
"""Content of a layer: path -> kind, mode in octal, digest of the bytes, semantic digest (differs for YAML only)."""

_PLACEHOLDER = re.compile(r"\{\{-?\s*\.?(\w+)\s*-?\}\}")
_DOCUMENTATION = re.compile(r"(README|LICEN[CS]E|NOTICE|CHANGELOG)(\..*)?$|.*\.md$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class BuildStep:
    """One instruction that was performed: its layer (None when it makes no files), and whether the layer was cached."""

    id: str
    text: str
    layer: Layer | None
    cached: bool = False


class LayerBuilder:
    """Builds the layers of one image, in order. Use it in a ``with`` block: it may hold a temporary merged tree for RUN."""

    def __init__(
        self, store: Store, builder: Builder, fetcher: Fetcher, context: Path, *, base: Sequence[Layer], parent: str, choice: ImageChoice
    ) -> None:  # fmt: skip
        self.store = store
        self.builder = builder
        self.fetcher = fetcher
        self.choice = choice
        self.context = context
        self.layers = list(base)
        self.parent = parent
        self.use_cache = True
        self.left_out: frozenset[Path] = frozenset()
        """Files of the context that COPY does not put into a layer: archives whose images are embedded."""
        self._stack = contextlib.ExitStack()
        self._tree: Path | None = None
        self._tree_layers = 0
        self._files: dict[str, Sequence[str]] = {}
        self._files_layers = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The rootfs so far

    def files(self) -> dict[str, Sequence[str]]:
        """The merged rootfs: path -> facts, whiteouts applied. Merged once per layer, since every file of a COPY needs it."""
        if self._files_layers != len(self.layers):
            self._files = merged([index(self.store, layer_of_image) for layer_of_image in self.layers])
            self._files_layers = len(self.layers)
        return self._files

    def tree(self) -> Path:
        """The merged rootfs as a folder, unpacked on first use and kept up to date."""
        if self._tree is None:
            work = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rootfs-", dir=scratch.folder()))
            self._tree = Path(work, "rootfs")
            self._tree.mkdir()
        missing = self.layers[self._tree_layers :]
        layer.unpack(self.store, [missing_layer.descriptor for missing_layer in missing], self._tree)
        self._tree_layers = len(self.layers)
        return self._tree

    # Steps

    def perform(self, kubefile: Kubefile, instruction: Instruction) -> BuildStep:
        """Perform one instruction, or reuse its cached layer. Raises BuildError with its place in the Kubefile."""
        if isinstance(instruction, Copy):
            return self._guard(kubefile, instruction, self._copy)
        if isinstance(instruction, AppInstruction):
            return self._guard(kubefile, instruction, self._app)
        if isinstance(instruction, Run):
            return self._guard(kubefile, instruction, self._run)
        return BuildStep("", instruction.text, None)

    def _guard(self, kubefile: Kubefile, instruction: Any, action: Any) -> BuildStep:
        try:
            step: BuildStep = action(kubefile, instruction)
        except StoreError:
            raise
        except kubefile_context.ContextError as error:
            raise BuildError(f"{kubefile.where(instruction)}: {error.message}", hint=error.hint) from error
        except SlipwayError as error:
            raise BuildError(f"{kubefile.where(instruction)}: {error.message}", hint=error.hint, details=error.details) from error
        self.parent = step.id
        if step.layer is not None:
            self.layers.append(step.layer)
        return step

    def known(self, identity: str, text: str) -> BuildStep | None:
        """The cached step with that id, when its layer is still in the store."""
        record = self.store.record("step", identity) if self.use_cache else None
        if record is None:
            return None
        kept = Layer(Descriptor.from_json(record["layer"]), record["diffId"])
        return BuildStep(identity, text, kept, cached=True) if self.store.has(kept.descriptor.digest) else None

    def remember(self, identity: str, text: str, new_layer: Layer) -> BuildStep:
        """Record the layer of a step."""
        self.store.keep("step", identity, {"layer": new_layer.descriptor.to_json(), "diffId": new_layer.diff_id, "text": text})
        return BuildStep(identity, text, new_layer)

    def _identity(self, *inputs: object) -> str:
        return hashlib.sha256(canonical_json([FORMAT, self.parent, *inputs])).hexdigest()

    def _is_folder(self, path: str) -> bool:
        if kubefile_context.known_folder(path):
            return True
        facts = self.files().get(path)
        return facts is not None and facts[0] == "dir"

    def _copy(self, kubefile: Kubefile, instruction: Copy) -> BuildStep:
        if instruction.from_image:
            return self._copy_from(kubefile, instruction, instruction.from_image)
        entries: list[LayerEntry] = []
        with tempfile.TemporaryDirectory(prefix="copy-", dir=scratch.folder()) as work:
            local = [source for source in instruction.sources if source not in instruction.urls]
            placed = kubefile_context.place(
                self.context, local, instruction.destination, is_folder=self._is_folder, extract=instruction.add,
                parents=instruction.parents, exclude=instruction.exclude,
            )  # fmt: skip
            for number, item in enumerate(placed):
                if item.source.resolve() in self.left_out:
                    continue
                if item.archive:
                    entries += _unpacked(item.source, Path(work, str(number)), item.path)
                else:
                    entries.append(entry_of(item.source, item.path, instruction.chmod))
            for name, content in instruction.documents.items():
                target = kubefile_context.destination_of(instruction.destination, name, self._is_folder)
                entries.append(LayerEntry(target, "file", instruction.chmod or 0o644, content.encode()))
            for number, url in enumerate(instruction.urls):
                target = kubefile_context.destination_of(instruction.destination, kubefile_context.url_name(url), self._is_folder)
                entries.append(
                    LayerEntry(target, "file", instruction.chmod or 0o644, download(url, Path(work, f"url{number}"), instruction.checksum))
                )
            return self._write(instruction.text, entries)

    def _app(self, _kubefile: Kubefile, instruction: AppInstruction) -> BuildStep:
        local = [source for source in instruction.sources if source not in instruction.urls]
        placed = kubefile_context.place(self.context, local, instruction.folder, is_folder=self._is_folder)
        entries = [entry_of(item.source, item.path, None) for item in placed]
        with tempfile.TemporaryDirectory(prefix="app-", dir=scratch.folder()) as work:
            for number, url in enumerate(instruction.urls):
                target = instruction.folder + kubefile_context.url_name(url)
                entries.append(LayerEntry(target, "file", 0o644, download(url, Path(work, f"url{number}"))))
            return self._write(instruction.text, entries)

    def _write(self, text: str, entries: Iterable[LayerEntry]) -> BuildStep:
        ordered = sorted({entry.path: entry for entry in with_folders(entries)}.values(), key=lambda entry: entry.path)
        identity = self._identity("files", [_facts(entry) for entry in ordered])
        return self.known(identity, text) or self.remember(identity, text, layer.write_layer(ordered, self.store))

    def _copy_from(self, kubefile: Kubefile, instruction: Copy, image: str) -> BuildStep:
        manifest = self.manifest(image, kubefile)
        described: list[object] = [list(instruction.sources), instruction.destination, instruction.chmod]
        if instruction.parents or instruction.exclude:
            described.append([instruction.parents, list(instruction.exclude)])
        identity = self._identity("image", manifest.digest, *described, self._is_folder(instruction.destination))
        step = self.known(identity, instruction.text)
        if step:
            return step
        with tempfile.TemporaryDirectory(prefix="image-", dir=scratch.folder()) as work:
            tree = Path(work, "tree")
            layer.unpack(self.store, descriptors(self.store.read(manifest.digest))[1:], tree, links_out=True)
            placed = kubefile_context.place(
                tree, instruction.sources, instruction.destination, is_folder=self._is_folder, image=True,
                parents=instruction.parents, exclude=instruction.exclude,
            )  # fmt: skip
            entries = [entry_of(item.source, item.path, instruction.chmod) for item in placed]
            return self.remember(identity, instruction.text, layer.write_layer(with_folders(entries), self.store))

    def manifest(self, image: str, kubefile: Kubefile) -> Descriptor:
        """Manifest of a container image for this platform, built from images/ or pulled, with all blobs in the store."""
        reference = Reference.parse(image)
        if self.builder.builds(reference, self.choice):
            arguments = {name: value for arg in kubefile.of(Arg) for name, value in arg.values.items() if value is not None}
            built = self.builder.ensure(reference, arguments)
            if built is not None:
                return built
        if reference.domain == OWN_DOMAIN:
            available = compiled_versions(reference, self.builder.roots)
            raise BuildError(
                f"{reference.familiar} is an image of this project, and no Dockerfile in images/ builds it",
                hint=f"available versions: {', '.join(available)}" if available else None,
            )
        return pull(self.fetcher, self.store, reference, kubefile.platform)

    def _run(self, _kubefile: Kubefile, instruction: Run) -> BuildStep:
        command = list(instruction.command) if isinstance(instruction.command, tuple) else ["/bin/sh", "-c", instruction.command]
        builder = Reference.parse(BUILDER_IMAGE)
        identity = self._identity("run", command, dict(instruction.environment), self.builder.here.made_from(builder))
        step = self.known(identity, instruction.text)
        if step:
            return step
        tree = self.tree()
        before = layer.snapshot(tree)
        self._in_container(tree, command, instruction.environment)
        new_layer = layer.write_layer(with_folders(layer.diff(before, tree)), self.store)
        self._tree_layers += 1
        return self.remember(identity, instruction.text, new_layer)

    def _in_container(self, tree: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        client = docker.connect(timeout=24 * 3600)
        # Always for this machine: a step for another platform runs native programs, and ${ARCH} names the platform of its files.
        image = self.builder.here.engine_image(client, Reference.parse(BUILDER_IMAGE))
        # The files that the container made as root must be readable and removable for this process.
        owner = f"{os.getuid()}:{os.getgid()}"
        script = f'PATH="{MOUNT}/bin:$PATH"; export PATH; {shlex.join(command)}; code=$?; chown -R {owner} {MOUNT}; exit $code'
        volumes = {str(tree): {"bind": MOUNT, "mode": "rw"}}
        if (authorities := site_network.authorities()) is not None:
            volumes[str(authorities.resolve())] = {"bind": site_network.BUNDLE, "mode": "ro"}
        code, output = docker.run_container(
            client, image, ["/bin/sh", "-c", script], environment={**site_network.proxies(), **environment}, working_dir=MOUNT,
            network_mode=self.builder.network, extra_hosts=list(self.builder.hosts), cap_drop=["NET_RAW"],
            security_opt=["no-new-privileges"], volumes=volumes, labels={docker.LABEL_BUILD: liveness.process_label()},
        )  # fmt: skip
        for line in output.splitlines():
            log.debug(line)
        if code != 0:
            tail = "\n".join(output.strip().splitlines()[-20:])
            hint = network_hint(tail, self.builder.network)
            if self.builder.foreign and is_foreign_program(tail):
                hint = emulation_hint(self.builder.platform)
            what = shlex.join(command) if len(command) != 3 else command[2]
            raise BuildError(f"RUN failed with exit code {code}: {what}", hint=hint, details=tail)


# Entries


def entry_of(source: Path, path: str, chmod: int | None) -> LayerEntry:
    """A file of the context as a layer's entry. Modes are 755 or 644, as git keeps them: another umask is not another image."""
    if source.is_symlink():
        return LayerEntry(path, "symlink", 0o777, target=os.readlink(source))  # noqa: PTH115 -- Path would change how it is written
    if source.is_dir():
        return LayerEntry(path, "dir", 0o755)
    executable = source.stat().st_mode & 0o111
    return LayerEntry(path, "file", chmod if chmod is not None else 0o755 if executable else 0o644, source)


def with_folders(entries: Iterable[LayerEntry]) -> Iterator[LayerEntry]:
    """The entries and the folders above them, so that each layer states the mode of its folders."""
    paths: set[str] = set()
    listed = list(entries)
    paths.update(entry.path for entry in listed)
    for entry in listed:
        parent = posixpath.dirname(entry.path)
        while parent and parent not in paths:
            paths.add(parent)
            yield LayerEntry(parent, "dir", 0o755)
            parent = posixpath.dirname(parent)
        yield entry


def _facts(entry: LayerEntry) -> list[str]:
    if isinstance(entry.source, Path):
        with entry.source.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    else:
        digest = hashlib.sha256(entry.source or b"").hexdigest() if entry.kind == "file" else entry.target
    return [entry.path, entry.kind, f"{entry.mode:o}", digest]


def _unpacked(archive: Path, folder: Path, prefix: str) -> list[LayerEntry]:
    folder.mkdir()
    try:
        tarball.extract(archive, folder)
    except (StoreError, OSError) as error:
        raise BuildError(f"{archive.name} cannot be unpacked: {error}") from error
    return list(layer.scan(folder, prefix))


DOWNLOAD_LIMIT = 16 << 30
"""Bytes of one file from the web."""


def download(url: str, target: Path, checksum: str | None = None) -> Path:
    """Fetch a URL into a file, which must have the digest ``checksum`` (``sha256:...``) when there is one.

    A redirect may lead from http to anywhere, and from https to https only. Raises BuildError with the server's answer.
    """
    pool = urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504)))
    digest = hashlib.sha256()
    try:
        with contextlib.closing(_answer(pool, url)) as answer, target.open("wb") as file:
            _check_size(url, int(answer.headers.get("Content-Length") or 0))
            for chunk in answer.stream(1 << 20):
                _check_size(url, file.tell() + len(chunk))
                file.write(chunk)
                digest.update(chunk)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        raise BuildError(f"{url}: {error}") from error
    got = f"sha256:{digest.hexdigest()}"
    if checksum is None:
        log.warning(f"{url}: no checksum is given; the server decides what goes into the image. Today: ADD --checksum={got}")
    elif got != checksum:
        raise BuildError(f"{url} has digest {got}, not {checksum}", hint="find out who changed the file before you change --checksum")
    return target


def _check_size(url: str, size: int) -> None:
    if size > DOWNLOAD_LIMIT:
        raise BuildError(f"{url}: the file is larger than {log.size(DOWNLOAD_LIMIT)}", hint="put it into the build context and COPY it")


def _answer(pool: urllib3.PoolManager, url: str) -> urllib3.BaseHTTPResponse:
    """The 200 at the end of the redirects. Raises BuildError, urllib3's HTTPError."""
    where = url
    for _ in range(10):
        answer = pool.request("GET", where, preload_content=False, redirect=False, timeout=urllib3.Timeout(30))
        location = answer.get_redirect_location()
        if answer.status == 200:
            return answer
        answer.close()
        if not location:
            raise BuildError(f"{url}: the server answers {answer.status} {answer.reason}")
        following = urllib.parse.urljoin(where, location)
        if not following.startswith(("https://", "http://")[: 1 if where.startswith("https://") else 2]):
            raise BuildError(
                f"{url}: the server redirects to {untrusted.shown(following)}, which is not https",
                hint="use the address that serves the file itself",
            )
        where = following
    raise BuildError(f"{url}: the server redirects more than ten times")


def pull(fetcher: Fetcher, store: Store, reference: Reference, platform: str) -> Descriptor:
    """Fetch every blob of a container image for ``platform`` into the store. Raises BuildError or StoreError."""
    manifest = fetcher.manifest(reference)
    digest, media_type = manifest.digest, manifest.media_type
    if manifest.is_index:
        children = descriptors(store.read(digest))
        matching = [child for child in children if _platform(child) == platform]
        if not matching:
            platforms = ", ".join(sorted({_platform(child) for child in children}))
            raise BuildError(f"{reference} does not exist for {platform}, only for {platforms}")
        child = Reference(reference.domain, reference.path, None, matching[0].digest)
        manifest = fetcher.manifest(child)
        digest, media_type = manifest.digest, manifest.media_type
    for blob in descriptors(store.read(digest)):
        fetcher.blob(reference, blob.digest, blob.size).result()
    return Descriptor(media_type, digest, store.size(digest))


def _platform(child: Descriptor) -> str:
    return f"{child.platform.os}/{child.platform.architecture}" if child.platform else "unknown"


# Content of layers


def index(store: Store, indexed: Layer) -> Index:
    """Files of a layer with their digests, recorded in the store."""
    record = store.record("layer-files", indexed.diff_id.replace(":", "-"))
    if record is not None:
        files: Index = record["files"]
        return files
    files_by_path: dict[str, list[str]] = {}
    with open_layer(store, indexed.descriptor) as tar:
        for entry in tar:
            path = entry.name.removeprefix("./").rstrip("/")
            if path:
                files_by_path[path] = _facts_of(tar, entry, path, files_by_path)
    store.keep("layer-files", indexed.diff_id.replace(":", "-"), {"files": files_by_path})
    return files_by_path


def _facts_of(tar: TarReader, entry: TarEntry, path: str, previous: Mapping[str, list[str]]) -> list[str]:
    mode = f"{entry.mode:o}"
    if entry.kind == "folder":
        return ["dir", mode, "", ""]
    if entry.kind == "symlink":
        return ["symlink", mode, entry.link, entry.link]
    if entry.kind == "hardlink":
        same = previous.get(entry.link.removeprefix("./"))
        if same is None:
            raise StoreError(f"{path} of a layer is a hard link to {entry.link!r}, which is not before it in the layer")
        return same
    if entry.kind != "file":
        return ["other", mode, "", ""]
    if path.endswith((".yaml", ".yml", ".json")) and entry.size < 1 << 22:
        data = tar.head(entry.size)
        return ["file", mode, hashlib.sha256(data).hexdigest(), semantic_digest(data)]
    digest = hashlib.sha256()
    while chunk := tar.read():
        digest.update(chunk)
    return ["file", mode, digest.hexdigest(), digest.hexdigest()]


def semantic_digest(data: bytes) -> str:
    """Digest of the data in a YAML file, without comments and layout; of its bytes when it does not parse."""
    try:
        text = _PLACEHOLDER.sub(r"slipway-placeholder-\1", data.decode())
        documents = untrusted.yaml_documents(text, what="")
        return hashlib.sha256(json.dumps(documents, sort_keys=True, default=str).encode()).hexdigest()
    except (StoreError, UnicodeError, TypeError, ValueError):
        return hashlib.sha256(data).hexdigest()


def merged(indexes: Iterable[Index]) -> dict[str, Sequence[str]]:
    """Merge layers: path -> facts."""
    files: dict[str, Sequence[str]] = {}
    for layer_index in indexes:
        emptied: set[str] = set()
        for path in layer_index:
            folder, name = posixpath.split(path)
            if name == OPAQUE:
                emptied.add(folder)
            elif name.startswith(WHITEOUT):
                hidden = posixpath.join(folder, name.removeprefix(WHITEOUT))
                emptied.add(hidden)
                files.pop(hidden, None)
            elif layer_index[path][0] != "dir" and files.get(path, [""])[0] == "dir":
                emptied.add(path)
        if emptied:
            for path in [path for path in files if not emptied.isdisjoint(_above(path))]:
                del files[path]
        files |= {path: facts for path, facts in layer_index.items() if not posixpath.basename(path).startswith(WHITEOUT)}
    return files


def _above(path: str) -> Iterator[str]:
    """Parent folders of a path, with the root."""
    while path:
        path = posixpath.dirname(path)
        yield path


def cache_key_files(files: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Files and digests that can change how a cluster behaves: without documentation and comments in YAML."""
    return [
        [path, facts[0], facts[1], facts[3]] for path, facts in sorted(files.items()) if not _DOCUMENTATION.match(posixpath.basename(path))
    ]
