"""Container images of a registry's storage under their original names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.cloudimage import Blob, EmbeddedImage, ImageSet
from harness.errors import BuildError, StoreError, UsageError
from harness.oci.graph import DEEPEST_INDEX, child_for, descriptors
from harness.oci.model import DOCKER_CONFIG, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Platform
from harness.oci.reference import Reference, as_asked
from harness.oci.store import Store
from harness.sealer.annotations import ListedImage
from harness.sealer.image import ImageProblem
from harness.sealer.layers import RegistryTree, document


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
        digest = target if by_digest and target in self.tree.revisions.get(path, ()) else self.tree.tags.get((path, target))
        for name, apps in sorted(names.items()):
            if digest is None:
                self.problem("missing", name, f"the annotation names it, but the tree has no {tag}")
            elif len(names) > 1 and not by_digest:
                others = ", ".join(sorted(set(names) - {name}))
                self.problem("ambiguous", name, f"the tree has one {tag} for it and for {others}, and does not say which it is")
            else:
                self._take(name, digest, ("listed",), apps)

    def unnamed(self, registry: str | None) -> None:
        """Everything in the tree that the annotation does not name; ``registry`` is where it comes from, when the user says it."""
        rest = {(path, tag): digest for (path, tag), digest in self.tree.tags.items() if (path, tag) not in self.spoken_for}
        named_digests = {*self.tree.tags.values(), *(target for _, target in self.spoken_for)}
        for path, digests in self.tree.revisions.items():
            # A manifest without a tag is a part of an index, or was pulled by digest.
            parts = {part for digest in digests for part in self._children(digest)}
            rest.update({(path, digest): digest for digest in digests - named_digests - parts})
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
        platform = Platform.from_json((document(self.store, self.tree, config.digest) if config else None) or {})
        if platform.os and platform.architecture and not platform.matches(self.platform):
            self.notes.append(f"{name} is made for {platform.normal()}: nodes of {self.platform} will not run it")

    def _blobs(self, digest: str) -> Iterator[Blob]:
        """The manifest, and all below it that the platform needs. Of an index the whole index, as it is addressed by its digest."""
        for _ in range(DEEPEST_INDEX + 1):
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
        raise _IncompleteError(f"its indexes nest more than {DEEPEST_INDEX} deep")

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
