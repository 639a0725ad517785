"""SLSA provenance (v1) of an image, made from the record of its own build.

Nothing of the machine that built it is in it, and no value of a build argument, only its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from harness.cloudimage import CloudImage, EmbeddedImage, History, PlatformImage
from harness.kubefile.words import split
from harness.oci.reference import Reference
from harness.trust.attestation import statement
from harness.trust.sbom.package_url import image_purl

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://slipway.dev/kubefile/v1"
"""A Kubefile, built instruction by instruction; externalParameters are those that ``slipway build`` takes."""
MERGE_TYPE = "https://slipway.dev/merge/v1"
"""CloudImages laid over each other by ``slipway merge``; externalParameters are its sources."""
BUILDER = "https://slipway.dev/slipway"

_SHA256 = re.compile(r"[0-9a-f]{64}")


def make(image: CloudImage, reference: Reference) -> dict[str, Any]:
    """The statement about an image. The same image gives the same."""
    dependencies: dict[str, dict[str, Any]] = {}
    for part in image.platforms:
        for one in _dependencies(part):
            dependencies.setdefault(one["uri"] + str(one["digest"]), one)
    runs = {str(part.platform): part.info.proven.to_json() for part in image.platforms if part.info.proven}
    merged = image.platforms[0].info.merged_from
    own = {str(part.platform): () if merged else _own(part.history) for part in image.platforms}
    predicate = {
        "buildDefinition": {
            "buildType": MERGE_TYPE if merged else BUILD_TYPE,
            "externalParameters": {
                **({"sources": [source.get("reference", "") for source in merged]} if merged else {}),
                "kubefile": {platform: [without_values(step.created_by) for step in steps] for platform, steps in own.items()},
                "buildArgs": sorted({name for steps in own.values() for step in steps for name in _arguments(step.created_by)}),
                "platforms": list(own),
            },
            "internalParameters": {
                # With those of the base image: they are what its layers in this image came from.
                "steps": {
                    str(part.platform): [
                        {"instruction": without_values(step.created_by), "id": step.step} for step in part.history if step.step
                    ]
                    for part in image.platforms
                },
                # The cluster in which its container images were found. An exercise is not in the image: its digest is.
                **({"provingRuns": runs} if runs else {}),
            },
            "resolvedDependencies": [dependencies[key] for key in sorted(dependencies)],
        },
        "runDetails": {"builder": {"id": BUILDER}, "metadata": {}},
    }
    return statement(reference.repository, image.digest, PREDICATE, predicate)


def _dependencies(part: PlatformImage) -> Iterable[dict[str, Any]]:
    base = part.info.base
    if base and base.get("digest"):
        yield {
            "name": "base CloudImage",
            "uri": image_purl(base["reference"], base["digest"]),
            "digest": _digest_set(base["digest"]),
        }
    if part.info.proven and part.info.proven.on:
        on = part.info.proven.on
        yield {
            "name": "CloudImage of the throw-away cluster",
            "uri": image_purl(on["reference"], on["digest"]),
            "digest": _digest_set(on["digest"]),
            "annotations": {"meaning": "the application ran on it and pulled its container images; its rootfs is not in the image"},
        }
    for source in part.info.merged_from:
        if source.get("digest"):
            uri = image_purl(source["reference"], source["digest"])
            yield {"name": "merged CloudImage", "uri": uri, "digest": _digest_set(source["digest"])}
    if part.info.merged_from:
        yield from (_embedded(image) for image in part.images.images)
        return
    # A step's id is the hash of all that went into it and into those before it, so the last stands for every file of the context.
    last = next((step.step for step in reversed(part.history) if _SHA256.fullmatch(step.step)), None)
    if last:
        yield {
            "name": f"build context and Kubefile for {part.platform}",
            "uri": f"{BUILD_TYPE}#inputs",
            "digest": {"sha256": last},
            "annotations": {
                "meaning": "the id of the last build step: a hash over the content of every file that was copied, and every command"
            },
        }
    yield from (_embedded(image) for image in part.images.images)


def _embedded(image: EmbeddedImage) -> dict[str, Any]:
    return {
        "name": image.name,
        "uri": image_purl(image.name, image.digest),
        "digest": _digest_set(image.digest),
        "mediaType": image.media_type,
        "annotations": {
            "foundBy": list(image.found_by),
            "requestedBy": list(image.requested_by),
            **({"built": image.built.to_json()} if image.built else {}),
        },
    }


def _digest_set(digest: str) -> dict[str, str]:
    algorithm, _, digits = digest.partition(":")
    return {algorithm: digits}


def _own(history: Sequence[History]) -> Sequence[History]:
    """The instructions of the image's own Kubefile: those of its base stand before them."""
    begin = max((number for number, step in enumerate(history) if step.created_by.upper().startswith("FROM ")), default=0)
    while begin and _arguments(history[begin - 1].created_by):
        begin -= 1  # what stands before FROM can only be ARG
    return history[begin:]


def _arguments(text: str) -> list[str]:
    """The names of an ARG instruction."""
    word, _, rest = text.partition(" ")
    return [name.partition("=")[0] for name in split(rest)] if word.upper() == "ARG" else []


def without_values(text: str) -> str:
    """An instruction without the values of build arguments, which may be secret."""
    names = _arguments(text)
    return f"ARG {' '.join(names)}" if names else text
