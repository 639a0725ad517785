"""Files of the image that a run reads on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import InputError, StoreError
from harness.lifecycle import steps
from harness.lifecycle.cluster import request


class Setup:
    """A run whose first master gets one rootfs, nothing rendered."""

    def __init__(self, tree: Path) -> None:
        self._tree = tree
        self.first = cast("Any", type("Master", (), {"address": "10.0.0.1"}))
        self.rendered: dict[str, dict[str, Any]] = {"10.0.0.1": {}}

    def tree(self, _node: object) -> Path:
        return self._tree


def content(tree: Path, path: str) -> str | None:
    setup = cast("steps.Setup", Setup(tree))
    return steps.Setup.content(setup, setup.first, path)


def addons(tree: Path) -> dict[str, str]:
    return steps.addons(cast("steps.Setup", Setup(tree)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "rootfs/etc/addons").mkdir(parents=True)
    (tmp_path / "rootfs/etc/addons/dns.yaml").write_text("kind: Service")
    (tmp_path / "rootfs/etc/addons/.hidden.yaml").write_text("kind: None")
    return tmp_path / "rootfs"


def test_addons_and_files_of_the_image(tree: Path) -> None:
    (tree / "etc/addons/link.yaml").symlink_to("../addons/dns.yaml")
    assert addons(tree) == {"dns.yaml": "kind: Service", "link.yaml": "kind: Service"}
    assert content(tree, "etc/addons/dns.yaml") == "kind: Service"
    assert content(tree, "etc/none") is None
    assert content(tree, "etc/addons") is None


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../secret"])
def test_files_behind_a_link_out_of_the_rootfs_are_not_read(tree: Path, target: str) -> None:
    for path in ("etc/kubeadm.yml", "etc/addons/a.yaml"):
        (tree / path).symlink_to(target if target.startswith("/") else target[3:] if path.count("/") == 1 else target)
    with pytest.raises(StoreError, match="leads out of the folder"):
        content(tree, "etc/kubeadm.yml")
    with pytest.raises(StoreError, match="leads out of the folder"):
        addons(tree)


def test_a_folder_of_addons_that_is_a_link_out_of_the_rootfs_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "etc/addons").rename(tmp_path / "addons")
    (tree / "etc/addons").symlink_to(tmp_path / "addons")
    with pytest.raises(StoreError, match="leads out of the folder"):
        addons(tree)


@pytest.mark.parametrize("name", ["absolute", "circle"])
def test_a_config_takes_the_place_of_a_link_and_reads_nothing_through_it(tree: Path, tmp_path: Path, name: str) -> None:
    (tree / "etc" / name).symlink_to(tmp_path / "secret" if name == "absolute" else name)
    assert request._content(tree, f"etc/{name}") is None
    request._write(tree, f"etc/{name}", b"new")
    assert (tree / "etc" / name).read_bytes() == b"new"
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_config_below_a_link_out_of_the_rootfs_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of the rootfs"):
        request._write(tree, "out/secret", b"new")
    assert (tmp_path / "secret").read_text() == "secret"
