"""Images that files of a rootfs declare, collected with the faults of these files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from harness import untrusted
from harness.errors import Fault
from harness.oci.reference import Reference

STAND_IN = "slipway-undefined-"

TAKE, REPORT, REFUSE = POSSIBLE_MODES = ("take", "report", "refuse")
"""Treatment of possible images."""

FoundBy = Literal["declared", "listed"]


@dataclasses.dataclass(frozen=True, order=True)
class DeclaredImage:
    """An image and where it is named: ``manifests/app.yaml:12``; a chart's template has no line, as it was rendered."""

    name: str
    """Canonical: ``docker.io/library/nginx:1.25``."""
    where: str
    found_by: FoundBy = "declared"


@dataclasses.dataclass(frozen=True)
class RootfsFile:
    """A file of a rootfs, wherever its bytes are now."""

    path: str
    """In the rootfs."""
    source: Path
    shown: str
    """Name in fault messages."""


@dataclasses.dataclass(frozen=True)
class ScanResult:
    """Images that files declare. An image is in ``images`` once for each place that names it."""

    images: tuple[DeclaredImage, ...] = ()
    possible: tuple[DeclaredImage, ...] = ()
    """Text that looks like an image: for the report, not for the image set."""
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted({image.name for image in self.images}))


def with_possible(scan: ScanResult, mode: str) -> ScanResult:
    """The result as ``--possible`` wants it: possible images are declared ones (take), or faults (refuse), or stay what they are."""
    if mode == TAKE:
        return dataclasses.replace(scan, images=(*scan.images, *scan.possible), possible=())
    if mode == REFUSE:
        return dataclasses.replace(scan, faults=(*scan.faults, *(unwanted(image) for image in scan.possible)))
    return scan


def unwanted(image: DeclaredImage) -> Fault:
    hint = "--possible take includes it, --possible report leaves it out; an image list (manifests/imageList) decides for one image"
    return Fault(image.where, f"{image.name} may be an image, but no pod names it", hint)


@dataclasses.dataclass
class GatheredImages:
    images: list[DeclaredImage] = dataclasses.field(default_factory=list)
    possible: list[DeclaredImage] = dataclasses.field(default_factory=list)
    faults: list[Fault] = dataclasses.field(default_factory=list)
    warnings: list[Fault] = dataclasses.field(default_factory=list)

    def take(self, images_and_faults: Iterable[DeclaredImage | Fault]) -> None:
        for item in images_and_faults:
            if isinstance(item, Fault):
                self.faults.append(item)
            else:
                self.images.append(item)

    def add(self, text: str, where: str, *, possible: bool = False, wrong: list[Fault] | None = None) -> None:
        """Take an image's name as a manifest has it. One that hangs on an undefined variable cannot be known now.

        An invalid name goes into ``wrong``, the faults by default.
        """
        text = text.strip()
        if not text:
            return
        placeholder = _PLACEHOLDER.search(text)
        if placeholder is not None:
            if not possible:
                self.warnings.append(_of_placeholder(text, where, placeholder))
            return
        image = parse_image(text, where, "declared", [] if possible else self.faults if wrong is None else wrong)
        if image:
            (self.possible if possible else self.images).append(image)

    def result(self) -> ScanResult:
        names = {image.name for image in self.images}
        possible = (image for image in dict.fromkeys(self.possible) if image.name not in names)
        return ScanResult(tuple(dict.fromkeys(self.images)), tuple(possible), tuple(self.faults), tuple(self.warnings))


def _of_placeholder(text: str, where: str, placeholder: re.Match[str]) -> Fault:
    name = placeholder["missing"] or placeholder["name"]
    if name:
        hint = f"ENV {name}=... in the Kubefile, or slipway build -e {name}=VALUE"
        return Fault(where, f"the image depends on {name}, which has no value yet", hint)
    hint = "it is found when the build runs the image; an image list can name it as well"
    if variable := placeholder["variable"]:
        hint = f"write {{{{ {variable} }}}} for the value of ENV {variable}; or leave it: {hint}"
    return Fault(where, f"{untrusted.shown(text)[:200]} is filled in by another program, so the file does not say which image it is", hint)


_PLACEHOLDER = re.compile(
    re.escape(STAND_IN) + r"(?P<missing>\w*)"
    r"|\{\{[ \t]*\.?(?P<name>[A-Za-z_][A-Za-z0-9_-]*)[ \t]*\}\}"
    r"|\{\{[^{}]*\}\}"
    r"|\$[{(]?(?P<variable>[A-Za-z_]\w*)"
)
"""Text in the name of an image that is replaced later: by slipway, by another template language, or by a shell and ``envsubst``."""


def parse_image(text: str, where: str, found_by: FoundBy, faults: list[Fault]) -> DeclaredImage | None:
    try:
        return DeclaredImage(str(Reference.parse(text)), where, found_by)
    except ValueError as wrong:
        faults.append(Fault(where, str(wrong)))
        return None
