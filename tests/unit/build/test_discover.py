"""The files of a rootfs that are read for images."""

from __future__ import annotations

from pathlib import Path

from tests.unit.build.rootfs_files import declared, write


def test_which_files_are_read(tmp_path: Path) -> None:
    pod = "spec: {containers: [{image: '%s'}]}\n"
    names = {
        "manifests/a.yaml": "a",
        "manifests/sub/b.yml": "b",
        "manifests/c.json": "c",
        "manifests/d.tmpl": "d",
        "application/apps/x/e.yaml": "e",
        "etc/addons/f.yaml": "f",
        "g.yaml": "g",
        "manifests/no.txt": "no1",
        "bin/no.yaml": "no2",
        "registry/no.yaml": "no3",
        "charts/x/templates/no.yaml": "no4",
        "charts/values.yaml": "no5",
        "application/other.yaml": "no6",
    }
    write(tmp_path, {path: pod % image for path, image in names.items()})
    (tmp_path / "manifests/link.yaml").symlink_to("no.txt")
    found = declared(tmp_path)
    assert [name.removeprefix("docker.io/library/") for name in found.names] == [f"{letter}:latest" for letter in "abcdefg"]
