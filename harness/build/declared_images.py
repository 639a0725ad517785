"""Images that files of a rootfs declare, collected with the faults of these files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from harness.errors import Fault, InputError
from harness.oci.reference import Reference

STAND_IN = "slipway-undefined-"

TAKE, REPORT, REFUSE = POSSIBLE_MODES = ("take", "report", "refuse")
"""Treatment of possible images."""

FoundBy = Literal["declared", "listed"]

_SHELL_VARIABLE = re.compile(r"\$\{(\w+)[^}]*\}|\$\(?([A-Za-z_]\w*)\)?")


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
        variable = _SHELL_VARIABLE.search(text)
        if variable is not None:
            if not possible:
                name = variable[1] or variable[2]
                message = f"{text} holds a shell variable, so the image is not known"
                self.warnings.append(Fault(where, message, f"{{{{ {name} }}}} is replaced by slipway, with the value of ENV {name}"))
            return
        if STAND_IN in text:
            name = re.split(r"[^A-Za-z0-9_]", text.partition(STAND_IN)[2])[0]
            if not possible:
                message = f"the image depends on {name}, which has no value yet"
                self.warnings.append(Fault(where, message, f"ENV {name}=... in the Kubefile"))
            return
        image = parse_image(text, where, "declared", [] if possible else self.faults if wrong is None else wrong)
        if image:
            (self.possible if possible else self.images).append(image)

    def result(self) -> ScanResult:
        names = {image.name for image in self.images}
        possible = (image for image in dict.fromkeys(self.possible) if image.name not in names)
        return ScanResult(tuple(dict.fromkeys(self.images)), tuple(possible), tuple(self.faults), tuple(self.warnings))


def parse_image(text: str, where: str, found_by: FoundBy, faults: list[Fault]) -> DeclaredImage | None:
    try:
        return DeclaredImage(str(Reference.parse(text)), where, found_by)
    except ValueError as wrong:
        faults.append(Fault(where, str(wrong)))
        return None
