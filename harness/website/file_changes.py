"""Changes of files between two versions whose layers are not at hand, as the bills of materials that are attached to them list files.

A bill of materials names the digest of every regular file of the rootfs. It is read for the page anyway, and a layer never is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness import untrusted
from harness.cloudimage.diff import Difference, ImageChange, PlatformDifference
from harness.errors import StoreError
from harness.website.evidence import LARGEST, AttachedDocument, Evidence

READ, BILLS, CLAIMED, LAYERS = "read", "bills", "claimed", "layers"
"""Ways in which files were compared: in the layers; by bills of materials, or by some that no given key has signed; not at all."""


@dataclasses.dataclass(frozen=True)
class FileListing:
    """Path -> digest of the files for one platform. ``verified``: a given key has signed it."""

    files: Mapping[str, str]
    verified: bool


def add(difference: Difference, before: Evidence, after: Evidence) -> tuple[Difference, str]:
    """Put changes of files in the place of changes of layers, where the layers were not read and both versions list their files.

    Returns the difference, and the way in which its files were compared: the weakest of all platforms.
    """
    parts: list[PlatformDifference] = []
    ways = {READ}
    for part in difference.platforms:
        if part.files or part.only:
            parts.append(part)
            continue
        old, new = (listing(one.documents, part.platform) for one in (before, after))
        if old is None or new is None:
            ways.add(LAYERS)
            parts.append(part)
            continue
        ways.add(BILLS if old.verified and new.verified else CLAIMED)
        kept = [change for change in part.changes if change.kind != "layer"]
        parts.append(dataclasses.replace(part, changes=(*kept, *_changes(old.files, new.files))))
    return dataclasses.replace(difference, platforms=tuple(parts)), max(ways, key=(READ, BILLS, CLAIMED, LAYERS).index)


def listing(documents: Iterable[AttachedDocument], platform: str) -> FileListing | None:
    """The files of the rootfs for a platform by the best document that lists them, one that is verified first."""
    bills = [one for one in documents if one.ending == "cdx.json" and one.data is not None]
    for document in sorted(bills, key=lambda one: (not one.key, not one.signed)):
        files = _rootfs(document, platform)
        if files is not None:
            return FileListing(files, bool(document.key))
    return None


def _rootfs(document: AttachedDocument, platform: str) -> dict[str, str] | None:
    try:
        bill = untrusted.json_document(document.data or b"", what="bill of materials", limit=LARGEST, structural=False)
    except StoreError:
        return None
    part = next((one for one in _components(bill) if one.get("name") == "rootfs" and one.get("bom-ref") == f"rootfs {platform}"), None)
    return None if part is None else dict(_files(part))


def _components(value: Any) -> Iterator[dict[str, Any]]:
    listed = value.get("components") if isinstance(value, dict) else None
    yield from (one for one in listed if isinstance(one, dict)) if isinstance(listed, list) else ()


def _files(part: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for component in _components(part):
        path, hashes = component.get("name"), component.get("hashes")
        digests = [one.get("content") for one in hashes if isinstance(one, dict)] if isinstance(hashes, list) else []
        if component.get("type") == "file" and isinstance(path, str) and digests and isinstance(digests[0], str):
            yield path, f"sha256:{digests[0]}"


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[ImageChange]:
    for path in sorted({*old, *new}):
        before, after = old.get(path), new.get(path)
        if before != after:
            yield ImageChange("file", path, _side(before), _side(after))


def _side(digest: str | None) -> dict[str, str] | None:
    return None if digest is None else {"digest": digest}
