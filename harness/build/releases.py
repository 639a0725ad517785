"""The build arguments VERSION and SOURCE as users write them: ``1.36``, ``v1.36``, ``1.36.3``, ``stable``, ``latest``; ``auto``.

When images/ compiles the programs of a Kubefile, its module folders are the available versions; when a Kubefile takes the official
binaries, their download site lists the versions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import urllib3

from harness import log
from harness.build import definitions, image_choice
from harness.errors import BuildError
from harness.host import gotools
from harness.kubefile import Kubefile
from harness.kubefile.instructions import Arg, Copy
from harness.oci.reference import Reference

NEWEST = ("stable", "latest")
_SHORT = re.compile(r"v?\d+\.\d+")
_BARE = re.compile(r"\d+\.\d+\.\d+\S*")
_WHOLE = re.compile(r"v\d+\.\d+\.\d+\S*")
_ANSWER = 64
"""Bytes of a file that holds one version."""


AUTO, RELEASE, MODULES = "auto", "release", "modules"
"""Values of SOURCE: the official binaries where their site answers, else compiled; always the one; always the other."""


def source(parsed: Kubefile, mode: str) -> str | None:
    """Value that SOURCE=auto of a Kubefile resolves to; None when SOURCE is not auto. ``mode`` is one of image_choice.MODES."""
    arguments = _arguments(parsed)
    if arguments.get("SOURCE") != AUTO or "MIRROR" not in arguments:
        return None
    if mode != image_choice.AUTO:
        return {image_choice.UPSTREAM: RELEASE, image_choice.BUILT: MODULES}[mode]
    answers = image_choice.site_answers(f"{arguments['MIRROR']}/release/stable.txt")
    if not answers:
        log.info(f"{arguments['MIRROR']} does not answer: Kubernetes is compiled from its module (--build-arg SOURCE)")
    return RELEASE if answers else MODULES


def _arguments(parsed: Kubefile) -> dict[str, str]:
    return {name: value for arg in parsed.of(Arg) for name, value in arg.values.items() if value is not None}


def whole(parsed: Kubefile, roots: Sequence[Path]) -> str | None:
    """Whole version, as ``v1.36.3``, that VERSION of a Kubefile resolves to; None when it is whole already or not of Kubernetes.

    Raises BuildError when no version matches.
    """
    arguments = _arguments(parsed)
    asked = arguments.get("VERSION", "")
    if not (asked in NEWEST or _SHORT.fullmatch(asked) or _BARE.fullmatch(asked)):
        return None
    named = [Reference.parse(copy.from_image) for copy in parsed.of(Copy) if copy.from_image and copy.from_image.endswith(f":{asked}")]
    if not named:
        return None
    if _BARE.fullmatch(asked):
        return f"v{asked}"
    available = [version for reference in named for version in definitions.compiled_versions(reference, roots)]
    if available:
        return choose(asked, available)
    return _published(asked, arguments) if "MIRROR" in arguments else None


def choose(asked: str, available: Sequence[str]) -> str:
    """Newest of the ``available`` versions that match ``asked``. Raises BuildError when none does."""
    prefix = () if asked in NEWEST else gotools.numbers(asked)
    fitting = [version for version in available if gotools.numbers(version)[: len(prefix)] == prefix]
    if not fitting:
        raise BuildError(f"version {asked} does not exist", hint=f"available versions: {', '.join(sorted(available, key=gotools.numbers))}")
    return max(fitting, key=gotools.numbers)


def _published(asked: str, arguments: Mapping[str, str]) -> str:
    """Newest version, or newest of a minor version, according to the site of the official binaries."""
    name = "stable" if asked in NEWEST else f"stable-{asked.removeprefix('v')}"
    url = f"{arguments['MIRROR']}/release/{name}.txt"
    with log.step(f"ask which version {asked} is") as step:
        try:
            answer = urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.5)).request("GET", url, timeout=urllib3.Timeout(30))
        except urllib3.exceptions.HTTPError as error:
            raise BuildError(f"{url}: {error}", hint="state a whole version: --build-arg VERSION=v1.36.3") from error
        version = answer.data[:_ANSWER].decode(errors="replace").strip()
        if answer.status != 200 or not _WHOLE.fullmatch(version):
            raise BuildError(
                f"{url} names no version: {answer.status} {answer.reason}", hint="state a whole version: --build-arg VERSION=v1.36.3"
            )
        step.note = version
    return version
