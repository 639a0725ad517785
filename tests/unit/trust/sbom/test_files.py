"""What lies in layers over each other, which packages it says it has, and how Go programs were built."""

from __future__ import annotations

import hashlib

import pytest

from harness.errors import StoreError
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_LAYER_GZIP, Descriptor
from harness.oci.store import CHUNK, Store
from harness.trust.sbom import go_binary, packages
from harness.trust.sbom.files import Inventory
from harness.trust.sbom.go_binary import GoBuild
from harness.trust.sbom.package_url import image_purl, purl
from harness.trust.sbom.packages import System


def paths(store: Store, *layers: list[LayerEntry]) -> list[str]:
    return list(Inventory(store).files([write_layer(entries, store).descriptor for entries in layers]))


def file(path: str, content: bytes = b"x") -> LayerEntry:
    return LayerEntry(path, "file", 0o644, content)


def test_files_have_sha256_and_size(store: Store) -> None:
    data = b"a" * (3 * CHUNK + 7)
    layer = write_layer(
        [file("big", data), LayerEntry("dir", "dir"), LayerEntry("link", "symlink", target="big"), file("empty", b"")], store
    )
    found = Inventory(store).files([layer.descriptor])
    assert list(found) == ["big", "empty"]
    assert (found["big"].sha256, found["big"].size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert found["empty"].sha256 == hashlib.sha256(b"").hexdigest()


def test_files_hard_link_equals_its_target(store: Store) -> None:
    layer = write_layer([file("a", b"content"), LayerEntry("b", "hardlink", target="a")], store)
    found = Inventory(store).files([layer.descriptor])
    assert found["a"] == found["b"]


def test_files_upper_layers_replace_and_remove_lower_entries(store: Store) -> None:
    lower = [LayerEntry("d", "dir"), file("d/a"), file("d/b"), file("e"), LayerEntry("d/sub", "dir"), file("d/sub/x")]
    assert paths(store, lower, [file("e", b"new")]) == ["d/a", "d/b", "d/sub/x", "e"]
    assert paths(store, lower, [LayerEntry("d/a", "whiteout")]) == ["d/b", "d/sub/x", "e"]
    assert paths(store, lower, [LayerEntry("d", "whiteout")]) == ["e"]
    assert paths(store, lower, [LayerEntry("d", "opaque"), LayerEntry("d", "dir"), file("d/new")]) == ["d/new", "e"]
    assert paths(store, lower, [file("d", b"a file now")]) == ["d", "e"]
    assert paths(store, lower, [LayerEntry("d", "symlink", target="e")]) == ["e"]
    assert paths(store, lower, [LayerEntry("d", "dir", 0o700)]) == ["d/a", "d/b", "d/sub/x", "e"]
    assert paths(store, lower, [LayerEntry("d", "whiteout")], [file("d/a")]) == ["d/a", "e"]


def test_files_replaced_file_has_sha256_of_upper_layer(store: Store) -> None:
    layers = [write_layer([file("a", text)], store).descriptor for text in (b"old", b"new")]
    assert Inventory(store).files(layers)["a"].sha256 == hashlib.sha256(b"new").hexdigest()
    assert Inventory(store).files(layers[::-1])["a"].sha256 == hashlib.sha256(b"old").hexdigest()


def test_files_unreadable_or_unknown_layer_raises_store_error(store: Store) -> None:
    digest, size = store.put(b"not a layer")
    with pytest.raises(StoreError, match="not a readable tar"):
        Inventory(store).files([Descriptor(OCI_LAYER_GZIP, digest, size)])
    with pytest.raises(StoreError, match="cannot be"):
        Inventory(store).files([Descriptor("application/x-strange", digest, size)])


# Packages


STATUS = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc (2.36-9)
Version: 2.36-9+deb12u4
Description: GNU C Library
 Version: in the description, which is no field

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: vim
Status: install ok installed
Architecture: amd64
Version: 2:9.0.1378-2
"""

OS = b'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n'


def test_packages_debian_status_lists_installed_packages_only() -> None:
    found = packages.packages({packages.DPKG: STATUS, "etc/os-release": OS})
    assert [(one.name, one.version) for one in found] == [("libc6", "2.36-9+deb12u4"), ("vim", "2:9.0.1378-2")]
    assert [one.purl for one in found] == [
        "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc%402.36-9",
        "pkg:deb/debian/vim@2:9.0.1378-2?arch=amd64&distro=debian-12",
    ]


def test_packages_distroless_status_d_is_read() -> None:
    found = packages.packages({"var/lib/dpkg/status.d/tzdata": b"Package: tzdata\nVersion: 2024a-0\nArchitecture: all\n"})
    assert [one.purl for one in found] == ["pkg:deb/debian/tzdata@2024a-0?arch=all"]
    assert not packages.is_record("var/lib/dpkg/status.d/tzdata.md5sums")


def test_packages_alpine_database_gives_purls_and_licenses() -> None:
    records = {
        "lib/apk/db/installed": b"C:Q1x=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\n\n"
        b"P:libssl3\nV:3.1.4-r5\nA:x86_64\nL:Apache-2.0\no:openssl\n",
        "etc/os-release": b"ID=alpine\nVERSION_ID=3.18.6\n",
    }
    assert [(one.purl, one.licenses) for one in packages.packages(records)] == [
        ("pkg:apk/alpine/libssl3@3.1.4-r5?arch=x86_64&distro=alpine-3.18.6&upstream=openssl", "Apache-2.0"),
        ("pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.18.6", "MIT"),
    ]


def test_system_is_read_from_os_release_and_empty_without_it() -> None:
    assert packages.system({"usr/lib/os-release": b"ID='ubuntu'\nVERSION_ID=24.04\n"}) == System("ubuntu", "24.04")
    assert packages.system({}) == System()
    assert packages.packages({}) == ()
    assert packages.packages({packages.DPKG: b"\xff\xfe nonsense \n\n:::\n"}) == ()


# Go


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def go_program(modules: str, version: bytes = b"go1.22.3", flags: int = 2) -> bytes:
    text = b"S" * 16 + modules.encode() + b"E" * 16 if modules else b""
    header = b"\xff Go buildinf:" + bytes([8, flags]) + bytes(16)
    return header + varint(len(version)) + version + varint(len(text)) + text


MODULES = (
    "path\texample.com/app\nmod\texample.com/app\t(devel)\t\n"
    "dep\tgolang.org/x/net\tv0.1.0\th1:x=\ndep\told/x\tv1.0.0\n=>\tnew/x\tv1.1.0\th1:y=\n"
)
EXPECTED = GoBuild("go1.22.3", (("example.com/app", "(devel)"), ("golang.org/x/net", "v0.1.0"), ("new/x", "v1.1.0")))


@pytest.mark.parametrize("chunk", [7, 4096, 1 << 20])
def test_finder_go_modules_are_found_across_any_chunk_size(chunk: int) -> None:
    strangers = b"\xff Go buildinf:" + b"\0" * 40
    data = b"\x7fELF" + b"\0" * 9999 + strangers + b"\1" * 5000 + go_program(MODULES) + b"\2" * 5000
    finder = go_binary.Finder()
    for start in range(0, len(data), chunk):
        finder.feed(data[start : start + chunk])
    assert finder.end() == EXPECTED


def test_parse_go_program_without_modules_gives_go_version() -> None:
    assert go_binary.parse(go_program("", b"go1.19.8 X:boringcrypto")) == GoBuild("go1.19.8")


@pytest.mark.parametrize(
    "data", [b"", go_program(MODULES, flags=0), go_program(MODULES, b"perl"), b"\xff Go buildinf:\x08\x02" + bytes(16) + b"\xff" * 20]
)
def test_parse_data_without_build_information_returns_none(data: bytes) -> None:
    assert go_binary.parse(data) is None


def test_parse_truncated_build_information_gives_no_modules() -> None:
    whole = go_program(MODULES)
    assert go_binary.parse(whole[:-10]) == GoBuild("go1.22.3")
    assert go_binary.parse(whole[:34]) is None


def test_files_searches_go_modules_in_elf_programs_only(store: Store) -> None:
    layer = write_layer([file("bin/app", b"\x7fELF" + go_program(MODULES)), file("app.txt", go_program(MODULES))], store)
    found = Inventory(store).files([layer.descriptor])
    assert (found["bin/app"].go, found["app.txt"].go) == (EXPECTED, None)


# Package URLs


def test_purl_special_characters_are_encoded() -> None:
    assert (
        purl("golang", "github.com/a b", "c+d", "v1@2/3", {"x": "", "b": "1&2"}) == "pkg:golang/github.com/a%20b/c%2Bd@v1%402%2F3?b=1%262"
    )
    assert image_purl("nginx", "sha256:ab") == "pkg:oci/nginx@sha256:ab?repository_url=docker.io/library/nginx&tag=latest"
    assert image_purl("ghcr.io:443/a/b@sha256:" + "0" * 64, "sha256:ab") == "pkg:oci/b@sha256:ab?repository_url=ghcr.io:443/a/b"
