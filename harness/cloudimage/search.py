"""CloudImages to be had: those that can be built from the catalogue, those of the local store, of registries, and of catalogue sites.

A registry is asked for its list of repositories, then, many at once, only for those that match: tags, index and manifests, never
a config or a layer. Many registries refuse the list; that is reported, and the one repository that the words name whole is asked for.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import assets, catalog, cloudimage, kubefile, log, process
from harness.cloudimage import listing, reader
from harness.cloudimage.model import Info
from harness.cloudimage.site_index import SiteIndex
from harness.errors import SlipwayError, StoreError, UsageError
from harness.kubefile import instructions
from harness.oci import graph
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import DEFAULT_DOMAIN, DEFAULT_TAG, Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.store import Store
from harness.untrusted import json_object

CATALOGUE = "catalogue"
STORE = "store"
DESCRIPTION = "org.opencontainers.image.description"
"""The label that describes an image in one line (OCI image specification, annotations)."""

MOST = 100
"""Repositories of a registry that are looked into."""

_JOBS = 8
_VERSION_LABEL = "cluster.alpha.sealer.io/cluster-runtime-version"
_REFUSALS = (401, 403, 404, 405, 501)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """A CloudImage. ``where`` is ``catalogue``, ``store``, the host of a registry, or the place of a site's index."""

    name: str
    """Argument for ``run`` or ``pull``; for the catalogue the name of the folder."""
    where: str
    description: str = ""
    platforms: tuple[str, ...] = ()
    kubernetes: str | None = None
    size: int | None = None
    """Bytes, each blob once; None before it is built."""
    digest: str | None = None
    tags: int | None = None
    """Number of tags in the repository; ``name`` has ``latest``, or else the highest."""
    folder: str | None = None
    """Folder to build, for an entry of the catalogue."""


@dataclasses.dataclass(frozen=True)
class FailedRegistry:
    """A registry or a repository that does not list its content. ``found``: the requested repository exists nevertheless."""

    name: str
    reason: str
    found: bool = False


