"""The build arguments VERSION and SOURCE as users write them: ``1.36``, ``v1.36``, ``1.36.3``, ``stable``, ``latest``; ``auto``.

When images/ compiles the programs of a Kubefile, its module folders are the available versions; when a Kubefile takes the official
binaries, their download site has the versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import urllib3

from harness import log
from harness.build import definitions, image_choice
from harness.errors import BuildError
from harness.host import gotools
from harness.kubefile import Kubefile
from harness.kubefile.instructions import Arg, Copy
from harness.oci.reference import OWN_DOMAIN, Reference

NEWEST = ("stable", "latest")
_SHORT = re.compile(r"v?\d+\.\d+")
_BARE = re.compile(r"\d+\.\d+\.\d+\S*")
_WHOLE = re.compile(r"v\d+\.\d+\.\d+\S*")
_ANSWER = 64
"""Bytes of a file that holds one version."""


AUTO, RELEASE, MODULES = "auto", "release", "modules"
"""Values of SOURCE: the official binaries where their site has the version, else compiled; always the one; always the other."""


class _AbsentError(BuildError):
    """The site of the official binaries answered that it does not have a version."""


def resolved(parse: Callable[[Mapping[str, str]], Kubefile], roots: Sequence[Path], mode: str, *, ask: bool = True) -> dict[str, str]:
    """Values of SOURCE and VERSION where a Kubefile or the user leaves them open.

    ``parse`` gives the Kubefile with some build arguments set. With SOURCE=auto a version that the site of the official binaries does not
    have is compiled. Raises BuildError, which lists the versions that exist, for another one; for a whole version only with ``ask``.
    """
    found: dict[str, str] = {}
    chosen = source(parse(found), mode)
    if chosen is not None:
        found["SOURCE"] = chosen
    try:
        version = whole(parse(found), roots)
        if version is not None:
            found["VERSION"] = version
        if ask:
            _require(parse(found), roots)
    except _AbsentError as absent:
        modules = {**found, "SOURCE": MODULES}
        compiled = _own_versions(parse(modules), roots)
        arguments = _arguments(parse(found))
        asked, site = arguments["VERSION"], arguments["MIRROR"]
        fitting = _fitting(asked, compiled)
        may_compile = chosen is not None and mode == image_choice.AUTO
        if not (fitting and may_compile):
            newest = _named(f"{site}/release/stable.txt")[0]
            existing = [f"the newest version there is {newest}"] if newest else []
            neither = ", and no module folder compiles it" if may_compile else ""
            way = "module folders have" if may_compile else "--build-arg SOURCE=modules compiles"
            existing += [f"{way} {', '.join(compiled)}"] if compiled else []
            raise BuildError(f"{site} has no Kubernetes {asked}{neither}", hint="; ".join(existing) or absent.hint) from absent
        log.info(f"{site} has no Kubernetes {asked}: it is compiled from its module (--build-arg SOURCE)")
        found = {**modules, "VERSION": fitting[-1]}
    return found


def _require(parsed: Kubefile, roots: Sequence[Path]) -> None:
    """Raise BuildError, _AbsentError from the site, when a whole version of a Kubefile is not where SOURCE says that it comes from."""
    arguments = _arguments(parsed)
    asked = arguments.get("VERSION", "")
    if not _WHOLE.fullmatch(asked):
        return
    compiled = _own_versions(parsed, roots)
    if compiled and asked not in compiled:
        raise BuildError(f"version {asked} does not exist", hint=f"available versions: {', '.join(compiled)}")
    if arguments.get("SOURCE") == RELEASE and "MIRROR" in arguments and _copied(parsed, asked):
        architecture = parsed.platform.split("/")[1]
        program = f"{arguments['MIRROR']}/release/{asked}/bin/linux/{architecture}/kubeadm"
        if image_choice.site_lacks(program):
            raise _AbsentError(f"{program} does not exist")


def _copied(parsed: Kubefile, version: str) -> list[Reference]:
    """Images with that tag whose files a Kubefile copies."""
    return [Reference.parse(copy.from_image) for copy in parsed.of(Copy) if copy.from_image and copy.from_image.endswith(f":{version}")]


def _own_versions(parsed: Kubefile, roots: Sequence[Path]) -> list[str]:
    """Versions that module folders compile of images that no registry has, and that a Kubefile copies from; sorted."""
    own = [reference for reference in _copied(parsed, _arguments(parsed).get("VERSION", "")) if reference.domain == OWN_DOMAIN]
    return sorted({version for reference in own for version in definitions.compiled_versions(reference, roots)}, key=gotools.numbers)


def _fitting(asked: str, available: Sequence[str]) -> list[str]:
    """Versions of the sorted ``available`` ones that match ``asked``: the whole version, its first numbers, or ``stable``."""
    if _WHOLE.fullmatch(asked):
        return [version for version in available if version == asked]
    prefix = () if asked in NEWEST else gotools.numbers(asked)
    return sorted((version for version in available if gotools.numbers(version)[: len(prefix)] == prefix), key=gotools.numbers)


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
    named = _copied(parsed, asked)
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
    fitting = _fitting(asked, available)
    if not fitting:
        raise BuildError(f"version {asked} does not exist", hint=f"available versions: {', '.join(sorted(available, key=gotools.numbers))}")
    return fitting[-1]


def _published(asked: str, arguments: Mapping[str, str]) -> str:
    """Newest version, or newest of a minor version, according to the site of the official binaries."""
    name = "stable" if asked in NEWEST else f"stable-{asked.removeprefix('v')}"
    url = f"{arguments['MIRROR']}/release/{name}.txt"
    hint = "state a whole version: --build-arg VERSION=v1.36.3"
    with log.step(f"ask which version {asked} is") as step:
        version, answer = _named(url)
        if version is None:
            kind = _AbsentError if answer.startswith("404 ") else BuildError
            raise kind(f"{url} names no version: {answer}", hint=hint)
        step.note = version
    return version


def _named(url: str) -> tuple[str | None, str]:
    """The version that a file of a site holds, or None with the reason: the status of the answer, or the error. Raises nothing."""
    try:
        answer = urllib3.PoolManager(retries=urllib3.Retry(3, backoff_factor=0.5)).request("GET", url, timeout=urllib3.Timeout(30))
    except urllib3.exceptions.HTTPError as error:
        return None, str(error)
    version = answer.data[:_ANSWER].decode(errors="replace").strip()
    return version if answer.status == 200 and _WHOLE.fullmatch(version) else None, f"{answer.status} {answer.reason}"
