"""The pages of a site: what they show of an image, and their templates (harness/assets/website)."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from harness import assets, log
from harness.cloudimage import CloudImage, EmbeddedImage, ExpectedValue, PlatformImage, diff, enforcers, listing
from harness.cloudimage.diff import Difference
from harness.clusterfile import secrets
from harness.oci.store import Store
from harness.trust.provenance import without_values
from harness.website import evidence, file_changes, markup, picture
from harness.website.collect import Collection, ImageHistory, ImageVersion
from harness.website.evidence import AttachedDocument
from harness.website.picture import SizedPart
from harness.website.reports import FoundReport

TEMPLATES = assets.FOLDER / "website"
MOST_ROWS = 500
"""Rows of a list that a page shows; it says how many more there are."""
_MOST_PLACES = 4


def page_path(version: ImageVersion) -> str:
    """Path of the page of a version below the site: of plain characters, and unlike that of every other version in lower case too."""
    name = version.reference.familiar
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return f"images/{plain}-{hashlib.sha256(str(version.reference).encode()).hexdigest()[:12]}.html"


def document_path(document: AttachedDocument) -> str:
    """Path of the file of a document, by its content; empty when it has none."""
    if document.data is None:
        return ""
    return f"documents/{hashlib.sha256(document.data).hexdigest()[:32]}.{document.ending}"


def report_path(digest: str, report: FoundReport) -> str:
    """Path of a report of tests, by its digest."""
    return f"documents/{digest.removeprefix('sha256:')[:32]}.{report.ending}"


class PageMaker:
    """Renders the pages of one site."""

    def __init__(
        self,
        store: Store,
        title: str,
        collection: Collection,
        described: Mapping[str, str],
        readmes: Mapping[str, Markup],
        reports: Mapping[str, FoundReport],
    ) -> None:
        self._store = store
        self._title = title
        self._collection = collection
        self._described = described
        self._readmes = readmes
        self._reports = {digest: report_path(digest, report) for digest, report in reports.items()}
        """Paths of the reports that the site holds, by their digests."""
        self._pages = {version.digest: page_path(version) for history in collection.images for version in reversed(history.versions)}

    def front(self) -> bytes:
        """The list of all images."""
        cards = [self._card(history) for history in self._collection.images]
        versions = sum(len(history.versions) for history in self._collection.images)
        return _render("index.html", root="", title=self._title, cards=cards, versions=versions, left_out=self._collection.left_out)

    def version(self, history: ImageHistory, version: ImageVersion) -> bytes:
        """The page of one version. Raises StoreError when a layer of the store that it is compared by cannot be read."""
        image = version.side.image
        before = history.before(version)
        return _render(
            "image.html",
            root="../",
            title=self._title,
            history=history,
            version=version,
            name=version.reference.familiar,
            image=image,
            info=image.platforms[0].info,
            description=self._described.get(history.name, ""),
            readme=self._readmes.get(history.name),
            size=log.size(image.size),
            badges=list(_badges(version)),
            evidence=version.evidence,
            documents=[(document, document_path(document)) for document in version.evidence.documents],
            report_pages=self._reports,
            sboms=[document_path(document) for document in version.evidence.documents if document.is_sbom and document.data is not None],
            state=_STATES[version.evidence.state],
            commands=list(_commands(version)),
            origins=list(self._origins(version)),
            values=list(_values(image.platforms)),
            versions=[self._row(one, version) for one in history.versions],
            platforms=[self._platform(part) for part in image.platforms],
            labels=sorted(image.platforms[0].info.labels.items()),
            before=before,
            before_page=_relative(page_path(before)) if before else "",
            changes=self._changes(before, version) if before else None,
        )

    def _card(self, history: ImageHistory) -> dict[str, Any]:
        newest = history.versions[0]
        description = self._described.get(history.name, "")
        names = {one.name.rpartition("/")[2].partition("@")[0] for part in newest.side.image.platforms for one in part.images.images}
        facts = {**_facts(newest), "versions": len(history.versions) + history.older}
        words = [history.name, description, *map(str, facts["chips"]), *sorted(names)]
        text = " ".join(word.lower() for word in words)[: 4 * markup.LONGEST]
        return {
            "name": history.name, "page": page_path(newest), "tag": newest.tag, "description": description,
            "text": text, "badges": list(_badges(newest)), **facts,
        }  # fmt: skip

    def _row(self, version: ImageVersion, current: ImageVersion) -> dict[str, Any]:
        return {
            "tag": version.tag, "page": _relative(page_path(version)), "current": version is current, "digest": version.digest,
            "badges": list(_badges(version)), **_facts(version),
        }  # fmt: skip

    def _origins(self, version: ImageVersion) -> Iterator[tuple[str, str, str, str]]:
        """Images that this one was made from: word, reference, digest, page when it is one of the site."""
        info = version.side.image.platforms[0].info
        listed = [("Built on", info.base), ("Proven on", info.proven.on if info.proven else None)]
        listed += [("Merged from", source) for source in info.merged_from]
        for word, source in listed:
            if source:
                digest = source.get("digest", "")
                page = self._pages.get(digest, "")
                yield word, source.get("reference", ""), digest, _relative(page) if page else ""

    def _platform(self, part: PlatformImage) -> dict[str, Any]:
        steps = {row.layer: without_values(row.created_by) for row in listing.history(CloudImage("", (part,))) if row.layer}
        sizes = listing.content_sizes(self._store, part.images)
        stored_sizes = {one.name: sizes[one.name] for one in part.images.images if self._store.has(one.digest)}
        layers = [SizedPart(steps.get(layer.digest, "layer"), layer.digest, layer.size) for layer in part.layers]
        images = [SizedPart(one.name, one.digest, stored_sizes[one.name]) for one in part.images.images if one.name in stored_sizes]
        images.sort(key=lambda one: (-one.size, one.title))
        return {
            "name": str(part.platform),
            "layers": picture.bar(layers),
            "images": picture.bar(sorted(images, key=lambda one: (-one.size, one.title)))
            if len(images) == len(part.images.images)
            else None,
            "rows": [_container(one, stored_sizes.get(one.name)) for one in part.images.images[:MOST_ROWS]],
            "more": max(0, len(part.images.images) - MOST_ROWS),
            "count": len(part.images.images),
            "bytes": log.size(sum(blob.size for blob in part.images.blobs)),
            "policies": enforcers.told(enforcers.among(one.name for one in part.images.images)) if part.info.kubernetes else "",
        }

    def _changes(self, before: ImageVersion, version: ImageVersion) -> dict[str, Any]:
        with log.step(f"compare {version.reference.familiar} with {before.tag}"):
            difference = diff.compare(self._store, before.side, version.side)
            difference, way = file_changes.add(difference, before.evidence, version.evidence)
        rows = list(_changed(difference))
        return {
            "rows": rows[:MOST_ROWS],
            "more": max(0, len(rows) - MOST_ROWS),
            "send": log.size(difference.transfer.bytes),
            "files": way,
        }


# What is shown of an image


def _facts(version: ImageVersion) -> dict[str, Any]:
    image = version.side.image
    info = image.platforms[0].info
    count = len({one.name for part in image.platforms for one in part.images.images})
    brings = f"Kubernetes {info.kubernetes}" if info.kubernetes else "application"
    wants = [f"for Kubernetes {info.kube_version}"] if info.kube_version else []
    platforms = [str(part.platform) for part in image.platforms]
    return {"chips": [brings, *wants, *platforms], "size": log.size(image.size), "images": count, "kubernetes": info.kubernetes or ""}


_STATES: Mapping[str, tuple[str, str]] = {
    evidence.VERIFIED: ("good", "signature verified"),
    evidence.UNVERIFIED: ("plain", "signed, not verified here"),
    evidence.REFUSED: ("bad", "signature refused"),
    evidence.NONE: ("plain", "not signed"),
}
"""Class and words of a state of signature."""


def _badges(version: ImageVersion) -> Iterator[tuple[str, str]]:
    """Class and words: the state of the signature, and results of tests."""
    yield _STATES[version.evidence.state]
    for document in version.evidence.documents:
        if document.result:
            name = document.kind.rstrip("/").removeprefix("https://").split("/")
            what = document.suite or (
                next((part for part in reversed(name[1:]) if not re.fullmatch(r"v?[\d.]+", part)), "result")
                if len(name) > 1
                else document.kind
            )
            passed = document.result in ("PASSED", "PASS", "SUCCESS")
            verified = "" if document.key else ", not verified"
            yield ("good" if passed and document.key else "plain" if passed else "bad"), f"{what} {document.result.lower()}{verified}"


def _commands(version: ImageVersion) -> Iterator[tuple[str, str]]:
    """Commands that run it: a title and a command line each. A reference has no character that a shell reads."""
    name = version.reference.familiar
    info = version.side.image.platforms[0].info
    needed = "".join(f" -e {value.name}=VALUE" for value in info.values if value.required)
    if info.kubernetes:
        yield "Make a cluster that runs it", f"slipway run {name} --control-plane 10.0.0.1 --workers 10.0.0.2,10.0.0.3{needed}"
    else:
        yield "Install it in a cluster", f"slipway run {name} --cluster NAME{needed}"
        yield "Make a cluster with it", f"slipway run kubernetes {name} --control-plane 10.0.0.1{needed}"
    if version.side.where != "store":
        yield "Pull exactly this version", f"slipway pull {dataclasses.replace(version.reference, tag=None, digest=version.digest)}"
    if version.evidence.signatures:
        remote = "" if version.side.where == "store" else " --remote"
        yield "Verify its signature and every byte", f"slipway verify {name} --key PUBLISHER.pub{remote}"
    yield "Carry it into an air-gapped network", f"slipway save {name} --to {version.reference.path.rpartition('/')[2]}.tar"


def _values(parts: Sequence[PlatformImage]) -> Iterator[ExpectedValue]:
    """Values that it expects, those that must be given first, then other settings with their defaults, without secrets."""
    info = parts[0].info
    expected_names = {value.name for value in info.values}
    yield from sorted(info.values, key=lambda value: (not value.required, value.name))
    for name, text in sorted(info.env.items()):
        if name not in expected_names:
            secret = secrets.is_secret(name, text)
            yield ExpectedValue(name, default=None if secret else text, secret=secret)


def _container(image: EmbeddedImage, size: int | None) -> dict[str, Any]:
    return {
        "name": image.name,
        "digest": image.digest,
        "size": log.size(size) if size is not None else "",
        "found_by": ", ".join(image.found_by),
        "places": image.requested_by[:_MOST_PLACES],
        "more": max(0, len(image.requested_by) - _MOST_PLACES),
        "built": image.built,
    }


def _changed(difference: Difference) -> Iterator[dict[str, Any]]:
    """Rows of a table. A change that all platforms have is one row; of another one the row names its platforms."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for part in difference.platforms:
        if part.only:
            rows[("platform", "added" if part.only == "new" else "removed", part.platform, "", "")] = []
        for change in part.changes:
            sides = (_short(change.kind, change.name, side) for side in (change.old, change.new))
            name = without_values(change.name) if change.kind == "step" else change.name
            rows.setdefault((change.kind, change.what, name, *sides), []).append(part.platform)
    compared = [part.platform for part in difference.platforms if not part.only]
    for (kind, what, name, old, new), platforms in rows.items():
        yield {"kind": kind, "what": what, "name": name, "old": old, "new": new, "platforms": platforms if platforms != compared else []}


