"""Images that a site is about: repositories with their versions, of the store or of registries."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container, Iterable, Sequence

from harness import log
from harness.cloudimage import diff_side, listing, reader
from harness.cloudimage.diff_side import Side
from harness.cloudimage.search import RegistryNamespace, repositories, tags
from harness.errors import StoreError, UsageError
from harness.kubefile import version_range
from harness.oci.graph import attached_to
from harness.oci.model import INDEXES, Descriptor
from harness.oci.reference import DEFAULT_TAG, Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import LocalReferrers, ReferrerStore, RemoteReferrers
from harness.oci.store import Store
from harness.trust.signature import Demand
from harness.untrusted import json_object
from harness.website import evidence
from harness.website.evidence import Evidence

_ARCHITECTURES = ("amd64", "arm64")
"""Ends of tags that one machine of a matrix pushes: parts of the tag without it."""

Demands = Callable[[Reference], Sequence[Demand]]
"""Requirements for the signatures of an image; none where no key is known."""


@dataclasses.dataclass(frozen=True)
class ImageVersion:
    """A tag of a repository, with what is attached to its image."""

    reference: Reference
    side: Side
    evidence: Evidence

    @property
    def tag(self) -> str:
        return str(self.reference.tag)

    @property
    def digest(self) -> str:
        return self.side.image.digest


@dataclasses.dataclass(frozen=True)
class ImageHistory:
    """A repository: its versions, the newest first. ``older`` counts those that are left out."""

    name: str
    versions: tuple[ImageVersion, ...]
    older: int = 0

    def before(self, version: ImageVersion) -> ImageVersion | None:
        """The next older version with another content; None for the oldest, and for tags that are not versions."""
        ranked = [one for one in self.versions if one.tag == DEFAULT_TAG or _is_version(one.tag)]
        if version not in ranked:
            return None
        return next((one for one in ranked[ranked.index(version) + 1 :] if one.digest != version.digest), None)


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """An image that the site does not show, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Collection:
    """All that a site shows."""

    images: tuple[ImageHistory, ...]
    left_out: tuple[LeftOut, ...] = ()


def newest_first(names: Iterable[str]) -> tuple[str, ...]:
    """Tags in the order in which a site lists them: ``latest``, versions from high to low, then other words.

    ``1.2-arm64`` is part of ``1.2`` and is left out beside it.
    """
    distinct = set(names)
    parts = {f"{name}-{architecture}" for name in distinct for architecture in _ARCHITECTURES}
    kept = sorted(distinct - parts)
    versions = sorted((name for name in kept if _is_version(name)), key=functools.cmp_to_key(_compared))
    words = [name for name in kept if name != DEFAULT_TAG and not _is_version(name)]
    return (*(name for name in kept if name == DEFAULT_TAG), *versions, *words)


def _is_version(tag: str) -> bool:
    try:
        version_range.older(tag, tag)
    except ValueError:
        return False
    return True


def _compared(tag: str, other: str) -> int:
    return version_range.older(tag, other) - version_range.older(other, tag)


def of_store(store: Store, names: Sequence[str], most: int, demands: Demands) -> Collection:
    """The CloudImages of the store; of the repositories ``names`` only, when there are any.

    At most ``most`` versions of each. Raises UsageError for a name that the store does not have.
    """
    descriptors = store.names()
    # Most images have nothing attached: the names are looked through once, not once for each image.
    attached = {attached_to(name) for name in descriptors}
    repositories: dict[str, dict[str, Reference]] = {}
    problems: dict[str, str] = {}
    for row in listing.images(store):
        reference = Reference.parse(row.name)
        repositories.setdefault(_title(reference), {})[str(reference.tag)] = reference
        if row.problem:
            problems[row.name] = row.problem
    histories: list[ImageHistory] = []
    left_out: list[LeftOut] = []
    for title in _chosen(repositories, names):
        tagged = repositories[title]
        left_out += [LeftOut(one.familiar, problems[one.familiar]) for _, one in sorted(tagged.items()) if one.familiar in problems]
        order = newest_first(tag for tag, one in tagged.items() if one.familiar not in problems and one.familiar in descriptors)
        versions = tuple(_stored(store, tagged[tag], descriptors[tagged[tag].familiar], attached, demands) for tag in order[:most])
        if versions:
            histories.append(ImageHistory(title, versions, len(order[most:])))
    return Collection(tuple(histories), tuple(left_out))


