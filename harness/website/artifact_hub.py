"""Metadata for Artifact Hub: ``artifacthub-repo.yml``, and for each version with a semantic version number a package file.

The layout is that of its repositories of packages: ``artifacthub/NAME/VERSION/artifacthub-pkg.yml``, with the keys of its document
"package metadata file". Artifact Hub takes no other versions than those of SemVer 2, so tags such as ``latest`` have none.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from harness import untrusted
from harness.cloudimage.model import Info
from harness.oci.model import EPOCH
from harness.website.collect import ImageHistory, ImageVersion
from harness.website.readme import is_web_link

FOLDER = "artifacthub"
_VERSION = re.compile(r"v?(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?")
_ANNOTATION = "org.opencontainers.image."
_LONGEST = 1000
_MOST_IMAGES = 500


def files(histories: tuple[ImageHistory, ...], described: Mapping[str, str], readmes: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file. ``described`` and ``readmes`` are by the names of the repositories."""
    yield f"{FOLDER}/artifacthub-repo.yml", _yaml({"ignore": []})
    for history in histories:
        package = package_name(history.name)
        seen: set[str] = set()
        for version in history.versions:
            number = semantic(version.tag)
            if number and number not in seen:
                seen.add(number)
                value = _package(version, package, number, described.get(history.name, ""), readmes.get(history.name, ""))
                yield f"{FOLDER}/{package}/{number}/artifacthub-pkg.yml", _yaml(value)


def semantic(tag: str) -> str:
    """A tag as a version of SemVer 2, ``1.2.0`` for ``v1.2``; empty for one that is not a version."""
    match = _VERSION.fullmatch(tag)
    if match is None:
        return ""
    labels = (match[4] or "").removeprefix("-").split(".") if match[4] else []
    plain = [str(int(label)) if label.isdigit() else label for label in labels]
    return ".".join(str(int(part or 0)) for part in match.group(1, 2, 3)) + ("-" + ".".join(plain) if plain else "")


def package_name(repository: str) -> str:
    """The name of a package: letters, digits and dashes, and a few digits that keep names apart which differ in other characters only."""
    plain = re.sub(r"[^a-z0-9]+", "-", repository.lower()).strip("-")
    return plain if plain == repository else f"{plain[:80]}-{hashlib.sha256(repository.encode()).hexdigest()[:8]}"


def _package(version: ImageVersion, package: str, number: str, description: str, readme: str) -> dict[str, Any]:
    part = version.side.image.platforms[0]
    labels = part.info.labels
    name = version.reference.familiar
    images = {embedded.name: None for platform in version.side.image.platforms for embedded in platform.images.images}
    value: dict[str, Any] = {
        "version": number,
        "name": package,
        "displayName": version.reference.path.rpartition("/")[2],
        "createdAt": _created(labels.get(f"{_ANNOTATION}created", "")),
        "description": _text(description or f"The cluster image {name}"),
        "digest": version.digest,
        "install": f"slipway run {name} --control-plane ADDRESS --workers ADDRESS",
        "keywords": ["kubernetes", "cluster image"],
        "containersImages": [{"image": image} for image in list(images)[:_MOST_IMAGES]],
        "annotations": _annotations(part.info),
    }
    if part.info.kubernetes:
        value["appVersion"] = _text(part.info.kubernetes)
    if re.fullmatch(r"[A-Za-z0-9.+() -]{1,100}", licence := labels.get(f"{_ANNOTATION}licenses", "")):
        value["license"] = licence
    if is_web_link(address := labels.get(f"{_ANNOTATION}url", "")):
        value["homeURL"] = address
    if readme:
        value["readme"] = untrusted.shown(readme, lines=True)
    return value


def _annotations(info: Info) -> dict[str, str]:
    facts = {"dev.slipway.type": info.type, "dev.slipway.runtime": info.runtime, "dev.slipway.kubeVersion": info.kube_version or ""}
    return {key: _text(text) for key, text in facts.items() if text}


def _created(text: str) -> str:
    """A time of RFC 3339; the epoch, as images have it, for what is not one."""
    try:
        moment = datetime.datetime.fromisoformat(text)
        return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment.tzinfo else EPOCH
    except (ValueError, OverflowError):
        return EPOCH


def _text(text: str) -> str:
    return untrusted.shown(text)[:_LONGEST]


def _yaml(value: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True, width=1000).encode()
