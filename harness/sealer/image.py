"""Images that sealer made (0.9 to 0.11): recognised, looked into, and turned into CloudImages.

Such an image is a plain OCI image, or an index with one for each platform. Two annotations say how it runs and what it embeds
(sealer's ``pkg/define/image/v1``): ``sealer.image.extension`` and ``sealer.image.container.images``. The container images lie in the
storage of a docker-registry below ``registry/`` of the rootfs, under their paths without the registry they come from; the second
annotation has the whole names. What it does not say is reported as an ImageProblem and left out, never guessed.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness import cloudimage, log, untrusted
from harness.cloudimage import INFO, Blob, EmbeddedImage, History, ImageApp, ImageSet, Info, PlatformImage
from harness.cloudimage.listing import Row
from harness.cloudimage.reader import is_cloudimage
from harness.errors import BuildError, StoreError, UsageError
from harness.kubefile import applications, instructions
from harness.oci.graph import child_for, descriptors
from harness.oci.model import DOCKER_CONFIG, INDEXES, MANIFESTS, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Platform
from harness.oci.reference import Reference, as_asked
from harness.oci.store import Store
from harness.sealer.layers import RegistryTree, SplitLayers, document, split_layers

KIND = "sealer"
"""Marks such images in ``slipway images`` and ``slipway inspect``."""

EXTENSION = "sealer.image.extension"
CONTAINER_IMAGES = "sealer.image.container.images"
LABEL_VERSION = "io.sealer.version"
LABEL_RUNTIME = "cluster.alpha.sealer.io/cluster-runtime-type"
LABEL_KUBERNETES = "cluster.alpha.sealer.io/cluster-runtime-version"

SCHEMA = "v1alpha1"
_TYPES = {"kube-installer": "kube", "app-installer": "app"}
_RUNTIMES = {"kubernetes": "kubeadm"}
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+\S*)")
_DEEPEST_INDEX = 4


@dataclasses.dataclass(frozen=True)
class ImageProblem:
    """Something that cannot be restored, or is not what it should be; ``name`` is the image, application or file it is about."""

    kind: str
    """``unnamed``, ``missing``, ``ambiguous``, ``incomplete``, ``invalid``, ``annotation``, ``launch`` or ``stray``."""
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


# What the annotations say


@dataclasses.dataclass(frozen=True)
class SealerApplication:
    """An application as sealer notes it. ``files`` are those that are launched, below ``application/apps/<name>``."""

    name: str
    kind: str
    files: tuple[str, ...]
    version: str
    env: Mapping[str, str]
    commands: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Extension:
    """The annotation ``sealer.image.extension``."""

    sealer: str
    buildah: str
    schema: str
    type: str
    """``kube-installer`` or ``app-installer``."""
    applications: tuple[SealerApplication, ...]
    labels: Mapping[str, str]
    env: Mapping[str, str]
    launch_commands: tuple[str, ...]
    launch_apps: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Extension:
        """Raises ValueError that says what is wrong with it."""
        value = _json(text)
        if not isinstance(value, dict):
            raise ValueError("is not a JSON object")
        client, launch = _object(value, "buildClient"), _object(value, "launch")
        if value.get("type") not in _TYPES:
            raise ValueError(f"has the type {value.get('type')!r}; known are {' and '.join(_TYPES)}")
        return cls(
            sealer=str(client.get("sealerVersion") or ""),
            buildah=str(client.get("buildahVersion") or ""),
            schema=str(value.get("schemaVersion") or ""),
            type=str(value["type"]),
            applications=tuple(_application(one) for one in _list(value, "applications")),
            labels=_texts_by_name(value, "labels"),
            env=_texts_by_name(value, "env"),
            launch_commands=_texts(launch, "cmds"),
            launch_apps=_texts(launch, "app_names"),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "sealerVersion": self.sealer,
            "buildahVersion": self.buildah,
            "schemaVersion": self.schema,
            "type": self.type,
            "applications": [
                {**dataclasses.asdict(one), "files": list(one.files), "commands": list(one.commands)} for one in self.applications
            ],
            "env": dict(self.env),
            "launch": {"commands": list(self.launch_commands), "applications": list(self.launch_apps)},
        }


@dataclasses.dataclass(frozen=True)
class ListedImage:
    """An entry of ``sealer.image.container.images``: the name as it was written, and the application that wants it."""

    image: str
    app: str = ""
    platform: Platform | None = None


def container_images(text: str) -> tuple[ListedImage, ...]:
    """The annotation ``sealer.image.container.images``. Raises ValueError that says what is wrong with it."""
    value = _json(text)
    if not isinstance(value, list) or not all(isinstance(one, dict) and isinstance(one.get("image"), str) for one in value):
        raise ValueError("is not a JSON list of objects that name an image")
    return tuple(ListedImage(one["image"], str(one.get("appName") or ""), _platform(one.get("platform"))) for one in value)


def _platform(value: Any) -> Platform | None:
    found = Platform.from_json(value) if isinstance(value, dict) else None
    return found if found and found.os and found.architecture else None


def _json(text: str) -> Any:
    try:
        return untrusted.json_document(text, what="")
    except StoreError as wrong:
        raise ValueError(wrong.message) from wrong


def _application(value: Any) -> SealerApplication:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        raise ValueError("has an application without a name")
    # 0.9.0 wrote the files under another name.
    files = _texts(value, "files") or _texts(value, "launchfiles")
    return SealerApplication(
        value["name"], str(value.get("type") or ""), files, str(value.get("version") or ""),
        _texts_by_name(value, "env"), _texts(value, "cmds"),
    )  # fmt: skip


def _object(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = value.get(key)
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"has a {key} that is not an object")
    return found or {}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    if found is not None and not isinstance(found, list):
        raise ValueError(f"has {key} that are not a list")
    return found or []


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = _list(value, key)
    if not all(isinstance(text, str) for text in found):
        raise ValueError(f"has something in {key} that is not text")
    return tuple(found)


def _texts_by_name(value: Mapping[str, Any], key: str) -> dict[str, str]:
    found = _object(value, key)
    if not all(isinstance(text, str) for text in found.values()):
        raise ValueError(f"has something in {key} that is not text")
    return dict(sorted(found.items()))


# The image


@dataclasses.dataclass(frozen=True)
class SealerPart:
    """The image for one platform, with what its annotations say."""

    platform: Platform
    digest: str
    layers: tuple[Descriptor, ...]
    history: tuple[Mapping[str, Any], ...]
    labels: Mapping[str, str]
    extension: Extension | None
    listed: tuple[ListedImage, ...]
    problems: tuple[ImageProblem, ...]
    """Of the annotations."""
    size: int
    """Bytes of its manifest, config and layers."""

    @property
    def kubernetes(self) -> str | None:
        """The version of a cluster image, with its ``v``."""
        found = _VERSION.fullmatch(self.labels.get(LABEL_KUBERNETES, ""))
        return f"v{found[1]}" if found and self.extension and self.extension.type == "kube-installer" else None


@dataclasses.dataclass(frozen=True)
class SealerImage:
    """An image of sealer in the store, not yet looked into."""

    name: str
    digest: str
    parts: tuple[SealerPart, ...]
    absent: tuple[str, ...] = ()
    """Platforms of the index of which the store has nothing."""

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def is_sealer(store: Store, image: Descriptor) -> bool:
    """Return True when sealer made an image of the store, by its annotations or labels."""
    try:
        # The most there are: a look at their index is enough.
        if image.media_type in INDEXES and is_cloudimage(store.json(image.digest)):
            return False
        return any(_is_marked(store, manifest, image) for manifest in _manifests(store, image)[0])
    except (StoreError, ValueError, TypeError, AttributeError, KeyError):
        return False


def read(store: Store, name_or_digest: str) -> SealerImage:
    """An image of sealer by name or digest, without its layers. Raises StoreError when it is not one, or cannot be understood."""
    image = store.resolve(name_or_digest)
    if not is_sealer(store, image):
        raise StoreError(
            f"{name_or_digest} is not an image of sealer: it has no {EXTENSION}",
            hint="only images of sealer 0.9 to 0.11 can be converted; older ones must be built again",
        )
    try:
        name = Reference.parse(name_or_digest).familiar
        manifests, absent = _manifests(store, image)
        parts = tuple(_part(store, manifest, image) for manifest in manifests)
    except (ValueError, TypeError, AttributeError, KeyError) as wrong:
        raise StoreError(f"{name_or_digest} cannot be understood as an image: {wrong!r}") from wrong
    return SealerImage(name if store.names().get(name) else image.digest, image.digest, parts, absent)


def _manifests(store: Store, image: Descriptor) -> tuple[list[Descriptor], tuple[str, ...]]:
    """Descriptors of the manifests that are here, one a platform, and the platforms of those that are not."""
    if image.media_type in MANIFESTS:
        return [image], ()
    if image.media_type not in INDEXES:
        return [], ()
    children = [Descriptor.from_json(child) for child in store.json(image.digest)["manifests"]]
    # Attestations of BuildKit stand for the platform unknown/unknown.
    children = [child for child in children if child.media_type in MANIFESTS and not (child.platform and child.platform.os == "unknown")]
    here = [child for child in children if store.has(child.digest)]
    return here, tuple(str(child.platform or child.digest) for child in children if child not in here)


def _is_marked(store: Store, manifest: Descriptor, image: Descriptor) -> bool:
    value = store.json(manifest.digest)
    labels, annotations = _marks(store, value, store.json(str(value["config"]["digest"])), manifest, image)
    # Labels stay when an image is converted, or built FROM one of sealer's.
    if INFO in annotations or cloudimage.KIND in annotations:
        return False
    return bool({LABEL_VERSION, EXTENSION, CONTAINER_IMAGES} & {*labels, *annotations})


def _marks(
    store: Store, manifest: Mapping[str, Any], config: Mapping[str, Any], entry: Descriptor, image: Descriptor
) -> tuple[dict[str, str], dict[str, str]]:
    """The labels, and all annotations with the labels among them."""
    labels = {str(key): str(text) for key, text in ((config.get("config") or {}).get("Labels") or {}).items()}
    index = store.json(image.digest) if image.digest != entry.digest else {}
    # buildah writes annotations into the manifest; who copied an image in Docker's format may have kept them elsewhere only.
    places = (index.get("annotations"), entry.annotations, config.get("annotations"), labels, manifest.get("annotations"))
    return labels, {str(key): str(text) for place in places for key, text in (place or {}).items()}


def _part(store: Store, entry: Descriptor, image: Descriptor) -> SealerPart:
    manifest = store.json(entry.digest)
    config_at = Descriptor.from_json(manifest["config"])
    config = store.json(config_at.digest)
    layers = tuple(Descriptor.from_json(layer) for layer in manifest["layers"])
    labels, annotations = _marks(store, manifest, config, entry, image)
    problems: list[ImageProblem] = []
    extension, listed = _annotations(annotations, problems)
    platform = entry.platform or Platform.from_json(config)
    if not platform.os or not platform.architecture:
        raise ValueError("it does not say for which platform it is")
    own = {key: text for key, text in labels.items() if key not in (EXTENSION, CONTAINER_IMAGES)}
    return SealerPart(
        platform=platform.normal(), digest=entry.digest, layers=layers, history=tuple(config.get("history") or ()),
        labels=dict(sorted({**(extension.labels if extension else {}), **own}.items())), extension=extension, listed=listed,
        problems=tuple(problems), size=entry.size + config_at.size + sum(layer.size for layer in layers),
    )  # fmt: skip


def _annotations(annotations: Mapping[str, str], problems: list[ImageProblem]) -> tuple[Extension | None, tuple[ListedImage, ...]]:
    extension: Extension | None = None
    listed: tuple[ListedImage, ...] = ()
    text = annotations.get(EXTENSION)
    try:
        extension = Extension.parse(text) if text is not None else None
        if extension is None:
            problems.append(ImageProblem("annotation", EXTENSION, "does not exist, so its type, applications and launch are not known"))
        elif extension.schema != SCHEMA:
            problems.append(ImageProblem("annotation", EXTENSION, f"has the schema {extension.schema!r}; known is {SCHEMA}"))
    except ValueError as wrong:
        problems.append(ImageProblem("annotation", EXTENSION, str(wrong)))
    try:
        listed = container_images(annotations[CONTAINER_IMAGES]) if annotations.get(CONTAINER_IMAGES) else ()
    except ValueError as wrong:
        problems.append(ImageProblem("annotation", CONTAINER_IMAGES, str(wrong)))
    return extension, listed


# Names for what the tree has


@dataclasses.dataclass(frozen=True)
class RestoredImages:
    """The image set of a tree, and what is not in it. ``notes`` are worth knowing and no fault."""

    images: ImageSet
    problems: tuple[ImageProblem, ...]
    notes: tuple[str, ...] = ()


class _Restoring:
    """Brings together the names of an annotation and the repositories of a tree, which have no domain."""

    def __init__(self, store: Store, tree: RegistryTree, platform: Platform) -> None:
        self.store = store
        self.tree = tree
        self.platform = platform
        self.images: list[EmbeddedImage] = []
        self.blobs: list[Blob] = []
        self.problems: list[ImageProblem] = []
        self.notes: list[str] = []
        self.spoken_for: set[tuple[str, str]] = set()
        """(repository, tag or digest) that some name means."""

    def problem(self, kind: str, name: str, reason: str) -> None:
        self.problems.append(ImageProblem(kind, name, reason))

    def named(self, listed: Sequence[ListedImage]) -> None:
        """Everything that the annotation names."""
        meant: dict[tuple[str, str], dict[str, set[str]]] = {}
        for entry in listed:
            if entry.platform is not None and not entry.platform.matches(self.platform):
                continue
            try:
                reference = as_asked(Reference.parse(entry.image))
            except ValueError as wrong:
                self.problem("invalid", entry.image, str(wrong).removeprefix(f"{entry.image!r} "))
                continue
            if "/" in entry.image and not entry.image.startswith(f"{reference.domain}/") and "index.docker.io" not in entry.image:
                self.notes.append(f"{entry.image} is taken as {reference}: the annotation names no registry, which means docker.io")
            apps = meant.setdefault((reference.path, reference.digest or str(reference.tag)), {}).setdefault(str(reference), set())
            apps.update({f"application/apps/{entry.app}"} if entry.app else ())
        for (path, target), names in sorted(meant.items()):
            self._one(path, target, names)

    def _one(self, path: str, target: str, names: Mapping[str, set[str]]) -> None:
        self.spoken_for.add((path, target))
        by_digest = ":" in target
        tag = f"{path}@{target}" if by_digest else f"{path}:{target}"
        if tag in self.tree.bad_links:
            for name in sorted(names):
                self.problem("incomplete", name, f"its link in the tree says {self.tree.bad_links[tag]!r}, which is not a digest")
            return
        known = target if by_digest and target in self.tree.revisions.get(path, ()) else self.tree.tags.get((path, target))
        for name, apps in sorted(names.items()):
            if known is None:
                self.problem("missing", name, f"the annotation names it, but the tree has no {tag}")
            elif len(names) > 1 and not by_digest:
                others = ", ".join(sorted(set(names) - {name}))
                self.problem("ambiguous", name, f"the tree has one {tag} for it and for {others}, and does not say which it is")
            else:
                self._take(name, known, ("listed",), apps)

    def unnamed(self, registry: str | None) -> None:
        """Everything in the tree that the annotation does not name; ``registry`` is where it comes from, when the user says it."""
        rest = {(path, tag): digest for (path, tag), digest in self.tree.tags.items() if (path, tag) not in self.spoken_for}
        known = {*self.tree.tags.values(), *(target for _, target in self.spoken_for)}
        for path, digests in self.tree.revisions.items():
            # A manifest without a tag is a part of an index, or was pulled by digest.
            parts = {part for digest in digests for part in self._children(digest)}
            rest.update({(path, digest): digest for digest in digests - known - parts})
        for (path, target), digest in sorted(rest.items()):
            short = f"{path}@{target}" if ":" in target else f"{path}:{target}"
            name = _in_domain(registry, short) if registry else None
            if name:
                self._take(name, digest)
            else:
                why = "and cannot be one of that registry" if registry else "and the tree does not say which registry it is from"
                self.problem("unnamed", short, f"no name for it in the annotation, {why}")
        for short, text in sorted(self.tree.bad_links.items()):
            path, _, tag = short.rpartition(":")
            if (path, tag) not in self.spoken_for:
                self.problem("incomplete", short, f"its link in the tree says {text!r}, which is not a digest")

    def _children(self, digest: str) -> set[str]:
        value = document(self.store, self.tree, digest) or {}
        listed = value.get("manifests")
        return {str(child.get("digest")) for child in listed if isinstance(child, dict)} if isinstance(listed, list) else set()

    def _take(self, name: str, digest: str, found_by: tuple[str, ...] = (), apps: Iterable[str] = ()) -> None:
        try:
            blobs = list(self._blobs(digest))
        except _IncompleteError as lacks:
            self.problem("incomplete", name, str(lacks))
            return
        top = blobs[0]
        self._note_platform(name, blobs)
        self.images.append(EmbeddedImage(name, digest, top.media_type, top.size, found_by, tuple(sorted(apps))))
        self.blobs += blobs

    def _note_platform(self, name: str, blobs: Sequence[Blob]) -> None:
        """sealer takes an image without index whatever it is made for."""
        config = next((blob for blob in blobs if blob.media_type in (OCI_CONFIG, DOCKER_CONFIG)), None)
        there = Platform.from_json((document(self.store, self.tree, config.digest) if config else None) or {})
        if there.os and there.architecture and not there.matches(self.platform):
            self.notes.append(f"{name} is made for {there.normal()}: nodes of {self.platform} will not run it")

    def _blobs(self, digest: str) -> Iterator[Blob]:
        """The manifest, and all below it that the platform needs. Of an index the whole index, as it is addressed by its digest."""
        for _ in range(_DEEPEST_INDEX):
            self._check(digest)
            value = document(self.store, self.tree, digest)
            if value is None:
                raise _IncompleteError(f"{digest} of the tree is not a manifest")
            is_index = "manifests" in value
            yield Blob(digest, str(value.get("mediaType") or (OCI_INDEX if is_index else OCI_MANIFEST)), self.tree.blobs[digest])
            try:
                below = descriptors(self.store.read(digest))
                if is_index:
                    digest = child_for(self.store.read(digest), self.platform).digest
                    continue
            except BuildError as other:
                raise _IncompleteError(f"it {other.message}") from other
            except (StoreError, ValueError, KeyError, TypeError) as wrong:
                raise _IncompleteError(f"its manifest {digest} is of a form that is not known") from wrong
            for blob in below:
                self._check(blob.digest, blob.size)
                yield Blob(blob.digest, blob.media_type, blob.size)
            return
        raise _IncompleteError(f"its indexes nest more than {_DEEPEST_INDEX} deep")

    def _check(self, digest: str, size: int | None = None) -> None:
        if digest in self.tree.damaged:
            raise _IncompleteError(f"blob {digest} in the tree holds other bytes")
        if digest not in self.tree.blobs:
            raise _IncompleteError(f"blob {digest} is missing in the tree")
        if size not in (None, self.tree.blobs[digest]):
            raise _IncompleteError(f"blob {digest} in the tree has {self.tree.blobs[digest]} bytes instead of {size}")


class _IncompleteError(Exception):
    """An image of the tree that is not whole."""


def _in_domain(registry: str, short: str) -> str | None:
    """The whole name of a path in a registry; None when that registry cannot have it."""
    try:
        reference = Reference.parse(f"{registry}/{short}")
    except ValueError:
        return None
    path = short.partition("@")[0].rpartition(":")[0] or short.partition("@")[0]
    # docker.io/nginx would be read as docker.io/library/nginx.
    return str(reference) if (reference.domain, reference.path) == (registry, path) else None


def restore(
    store: Store, tree: RegistryTree, listed: Sequence[ListedImage], platform: Platform, registry: str | None = None
) -> RestoredImages:
    """The image set of a tree under original names. ``registry`` is the domain of what ``listed`` does not name."""
    work = _Restoring(store, tree, platform)
    work.named(listed)
    work.unnamed(registry)
    for path in tree.strays:
        work.problem("stray", path, "is not of the registry's storage, and is left out")
    return RestoredImages(ImageSet(tuple(work.images), tuple(work.blobs)).sorted(), tuple(work.problems), tuple(dict.fromkeys(work.notes)))


def check_registry(domain: str) -> None:
    """Raises UsageError when it is not the address of a registry."""
    try:
        good = Reference.parse(f"{domain}/some/image").domain == domain
    except ValueError:
        good = False
    if not good:
        raise UsageError(f"--registry {domain}: not the address of a registry", hint="as in --registry registry.example.com:5000")


# Converting


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Result of a conversion; nothing is tagged yet. ``problems`` are of all platforms, each once."""

    source: SealerImage
    platforms: tuple[PlatformImage, ...]
    problems: tuple[ImageProblem, ...]
    notes: tuple[str, ...]


