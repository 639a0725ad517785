"""Image lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import discover, image_lists
from harness.build.declared_images import DeclaredImage, ScanResult
from harness.errors import InputError
from harness.oci.registry.credentials import Credential, CredentialStore
from tests.unit.build.rootfs_files import DIGEST, NGINX, write


def test_image_lists_of_rootfs_and_user_are_read_with_lines(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/imageList": "\ufeff# ours\n\nnginx:1  # why\r\n  a/b:2\n", "mine": f"c@{DIGEST}\nnginx:1\n"})
    found = discover.declared(tmp_path, discover.ScanSettings(image_list=tmp_path / "mine"))
    assert found.images == (
        DeclaredImage(NGINX, "manifests/imageList:3", "listed"),
        DeclaredImage("docker.io/a/b:2", "manifests/imageList:4", "listed"),
        DeclaredImage(f"docker.io/library/c@{DIGEST}", f"{tmp_path}/mine:1", "listed"),
        DeclaredImage(NGINX, f"{tmp_path}/mine:2", "listed"),
    )


def test_image_list_missing_raises_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: no such image list"):
        discover.declared(tmp_path, discover.ScanSettings(image_list=tmp_path / "none"))


def test_image_list_with_auth_yields_logins_and_image_names(tmp_path: Path) -> None:
    text = """
        - registry: reg.io:5000
          username: u
          password: "p"
          images:
          - reg.io:5000/ns/a:1
          - ns/b:2
        - username: v
          password: q
          images: [c]
        - username: nobody
          images: []
    """
    found = image_lists.read_image_list_with_auth(write(tmp_path, {"list.yaml": text}) / "list.yaml")
    assert [(section.registry, section.username, section.password) for section in found] == [
        ("reg.io:5000", "u", "p"),
        ("docker.io", "v", "q"),
    ]
    assert [image.name for section in found for image in section.images] == [
        "reg.io:5000/ns/a:1",
        "reg.io:5000/ns/b:2",
        "docker.io/library/c:latest",
    ]
    assert "'p'" not in repr(found)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: 1\n", "1", "a list of sections is wanted"),
        ("- registry: x.io\n  images: [a]\n", "1", "a section needs both username and password"),
        ("- username: u\n  password: p\n  images:\n  - A\n", "4", "'docker.io/A' is not an image name"),
        ("- [\n", "2", "not YAML"),
    ],
)
def test_image_list_with_auth_invalid_section_raises_input_error_with_line(tmp_path: Path, text: str, where: str, message: str) -> None:
    path = write(tmp_path, {"list.yaml": text}) / "list.yaml"
    with pytest.raises(InputError) as caught:
        image_lists.read_image_list_with_auth(path)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:{where}"]
    assert caught.value.faults[0].message.startswith(message)


def test_listed_logins_take_precedence_over_user_logins(tmp_path: Path) -> None:
    text = "- registry: r.io\n  username: u\n  password: p\n  images: [c:1]\n"
    write(tmp_path, {"imageListWithAuth.yaml": text})
    others = CredentialStore(write(tmp_path / "docker", {"config.json": '{"auths": {"r.io": {"auth": "eDp5"}, "q.io": {"auth": "eDp5"}}}'}))
    logins = image_lists.ListedLogins(image_lists.sections_in(tmp_path), others)
    assert logins.find("r.io") == Credential("u", "p")
    assert logins.find("q.io") == Credential("x", "y")
    assert logins.find("docker.io") is None
    assert image_lists.sections_in(tmp_path / "docker") == ()
    assert [image.name for image in image_lists.images_with_auth(tmp_path)[0]] == ["r.io/c:1"]


def test_shim_lists_of_sealos_are_read_from_context(tmp_path: Path) -> None:
    write(
        tmp_path, {"images/shim/webImages": "# all\nnginx:1\n", "images/shim/b": "a/b:2\n", "images/shim/.keep": "", "images/x/c": "c:1\n"}
    )
    scan = image_lists.with_shim_lists(ScanResult(), tmp_path, tmp_path / "none")
    assert [(image.name, image.where, image.found_by) for image in scan.images] == [
        ("docker.io/a/b:2", f"{tmp_path}/images/shim/b:1", "listed"),
        (NGINX, f"{tmp_path}/images/shim/webImages:2", "listed"),
    ]
    write(tmp_path, {"images/shim/b": "A B\n"})
    assert [fault.where for fault in image_lists.with_shim_lists(ScanResult(), tmp_path).faults] == [f"{tmp_path}/images/shim/b:1"]
