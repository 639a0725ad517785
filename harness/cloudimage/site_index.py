"""The ``index.json`` of a catalogue site: written beside its pages, read by ``slipway search --index``."""

from __future__ import annotations

import contextlib
import dataclasses
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3

from harness import untrusted
from harness.cloudimage.model import each_of, text_list
from harness.errors import StoreError, UsageError
from harness.oci.model import canonical_json
from harness.oci.reference import Reference, is_digest
from harness.oci.registry import transport
from harness.oci.registry.config import Registries
from harness.oci.registry.errors import TroubleError

KIND = "dev.slipway.catalog"
SCHEMA_VERSION = 1
NAME = "index.json"
LIMIT = 32 << 20
"""Bytes: some ten thousand versions have half of that."""
_SILENCE = 30
"""Seconds."""


@dataclasses.dataclass(frozen=True)
class IndexedVersion:
    """A version of an image in the index of a site."""

    name: str
    """Argument of ``pull``: ``registry.example.com/shop/web:1.2``."""
    digest: str
    platforms: tuple[str, ...] = ()
    kubernetes: str | None = None
    type: str = "kube"
    size: int = 0
    """Bytes, each blob once."""
    images: int = 0
    """Different embedded images, all platforms together."""
    signature: str = ""
    """``verified``, ``not verified``, ``refused``, ``none``: as the site was made."""
    page: str = ""
    """Path below the site."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> IndexedVersion:
        """Raises KeyError, TypeError, ValueError or StoreError when it is not the JSON of one."""
        name, digest = _text(value["name"]), _text(value["digest"])
        if Reference.parse(name).tag is None or not is_digest(digest):
            raise ValueError("a version needs a name with a tag, and a digest")
        return cls(
            name=name,
            digest=digest,
            platforms=text_list(value.get("platforms")),
            kubernetes=_text(value["kubernetes"]) if value.get("kubernetes") else None,
            type=_text(value.get("type") or ""),
            size=untrusted.integer(value.get("size") or 0, what="size"),
            images=untrusted.integer(value.get("images") or 0, what="images"),
            signature=_text(value.get("signature") or ""),
            page=untrusted.relative_path(value["page"], what="page") if value.get("page") else "",
        )


@dataclasses.dataclass(frozen=True)
class IndexedImage:
    """An image in the index of a site: a repository, with its versions, the newest first."""

    name: str
    versions: tuple[IndexedVersion, ...]
    description: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "description": self.description, "versions": [version.to_json() for version in self.versions]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> IndexedImage:
        """Raises KeyError, TypeError, ValueError or StoreError when it is not the JSON of one."""
        versions = each_of(IndexedVersion.from_json, value["versions"])
        if not versions:
            raise ValueError("an image has no version")
        return cls(_text(value["name"]), versions, _text(value.get("description") or ""))


@dataclasses.dataclass(frozen=True)
class SiteIndex:
    """All images of a site, by name."""

    title: str
    images: tuple[IndexedImage, ...]

    def data(self) -> bytes:
        """The bytes of the file; equal indexes have equal bytes."""
        images = [image.to_json() for image in self.images]
        return canonical_json({"kind": KIND, "schemaVersion": SCHEMA_VERSION, "title": self.title, "images": images}) + b"\n"

    @classmethod
    def parse(cls, data: bytes, what: str) -> SiteIndex:
        """Raises StoreError, with ``what``, when the data is not the index of a site."""
        value = untrusted.json_object(data, what=what, limit=LIMIT)
        try:
            if value.get("kind") != KIND:
                raise ValueError(f"its kind is not {KIND}")
            if untrusted.integer(value["schemaVersion"], what="schemaVersion") > SCHEMA_VERSION:
                raise StoreError(f"{what}: format version {value['schemaVersion']}", hint="a newer slipway can read it")
            return cls(_text(value.get("title") or ""), each_of(IndexedImage.from_json, value["images"]))
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            why = untrusted.shown(str(wrong))[:300]
            raise StoreError(f"{what} is not the index of a catalogue site: {why}", hint=f"`slipway catalog` writes {NAME}") from wrong


def load(place: str, registries: Registries) -> SiteIndex:
    """The index in a file, in the folder of a site, or at an address (``http``, ``https``).

    Raises UsageError for a file that does not exist, and StoreError.
    """
    if urllib.parse.urlsplit(place).scheme in ("http", "https"):
        return SiteIndex.parse(_fetch(place, registries), place)
    path = Path(place)
    path = path / NAME if path.is_dir() else path
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError as missing:
        raise UsageError(f"--index {place}: no such file", hint="a file, the folder of a site, or an address") from missing
    except OSError as problem:
        raise UsageError(f"--index {place}: {problem.strerror or problem}") from problem
    return SiteIndex.parse(data, place)


def _fetch(address: str, registries: Registries) -> bytes:
    """The document at an address, or for the address of a site its index; a redirect may not leave TLS."""
    where = address if address.endswith(".json") else f"{address.rstrip('/')}/{NAME}"
    tls = where.startswith("https://")
    try:
        for _ in range(5):
            connections = transport.pool(where, registries, insecure=registries.insecure)
            answer = connections.request("GET", where, preload_content=False, redirect=False, retries=2, timeout=_SILENCE)
            with contextlib.closing(answer):
                location = answer.get_redirect_location()
                if not location:
                    if answer.status != 200:
                        raise StoreError(f"{where}: the server answers {answer.status} {untrusted.shown(str(answer.reason))}")
                    return _limited(answer, where)
            where = urllib.parse.urljoin(where, location)
            if not where.startswith(("https://", "http://")[: 1 if tls else 2]):
                raise StoreError(f"{address}: the server redirects to {untrusted.shown(where)[:200]}, which is refused")
    except (urllib3.exceptions.HTTPError, TroubleError, ValueError) as wrong:
        raise StoreError(f"{where}: {untrusted.shown(str(wrong))[:300]}", hint="give the address of a site or of its index.json") from wrong
    raise StoreError(f"{address}: the server redirects too often")


def _limited(answer: urllib3.BaseHTTPResponse, where: str) -> bytes:
    data = bytearray()
    for chunk in answer.stream(1 << 16):
        data += chunk
        if len(data) > LIMIT:
            raise StoreError(f"{where}: larger than {LIMIT} bytes")
    return bytes(data)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is not text")
    return value