@dataclasses.dataclass(frozen=True)
class SearchResults:
    hits: tuple[SearchResult, ...]
    silent: tuple[FailedRegistry, ...] = ()
    more: int = 0
    """Repositories that match and were not looked into, for there are too many."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class RegistryNamespace:
    """A registry, or those repositories of it that begin with ``namespace/``."""

    host: str
    namespace: str = ""

    @classmethod
    def parse(cls, text: str) -> RegistryNamespace:
        """``HOST[/NAMESPACE]``. Raises UsageError."""
        host, _, namespace = text.rstrip("/").partition("/")
        try:
            reference = Reference.parse(f"{host}/{namespace}/x" if namespace else f"{host}/x")
        except ValueError as wrong:
            raise UsageError(f"--registry {text}: {wrong}") from wrong
        if host not in (reference.domain, "index.docker.io"):
            raise UsageError(f"--registry {text}: not a registry", hint="write HOST, HOST:PORT or HOST/NAMESPACE")
        return cls(reference.domain, namespace)

    def repository(self, name: str) -> str:
        return f"{self.namespace}/{name}" if self.namespace else name


def search(
    term: str,
    store: Store,
    places: Sequence[RegistryNamespace] = (),
    client: Client | None = None,
    sites: Mapping[str, SiteIndex] | None = None,
) -> SearchResults:
    """Images with ``term`` in name or description (in registries: in the name), case-insensitive; all when it is empty.

    ``sites``: indexes of catalogue sites, by the place that each was read from.
    """
    hits = [*catalogue(bundled(), term), *stored(store, term)]
    hits += [hit for place, index in (sites or {}).items() for hit in indexed(index, place, term)]
    results = [_registry(place, term, client) for place in places] if client else []
    return SearchResults(
        hits=(*hits, *(hit for one in results for hit in one.hits)),
        silent=tuple(silent for one in results for silent in one.silent),
        more=sum(one.more for one in results),
    )


def _matches(term: str, *texts: str) -> bool:
    return any(term.lower() in text.lower() for text in texts)


# The catalogue


def bundled() -> Path | None:
    """The kubefiles/ that came with the package: that of a checkout, or what the wheel carries."""
    return assets.bundled("kubefiles")


def catalogue(root: Path | None, term: str) -> Iterator[SearchResult]:
    if root is None:
        return
    entries = catalog.find(root)
    for entry in entries.values():
        if _matches(term, entry.name, entry.summary):
            # What is at the bottom of it brings Kubernetes.
            lowest = catalog.order(entries, [entry.name])[0]
            yield SearchResult(
                entry.name, CATALOGUE, _sentence(entry.summary), kubernetes=_kubernetes(lowest.folder), folder=str(entry.folder)
            )


def _kubernetes(folder: Path) -> str | None:
    """The version that a base says of itself, with the defaults of its arguments."""
    path = folder / "Kubefile"
    try:
        parsed = kubefile.parse(path.read_text(), str(path))
    except SlipwayError:
        return None
    return next((one.values[_VERSION_LABEL] for one in parsed.of(instructions.Label) if _VERSION_LABEL in one.values), None)


def _sentence(text: str) -> str:
    """The first sentence: a line of a table has no room for more."""
    return re.split(r"(?<=\w)\.\s", text, maxsplit=1)[0].rstrip(".:")


# The store


def stored(store: Store, term: str) -> Iterator[SearchResult]:
    for row in listing.images(store):
        if row.problem:
            if _matches(term, row.name):
                yield SearchResult(row.name, STORE, row.problem, digest=row.digest)
            continue
        text = description(part.info for part in cloudimage.read(store, row.name).platforms)
        if _matches(term, row.name, text):
            yield SearchResult(row.name, STORE, text, row.platforms, row.kubernetes, row.size, row.digest)


def description(infos: Iterator[Info]) -> str:
    """The label that describes an image, on one line; empty when it has none."""
    return next((" ".join(info.labels[DESCRIPTION].split()) for info in infos if info.labels.get(DESCRIPTION)), "")


# Catalogue sites


def indexed(index: SiteIndex, place: str, term: str) -> Iterator[SearchResult]:
    """Images of a catalogue site, each by its newest version."""
    for image in index.images:
        if _matches(term, image.name, image.description):
            newest = image.versions[0]
            yield SearchResult(
                newest.name, place, " ".join(image.description.split()), newest.platforms, newest.kubernetes, newest.size, newest.digest,
                tags=len(image.versions),
            )  # fmt: skip


# Registries


def _registry(place: RegistryNamespace, term: str, client: Client) -> SearchResults:
    with log.step(f"search {place.host}") as shown:
        try:
            matching = [name for name in repositories(place, client) if _matches(term, name)]
        except RemoteError as refused:
            reason = _reason(refused)
            result = (
                _exactly(place, term, client, reason)
                if refused.status in _REFUSALS
                else SearchResults((), (FailedRegistry(place.host, reason),))
            )
        else:
            result = _look(place, matching[:MOST], client)
            result = dataclasses.replace(result, more=len(matching) - len(matching[:MOST]))
        shown.note = f"{len(result.hits)} found"
    return result


def repositories(place: RegistryNamespace, client: Client) -> list[str]:
    """The repositories of a namespace, sorted. Raises RemoteError when the registry does not list them."""
    if place.host == DEFAULT_DOMAIN:
        raise RemoteError("Docker Hub shows no list of repositories to those who pull", status=404)
    listed = client.catalog(place.host)
    return sorted(name for name in listed if not place.namespace or name.startswith(f"{place.namespace}/"))


def _reason(refused: RemoteError) -> str:
    return f"it does not list its repositories: {refused.message}" if refused.status in _REFUSALS else refused.message


def _exactly(place: RegistryNamespace, term: str, client: Client, reason: str) -> SearchResults:
    """The one repository that the term names, of a registry that shows no list."""
    name = place.repository(term)
    try:
        reference = Reference.parse(f"{place.host}/{name}")
    except ValueError:
        return SearchResults((), (FailedRegistry(place.host, reason),))
    if not term or reference.tag != DEFAULT_TAG:
        return SearchResults((), (FailedRegistry(place.host, reason),))
    result = _look(place, [reference.path], client)
    return SearchResults(result.hits, (FailedRegistry(place.host, reason, found=bool(result.hits)), *result.silent))


def _look(place: RegistryNamespace, repositories: Sequence[str], client: Client) -> SearchResults:
    def one(repository: str) -> SearchResult | FailedRegistry | None:
        try:
            return _hit(Reference(place.host, repository, None), client)
        except RemoteError as problem:
            return FailedRegistry(f"{place.host}/{repository}", problem.message)
        except (StoreError, ValueError, KeyError, TypeError, AttributeError) as wrong:
            return FailedRegistry(f"{place.host}/{repository}", f"cannot be understood: {wrong}")

    results = process.parallel(one, repositories, _JOBS, client.close)
    return SearchResults(
        tuple(result for result in results if isinstance(result, SearchResult)),
        tuple(result for result in results if isinstance(result, FailedRegistry)),
    )


def _hit(repository: Reference, client: Client) -> SearchResult | None:
    """A repository by its best tag; None when that is not a CloudImage, or there is no tag."""
    names = tags(repository, client)
    if not names:
        return None
    reference = dataclasses.replace(repository, tag=DEFAULT_TAG if DEFAULT_TAG in names else names[-1])
    root_manifest = client.manifest(reference)
    index = json_object(root_manifest.data, what=f"manifest {root_manifest.digest}")
    if not reader.is_cloudimage(index):
        return None
    root = Descriptor(root_manifest.media_type, root_manifest.digest, len(root_manifest.data))
    sizes = {root.digest: root.size}
    platforms: list[Platform] = []
    infos: list[Info] = []
    for entry in graph.children(index, root):
        manifest = json_object(client.manifest(dataclasses.replace(repository, digest=entry.digest)).data, what=f"manifest {entry.digest}")
        sizes.update({entry.digest: entry.size, **{blob.digest: blob.size for blob in graph.children(manifest, entry)}})
        if cloudimage.KIND not in entry.annotations and entry.platform:
            platforms.append(entry.platform)
            infos.append(Info.from_json(reader.info_of(manifest, entry.digest)))
    return SearchResult(
        name=reference.familiar,
        where=repository.domain,
        description=description(iter(infos)),
        platforms=tuple(str(platform) for platform in platforms),
        kubernetes=next((info.kubernetes for info in infos if info.kubernetes), None),
        size=sum(sizes.values()),
        digest=root_manifest.digest,
        tags=len(names),
    )


def tags(repository: Reference, client: Client) -> tuple[str, ...]:
    """The tags of a repository, numbers in them by value, without those of signatures and other attachments."""
    return tuple(sorted((tag for tag in client.tags(repository) if graph.attached_to(f":{tag}") is None), key=_by_number))


def _by_number(tag: str) -> list[tuple[int, int, str]]:
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.findall(r"\d+|\D+", tag)]