def convert(store: Store, name_or_digest: str, *, registry: str | None = None, platform: Platform | None = None) -> Conversion:
    """Turn an image of sealer into the platforms of a CloudImage; only ``platform`` when it is given.

    The same image gives the same layers, wherever it is converted. Hold ``store.shared_lease()`` around this and what writes and tags it.
    Raises StoreError when policy does not admit it, or it cannot be converted at all: a layer is damaged, the extension is missing or
    not readable.
    """
    if registry is not None:
        check_registry(registry)
    from harness.trust import policy  # here: its cryptography is slow to load, and `images` does without

    source = read(store, name_or_digest)
    policy.admit(store, name_or_digest, source.digest)
    parts = [part for part in source.parts if platform is None or part.platform.matches(platform)]
    if not parts:
        there = ", ".join(str(part.platform) for part in source.parts) or "no platform at all"
        raise StoreError(f"{source.name} is in the local store only for {there}", hint="pull it for that platform")
    problems: list[ImageProblem] = []
    notes = [f"{absent} is in the index, but not in the store" for absent in source.absent if platform is None]
    images = []
    for part in parts:
        with log.step(f"convert {source.name} for {part.platform}") as shown:
            images.append(_convert(store, part, registry, problems, notes))
            shown.note = f"{len(images[-1].images.images)} images, {log.size(sum(blob.size for blob in images[-1].images.blobs))}"
    return Conversion(source, tuple(images), tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(notes)))


