"""Package URLs, as another implementation of the specification reads them."""

from __future__ import annotations

import pytest
from packageurl import PackageURL

from harness.trust.sbom.package_url import image_purl, purl


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "version", "qualifiers"),
    [
        ("deb", "debian", "libc6", "2.36-9~x1", {"arch": "amd64", "distro": "debian-12"}),
        ("deb", "debian", "g++", "4:12.2.0-3~rc1", {"upstream": "gcc-defaults@1.203"}),
        ("apk", "alpine", "zlib", "1.3.1-r2", {}),
        ("golang", "github.com/BurntSushi", "toml", "v1.2.3+incompatible", {}),
        ("golang", "", "stdlib", "1.27.3", {}),
        ("golang", "a b", "c@d?e#f", "1@2/3", {"arch": "a&b=c d%"}),
    ],
)
def test_purl_is_parsed_back_by_packageurl_library(kind: str, namespace: str, name: str, version: str, qualifiers: dict[str, str]) -> None:
    found = PackageURL.from_string(purl(kind, namespace, name, version, qualifiers))
    assert (found.type, found.namespace or "", found.name, found.version, found.qualifiers) == (kind, namespace, name, version, qualifiers)


def test_image_purl_names_repository_and_tag() -> None:
    found = PackageURL.from_string(image_purl("registry.test:5000/apps/web:1", f"sha256:{'0' * 64}"))
    assert (found.type, found.name, found.version) == ("oci", "web", f"sha256:{'0' * 64}")
    assert found.qualifiers == {"repository_url": "registry.test:5000/apps/web", "tag": "1"}


@pytest.mark.parametrize("name", ["", " ", "/", "//", "\0", "\ufffd"])
def test_purl_blank_or_invalid_name_raises_no_error(name: str) -> None:
    assert purl("golang", name, name, name, {"arch": name}).startswith("pkg:golang/")
