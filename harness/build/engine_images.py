"""Images in the engine: the names they have there, and bases that are pulled or made."""

from __future__ import annotations

import dataclasses
import re

from harness import log
from harness.build.debian import make_debian
from harness.errors import BuildError
from harness.host import docker
from harness.oci.model import Platform
from harness.oci.reference import Reference

_LONGEST_TAG = 100
"""Letters of a tag, of at most 128."""


def kept_name(reference: Reference, key: str) -> str:
    """Name in the engine of an image built from inputs with this key: ``slipway.dev/node:13-0123456789ab``."""
    tag = f"{(reference.tag or '')[:_LONGEST_TAG]}-{key[: docker.SHORT_KEY]}"
    return dataclasses.replace(reference, tag=tag, digest=None).familiar


def is_kept(client: docker.Client, name: str) -> bool:
    """Return True when the engine has an image that slipway built under ``kept_name``, and mark it as used now."""
    try:
        present = client.images.get(name)
    except docker.NotFound:
        return False
    repository, _, tag = name.rpartition(":")
    # The engine records when an image was tagged last: prune finds idle images by that.
    present.tag(repository, tag)
    return True


def foreign_name(name: str, platform: Platform) -> str:
    """The tag under which an engine keeps image ``name`` for a platform that is not its own."""
    reference = Reference.parse(name)
    version = reference.tag or (reference.digest or "").removeprefix("sha256:")[:12]
    return dataclasses.replace(reference, tag=f"{version}-{str(platform).replace('/', '-')}", digest=None).familiar


def ensure_base(client: docker.Client, name: str, platform: Platform | None = None) -> None:
    """Have the base image ``name`` in the engine: there already, pulled, or (Debian) made from the package archive.

    One for another platform than the engine's lies there as ``foreign_name()``.
    """
    foreign = platform is not None and not platform.matches(Platform.host())
    kept = foreign_name(name, platform) if foreign and platform else name
    try:
        client.images.get(kept)
    except docker.NotFound:
        pass
    else:
        return
    with log.step(f"base image {name}{f' for {platform}' if foreign else ''}") as shown:
        try:
            if foreign and platform:
                _pull_foreign(client, name, kept, platform)
            else:
                client.images.pull(name)
            shown.note = "pulled"
        except docker.APIError as error:
            debian = re.fullmatch(r"debian:(\w+)-slim", name)
            if debian is None:
                raise BuildError(f"the base image {name} cannot be pulled: {error.explanation or error}") from error
            make_debian(client, kept, debian[1], platform or Platform.host())
            shown.note = "made from the package archive"


def _pull_foreign(client: docker.Client, name: str, kept: str, platform: Platform) -> None:
    """Pull an image for another platform. The engine gives it the name itself, so what had that name gets it back."""
    try:
        own = client.images.get(name)
    except docker.NotFound:
        own = None
    client.api.pull(name, platform=str(platform))
    repository, _, tag = kept.rpartition(":")
    client.images.get(name).tag(repository, tag)
    if own is not None:
        repository, _, tag = Reference.parse(name).familiar.rpartition(":")
        own.tag(repository, tag)
    else:
        client.images.remove(name, noprune=True)