def _convert(store: Store, part: SealerPart, registry: str | None, problems: list[ImageProblem], notes: list[str]) -> PlatformImage:
    if part.extension is None:
        fault = next(problem for problem in part.problems if problem.name == EXTENSION)
        raise StoreError(
            f"{part.digest} cannot be converted: {fault}",
            hint="copy it again from where sealer pushed it; a copy in Docker's own format loses annotations",
        )
    apart = split_layers(store, part.layers)
    restored = restore(store, apart.tree, part.listed, part.platform, registry)
    info = _info(part, part.extension, problems)
    problems += [*part.problems, *restored.problems]
    notes += restored.notes
    if not apart.tree.tags and not apart.tree.revisions:
        notes.append("it embeds no container images; `slipway build` FROM it finds those that it needs")
    layers = [layer for layer in apart.layers if layer is not None]
    return PlatformImage(
        part.platform, tuple(layer.descriptor for layer in layers), tuple(layer.diff_id for layer in layers),
        _history(part, apart), info, restored.images,
    )  # fmt: skip


def _history(part: SealerPart, apart: SplitLayers) -> tuple[History, ...]:
    """The image's own; a step whose layer held nothing but the storage makes none here."""
    steps = [History(str(one.get("created_by") or ""), "", bool(one.get("empty_layer"))) for one in part.history]
    if sum(not step.empty for step in steps) != len(part.layers):
        steps = [History(f"layer {layer.digest}") for layer in part.layers]
    made = iter(apart.layers)
    return tuple(step if step.empty else dataclasses.replace(step, empty=next(made) is None) for step in steps)