def _title(reference: Reference) -> str:
    """The repository in its familiar form."""
    return dataclasses.replace(reference, tag=None, digest=None).familiar


def _chosen(titles: Iterable[str], names: Sequence[str]) -> list[str]:
    if not names:
        return sorted(titles)
    wanted = {_repository(name): name for name in names}
    if missing := [name for title, name in wanted.items() if title not in set(titles)]:
        message = "; ".join(f"{name}: no CloudImage of the store is called so" for name in missing)
        raise UsageError(message, hint="`slipway images` lists them")
    return sorted(wanted)


def _repository(name: str) -> str:
    try:
        return _title(Reference.parse(name))
    except ValueError as wrong:
        raise UsageError(f"NAME {name}: {wrong}") from wrong


def _stored(store: Store, reference: Reference, root: Descriptor, attached: Container[str | None], demands: Demands) -> ImageVersion:
    image = Side(reference.familiar, "store", reader.read_descriptor(store, root, reference.familiar), store, root)
    if root.digest not in attached:
        return ImageVersion(reference, image, Evidence())
    return _version(reference, image, LocalReferrers(store, reference), demands)


def _version(reference: Reference, image: Side, attachments: ReferrerStore, demands: Demands) -> ImageVersion:
    attached = evidence.collect(attachments, image.image.digest, demands(reference), reference.familiar)
    return ImageVersion(reference, image, attached)


# Registries


def of_registry(store: Store, place: RegistryNamespace, names: Sequence[str], most: int, demands: Demands, client: Client) -> Collection:
    """The CloudImages of a namespace of a registry; of the repositories ``names`` in it only, when there are any.

    Manifests, configs and what is attached are read, no layer. Other images of the registry are passed over. Raises RemoteError
    when the registry does not list its repositories, or dies meanwhile.
    """
    collections = [_collected(store, Reference(place.host, path, None), most, demands, client) for path in _paths(place, names, client)]
    histories = tuple(history for one in collections for history in one.images)
    return Collection(histories, tuple(item for one in collections for item in one.left_out))


def _paths(place: RegistryNamespace, names: Sequence[str], client: Client) -> list[str]:
    if not names:
        try:
            return repositories(place, client)
        except RemoteError as refused:
            hint = "name the repositories: slipway catalog --registry HOST/NAMESPACE NAME..."
            raise RemoteError(f"{place.host}: {refused.message}", status=refused.status, code=refused.code, hint=hint) from refused
    try:
        return sorted({Reference.parse(f"{place.host}/{place.repository(name)}").path for name in names})
    except ValueError as wrong:
        raise UsageError(f"NAME: {wrong}") from wrong


def _collected(store: Store, repository: Reference, most: int, demands: Demands, client: Client) -> Collection:
    title = _title(repository)
    versions: list[ImageVersion] = []
    left_out: list[LeftOut] = []
    with log.step(f"read {title}") as shown:
        order = newest_first(tags(repository, client))
        for tag in order[:most]:
            reference = dataclasses.replace(repository, tag=tag)
            try:
                version = _remote(store, reference, demands, client)
            except RemoteError as problem:
                if problem.status not in (400, 404):
                    raise
                left_out.append(LeftOut(reference.familiar, problem.message))
            except StoreError as problem:
                left_out.append(LeftOut(reference.familiar, problem.message))
            else:
                versions += [version] if version else []
        shown.note = f"{len(versions)} versions"
    older = len(order[most:]) if versions else 0
    return Collection((ImageHistory(title, tuple(versions), older),) if versions else (), tuple(left_out))


def _remote(store: Store, reference: Reference, demands: Demands, client: Client) -> ImageVersion | None:
    """A version in a registry; None for an image that is not a CloudImage."""
    manifest = client.manifest(reference)
    if manifest.media_type not in INDEXES or not reader.is_cloudimage(json_object(manifest.data, what=reference.familiar)):
        return None
    image = diff_side.find(store, f"{diff_side.REGISTRY}{reference}", lambda: client)
    at = dataclasses.replace(reference, digest=image.image.digest)
    return _version(reference, image, RemoteReferrers(client, at), demands)
