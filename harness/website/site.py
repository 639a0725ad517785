"""The catalogue as a static site: pages about CloudImages of the store or of registries, an index for ``slipway search``, and metadata
for Artifact Hub.

The site needs no server and no script: pages link to each other by relative paths and hold all that they show; a script only filters
the list. Names, labels and READMEs are by strangers: every text is escaped, links lead to http and https only, and the policy
of each page (Content-Security-Policy) allows nothing but its own style and script, by their digests.
The same images give the same bytes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from harness import catalog, log
from harness.cloudimage import search, site_index
from harness.cloudimage.search import RegistryNamespace
from harness.cloudimage.site_index import IndexedImage, IndexedVersion, SiteIndex
from harness.errors import StoreError, UsageError
from harness.oci.registry.client import Client
from harness.oci.store import Store
from harness.website import artifact_hub, collect, folder, pages, readme, reports
from harness.website.collect import Collection, Demands, ImageHistory, LeftOut
from harness.website.pages import PageMaker

VERSIONS = 20
"""Newest versions of an image that have a page."""
TITLE = "Cluster images"


@dataclasses.dataclass(frozen=True)
class SiteRequest:
    """Content of a site and the folder that it is written to."""

    target: Path
    title: str = TITLE
    names: tuple[str, ...] = ()
    """Repositories; all when there are none."""
    registries: tuple[RegistryNamespace, ...] = ()
    """Registries of the images; the store when there are none."""
    versions: int = VERSIONS
    readmes: Path | None = None
    """A folder with READMEs: ``NAME/README.md`` for a repository whose last part is ``NAME``."""
    reports: Path | None = None
    """A folder with reports of tests; those that a statement about an image names by digest become part of the site."""


@dataclasses.dataclass(frozen=True)
class WrittenSite:
    """A site that was written."""

    target: Path
    images: int
    versions: int
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> dict[str, Any]:
        left_out = [dataclasses.asdict(one) for one in self.left_out]
        return {"folder": str(self.target), "images": self.images, "versions": self.versions, "leftOut": left_out}


def make(store: Store, request: SiteRequest, demands: Demands, client: Client | None = None) -> WrittenSite:
    """Write a site. ``client`` is needed for registries.

    Raises UsageError for a folder that holds something else, or a name that does not exist; StoreError when a registry dies or the disk
    is full. Then nothing is written, and a former site stays.
    """
    folder.check(request.target)
    if request.readmes is not None and not request.readmes.is_dir():
        raise UsageError(f"--readmes {request.readmes}: no such folder", hint="a folder with NAME/README.md")
    if request.reports is not None and not request.reports.is_dir():
        raise UsageError(f"--reports {request.reports}: no such folder", hint="./nox -s test-image leaves its reports in reports/")
    with store.shared_lease():
        collection = _collect(store, request, demands, client)
        for one in collection.left_out:
            log.warning(f"{one.name} is left out: {one.reason}")
        versions = sum(len(history.versions) for history in collection.images)
        with folder.replacing(request.target) as site, log.step(f"write {request.target}") as shown:
            for path, data in files(store, request, collection):
                folder.write(site, path, data)
            shown.note = f"{len(collection.images)} images, {versions} versions"
    return WrittenSite(request.target, len(collection.images), versions, collection.left_out)


def _collect(store: Store, request: SiteRequest, demands: Demands, client: Client | None) -> Collection:
    if client is None:
        return collect.of_store(store, request.names, request.versions, demands)
    collections = [collect.of_registry(store, place, request.names, request.versions, demands, client) for place in request.registries]
    histories = {history.name: history for one in collections for history in one.images}
    shown = tuple(histories[name] for name in sorted(histories))
    return Collection(shown, tuple(dict.fromkeys(item for one in collections for item in one.left_out)))


def files(store: Store, request: SiteRequest, collection: Collection) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file of a site. Raises StoreError for a README that is not text."""
    texts = {history.name: _readme(request.readmes, history) for history in collection.images}
    described = {history.name: _description(history, texts[history.name]) for history in collection.images}
    rendered: dict[str, Markup] = {name: readme.render(text) for name, text in texts.items() if text}
    attached = [document for history in collection.images for version in history.versions for document in version.evidence.documents]
    tested = reports.find(request.reports, attached)
    maker = PageMaker(store, request.title, collection, described, rendered, tested)
    yield "index.html", maker.front()
    documents = {pages.report_path(digest, report): report.data for digest, report in tested.items()}
    for history in collection.images:
        for version in history.versions:
            yield pages.page_path(version), maker.version(history, version)
    documents.update((pages.document_path(one), one.data) for one in attached if one.data is not None)
    yield from sorted(documents.items())
    yield site_index.NAME, _index(request.title, collection, described).data()
    yield from artifact_hub.files(collection.images, described, texts)


def _readme(root: Path | None, history: ImageHistory) -> str:
    if root is None:
        return ""
    name = history.versions[0].reference.path.rpartition("/")[2]
    try:
        return readme.read(root, name)
    except StoreError as wrong:
        log.warning(f"the README of {history.name} is left out: {wrong.message}")
        return ""


def _description(history: ImageHistory, text: str) -> str:
    """The label of the newest version; else the first paragraph of the README, without the marks of code and emphasis."""
    infos = (part.info for part in history.versions[0].side.image.platforms)
    return search.description(infos) or re.sub("[`*]", "", catalog.summary(text))


def _index(title: str, collection: Collection, described: dict[str, str]) -> SiteIndex:
    return SiteIndex(title, tuple(_indexed(history, described[history.name]) for history in collection.images))


def _indexed(history: ImageHistory, description: str) -> IndexedImage:
    return IndexedImage(history.name, tuple(_indexed_version(version) for version in history.versions), description)


def _indexed_version(version: collect.ImageVersion) -> IndexedVersion:
    image, info = version.side.image, version.side.image.platforms[0].info
    return IndexedVersion(
        name=version.reference.familiar,
        digest=version.digest,
        platforms=tuple(str(part.platform) for part in image.platforms),
        kubernetes=info.kubernetes,
        type=info.type,
        size=image.size,
        images=len({embedded.name for part in image.platforms for embedded in part.images.images}),
        signature=version.evidence.state,
        page=pages.page_path(version),
    )