def _info(part: SealerPart, extension: Extension, problems: list[ImageProblem]) -> Info:

    apps = tuple(_app(one, part.labels) for one in extension.applications)
    by_name = {app.name: app for app in apps}
    for name in extension.launch_apps:
        if name not in by_name:
            problems.append(ImageProblem("launch", name, "the image launches this application, but does not have it"))
        elif not by_name[name].commands:
            problems.append(ImageProblem("launch", name, "the image launches this application, but nothing says how it starts"))
    started = [by_name[name] for name in extension.launch_apps if name in by_name]
    # As in sealer: applications first, raw commands only when no application has any.
    launch = tuple(applications.with_environment(command, app.env) for app in started for command in app.commands)
    return Info(
        type=_TYPES[extension.type],
        kubernetes=part.kubernetes,
        runtime=_RUNTIMES.get(runtime := part.labels.get(LABEL_RUNTIME, "kubernetes"), runtime),
        env=extension.env,
        launch=launch or tuple(command for command in extension.launch_commands if command),
        apps=apps,
        labels=part.labels,
        kube_version=part.labels.get(instructions.LABEL_KUBE_VERSION) or None,
        cluster_apps=tuple(app.name for app in apps if app.labels),
        converted_from={"tool": KIND, "version": extension.sealer, "digest": part.digest},
    )