def _short(kind: str, name: str, value: Any) -> str:
    """A side of a difference in a few words. A value that is secret is not shown."""
    if value is None or kind in _LINES:
        return ""
    if kind == "env" and secrets.is_secret(name, str(value)):
        return "(secret)"
    if kind in _IN_WORDS:
        return _IN_WORDS[kind](value).strip()
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


_LINES = ("step", "launch", "clusterApp")
"""Differences of lines: their values are places in a list."""
_IN_WORDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "image": lambda image: f"{image.get('version') or ''} {_digits(image)}",
    "file": lambda file: f"{log.size(file['size']) if 'size' in file else file.get('kind', '')} {_digits(file)}",
    "layer": lambda layer: log.size(layer.get("size", 0)),
    "app": lambda application: str(application.get("kind", "")),
}


def _digits(value: Mapping[str, Any]) -> str:
    """The first digits of the digest in a difference; empty when it has none."""
    return str(value.get("digest", "")).removeprefix("sha256:")[:12]


# Templates


def _relative(path: str) -> str:
    """A path of the site as a page below ``images/`` names it."""
    return path.removeprefix("images/") if path.startswith("images/") else f"../{path}"


@functools.cache
def _environment() -> jinja2.Environment:
    style, script = ((TEMPLATES / name).read_text() for name in ("style.css", "site.js"))
    return markup.environment(TEMPLATES, style, script)


def _render(template: str, **context: Any) -> bytes:
    return _environment().get_template(template).render(context).encode()
