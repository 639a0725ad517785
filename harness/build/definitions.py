"""images/<name>/Dockerfile -> definitions of container images: the stages that a line ``# image: NAME:TAG`` marks.

The name may hold the Dockerfile's build arguments: ``# image: slipway.dev/kube-proxy:${VERSION}`` serves every version.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from harness import assets
from harness.build import image_context
from harness.errors import Fault, InputError
from harness.oci.reference import Reference

_IMAGE = re.compile(r"#\s*image:\s*(?P<name>\S+)\s*$")
_ARG = re.compile(r"ARG\s+(?P<name>\w+)(?:=(?P<quote>[\"']?)(?P<value>\S*?)(?P=quote))?\s*$", re.IGNORECASE)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class BaseImage:
    """Base image of a stage. ``here``: for the machine that builds (``FROM --platform=...``), not for the platform of the image."""

    name: str
    here: bool = False


@dataclasses.dataclass(frozen=True)
class Definition:
    """One image that a folder of images/ defines. ``pattern`` is its name, with ``${ARG}`` left in; ``target`` its stage."""

    folder: Path
    pattern: str
    target: str | None
    arguments: tuple[tuple[str, str], ...]
    bases: tuple[BaseImage, ...]

    def match(self, reference: Reference) -> dict[str, str] | None:
        """Build arguments that make this definition ``reference``, in its short or its full form; None when none do."""
        parts = _VARIABLE.split(self.pattern)
        expression = "".join(re.escape(part) if index % 2 == 0 else f"(?P<{part}>[^/:]+)" for index, part in enumerate(parts))
        matched = re.fullmatch(expression, reference.familiar) or re.fullmatch(expression, str(reference))
        return None if matched is None else matched.groupdict()

    def context(self, arguments: Mapping[str, str]) -> image_context.Context | None:
        """Build context for the build arguments of ``match``; None when their version cannot be built."""
        return image_context.plan(self.folder, self.target, arguments.get("VERSION", "") if "${VERSION}" in self.pattern else "")

    @property
    def name(self) -> str:
        """The name with the Dockerfile's own defaults."""
        return _VARIABLE.sub(lambda match: dict(self.arguments).get(match[1], ""), self.pattern)


def definitions(root: Path) -> tuple[Definition, ...]:
    """Every image that ``root``/<name>/Dockerfile define. Raises InputError for two folders that define one name."""
    images = [definition for path in sorted(root.glob("*/Dockerfile")) for definition in _read(path)]
    names = [definition.pattern for definition in images]
    faults = [
        Fault(f"{definition.folder}/Dockerfile", f"{definition.pattern} is defined twice")
        for index, definition in enumerate(images)
        if definition.pattern in names[:index]
    ]
    if faults:
        raise InputError(faults)
    return tuple(images)


def compiled_versions(reference: Reference, roots: Iterable[Path]) -> tuple[str, ...]:
    """Versions in which ``roots`` compile an image of this name, whatever tag ``reference`` has: ``v1.36.3``, the newest last."""
    matching = [definition for root in roots for definition in definitions(root) if definition.match(reference) is not None]
    return tuple(version for definition in matching for version in image_context.versions(definition.folder))


def bundled() -> list[Path]:
    """The images/ that came with the package: those of a checkout, or those that the wheel carries."""
    folder = assets.bundled("images")
    return [folder] if folder else []


def _read(path: Path) -> Iterator[Definition]:
    text = path.read_text()
    arguments: dict[str, str] = {}
    named: list[tuple[str | None, str]] = []
    pending: str | None = None
    for line in text.splitlines():
        if match := _IMAGE.match(line.strip()):
            pending = match["name"]
        elif match := image_context.FROM.match(line.strip()):
            named += [(match["stage"], pending)] if pending else []
            pending = None
        elif match := _ARG.match(line.strip()):
            # One without a default declares it for a stage; the default stands elsewhere.
            arguments[match["name"]] = arguments.get(match["name"]) or match["value"] or ""
    for stage, name in named:
        yield Definition(path.parent, name, stage, tuple(arguments.items()), _bases(text, stage))


def _bases(text: str, target: str | None) -> tuple[BaseImage, ...]:
    """Base images of a stage and of the stages that it copies from."""
    _, stages = image_context.needed(text, target)
    internal = {stage.name for stage in stages} | {"scratch"}
    return tuple(dict.fromkeys(BaseImage(stage.base, stage.here) for stage in stages if stage.base not in internal))