def _app(one: SealerApplication, labels: Mapping[str, str]) -> ImageApp:

    kind = one.kind if one.kind in (applications.HELM, applications.KUBE, applications.SHELL) else applications.MIXED
    commands: tuple[str, ...] = ()
    if one.commands:
        # APPCMDS is one command, written as a list of its words.
        commands = (f"cd {shlex.quote(f'application/apps/{one.name}')} && {' '.join(one.commands)}",)
    elif kind != applications.MIXED:
        commands = applications.default_commands(one.name, kind, one.files)
    role_labels = [f"{role}{one.name}" for role in (instructions.LABEL_CNI, instructions.LABEL_CSI)]
    roles = {label: "true" for label in role_labels if labels.get(label) == "true"}
    return ImageApp(one.name, kind, one.files, one.env, commands, roles)


# What people see


def rows(store: Store) -> tuple[Row, ...]:
    """Lines of ``slipway images`` for the images of sealer that have a name here."""
    found = []
    for name, descriptor in store.names().items():
        if not is_sealer(store, descriptor):
            continue
        try:
            image = read(store, name)
        except StoreError as problem:
            found.append(Row(name, descriptor.digest, problem=problem.message, kind=KIND))
            continue
        found.append(
            Row(
                name, image.digest, tuple(str(part.platform) for part in image.parts), image.size,
                len({entry.image for part in image.parts for entry in part.listed}),
                next((part.kubernetes for part in image.parts if part.kubernetes), None), kind=KIND,
            )
        )  # fmt: skip
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Inside:
    """Content of the image for one platform."""

    part: SealerPart
    restored: RestoredImages
    sizes: Mapping[str, int]
    """Bytes of each embedded image with all its layers, by name."""
    problems: tuple[ImageProblem, ...]


