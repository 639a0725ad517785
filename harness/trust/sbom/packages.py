"""Packages that a file tree says are installed in it: Debian's and Alpine's own records."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

from harness.trust.sbom.package_url import purl

DPKG = "var/lib/dpkg/status"
DPKG_PARTS = "var/lib/dpkg/status.d/"
"""One file a package, in images that were put together without dpkg."""
APK = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
UNREADABLE = ("var/lib/rpm/", "usr/lib/sysimage/rpm/")
"""Paths of package databases that cannot be read."""


def is_record(path: str) -> bool:
    """Return True when the content of a file is needed to list installed packages."""
    part = path.startswith(DPKG_PARTS) and not path.endswith(".md5sums")
    return part or path in (DPKG, *APK, *OS_RELEASE)


@dataclasses.dataclass(frozen=True, order=True)
class Package:
    """An installed package; ``purl`` is the name that scanners look it up by."""

    name: str
    version: str
    purl: str
    licenses: str = ""


@dataclasses.dataclass(frozen=True)
class System:
    """The distribution a tree says it is: ``ID`` and ``VERSION_ID`` of os-release, empty when it says none."""

    name: str = ""
    version: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}-{self.version}" if self.name and self.version else self.name


def system(records: Mapping[str, bytes]) -> System:
    """Distribution of the tree, by its os-release."""
    text = next((records[path].decode(errors="replace") for path in OS_RELEASE if records.get(path)), "")
    fields = {name: value.strip().strip("\"'") for name, _, value in (line.partition("=") for line in text.splitlines())}
    return System(fields.get("ID", ""), fields.get("VERSION_ID", ""))


def packages(records: Mapping[str, bytes]) -> tuple[Package, ...]:
    """All installed packages, sorted. ``records`` are the contents of the files for which is_record() holds."""
    here = system(records)
    installed: set[Package] = set()
    for path, data in records.items():
        text = data.decode(errors="replace")
        if path == DPKG or path.startswith(DPKG_PARTS):
            installed.update(_debian(text, here))
        elif path in APK:
            installed.update(_alpine(text, here))
    return tuple(sorted(installed))


def _debian(text: str, here: System) -> Iterator[Package]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = {name: value.strip() for name, value in re.findall(r"^([A-Za-z-]+):(.*)$", stanza, re.MULTILINE)}
        name, version = fields.get("Package", ""), fields.get("Version", "")
        # A record without Status is one of an image that was put together from packages, without dpkg.
        if not name or not version or not fields.get("Status", "install ok installed").endswith(" installed"):
            continue
        source = fields.get("Source", "")
        origin, _, release = source.partition(" (")
        upstream = f"{origin}@{release.removesuffix(')')}" if release else origin if source != name else ""
        qualifiers = {"arch": fields.get("Architecture", ""), "distro": here.label, "upstream": upstream}
        yield Package(name, version, purl("deb", here.name or "debian", name, version, qualifiers))


def _alpine(text: str, here: System) -> Iterator[Package]:
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(line.split(":", 1) for line in stanza.splitlines() if line[1:2] == ":")
        name, version = fields.get("P", ""), fields.get("V", "")
        if name and version:
            upstream = fields.get("o", "") if fields.get("o") != name else ""
            qualifiers = {"arch": fields.get("A", ""), "distro": here.label, "upstream": upstream}
            yield Package(name, version, purl("apk", here.name or "alpine", name, version, qualifiers), fields.get("L", ""))