def look(store: Store, image: SealerImage) -> tuple[Inside, ...]:
    """Read the layers of every platform. Raises StoreError when one is missing or damaged."""
    found = []
    for part in image.parts:
        with log.step(f"look into {image.name} for {part.platform}"), store.shared_lease():
            tree = split_layers(store, part.layers, rootfs=False).tree
            restored = restore(store, tree, part.listed, part.platform)
            sizes = {one.name: _size(store, tree, one.digest) for one in restored.images.images}
        faults: list[ImageProblem] = []
        if part.extension:
            _info(part, part.extension, faults)
        found.append(Inside(part, restored, sizes, (*part.problems, *faults, *restored.problems)))
    return tuple(found)


def _size(store: Store, tree: RegistryTree, digest: str) -> int:
    return sum(tree.blobs.get(below, 0) for below in store.reachable([digest]))


def describe(image: SealerImage, inside: Sequence[Inside]) -> dict[str, Any]:
    """The image as plain data, for ``slipway inspect --output json``."""
    return {
        "name": image.name,
        "digest": image.digest,
        "kind": KIND,
        "platforms": [
            {
                "platform": str(one.part.platform),
                "digest": one.part.digest,
                "extension": one.part.extension.to_json() if one.part.extension else None,
                "kubernetes": one.part.kubernetes,
                "labels": dict(one.part.labels),
                "rootfs": {"layers": [layer.to_json() for layer in one.part.layers]},
                "images": [embedded.to_json() for embedded in one.restored.images.images],
                "problems": [dataclasses.asdict(problem) for problem in one.problems],
                "notes": list(one.restored.notes),
            }
            for one in inside
        ],
        "absentPlatforms": list(image.absent),
        "size": image.size,
    }
