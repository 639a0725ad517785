"""The files of a rootfs that are read for images."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import discover
from harness.build.launch_commands import LaunchCommand
from harness.errors import InputError
from tests.unit.build.rootfs_files import write


def test_declared_reads_manifests_and_skips_other_files(tmp_path: Path) -> None:
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
    found = discover.declared(tmp_path)
    assert [name.removeprefix("docker.io/library/") for name in found.names] == [f"{letter}:latest" for letter in "abcdefg"]


POD = "spec: {containers: [{image: '%s'}]}\n"
CHART = "apiVersion: v2\nname: x\nversion: 1.0.0\nannotations: {images: 'outside/chart:1'}\n"


@pytest.mark.parametrize("absolute", [True, False])
def test_declared_folder_that_is_a_link_is_not_entered(tmp_path: Path, absolute: bool) -> None:
    root = write(tmp_path / "rootfs", {"etc/web.yaml": POD % "web:1", "opt/inner/a.yaml": POD % "inside:1"})
    outside = {"a.yaml": POD % "outside:1", "imageList": "outside:2\n", "kustomization.yaml": "resources: [a.yaml]\n", "Chart.yaml": CHART}
    write(tmp_path / "outside", outside)
    (root / "application").mkdir()
    for folder, up in (("manifests", ".."), ("charts", ".."), ("deploy", ".."), ("application/apps", "../..")):
        (root / folder).symlink_to(tmp_path / "outside" if absolute else f"{up}/outside")
    (root / "etc/addons").symlink_to(root / "opt/inner" if absolute else "../opt/inner")
    commands = (
        "kubectl apply -f manifests/a.yaml -f deploy",
        "kubectl apply -f deploy/a.yaml",
        "kubectl apply -k deploy",
        "helm install x charts",
    )
    assert discover.declared(root, launched(*commands)).names == ("docker.io/library/web:1",)


def launched(*commands: str) -> discover.ScanSettings:
    return discover.ScanSettings(launch=[LaunchCommand(text, "Kubefile:3") for text in commands])


def test_declared_files_named_by_launch_commands_are_read_in_any_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"zoo/app.yaml": POD % "zoo:1", "deploy/web.yml": POD % "web:1", "deploy/plain": POD % "plain:1", "other/x.yaml": POD % "x:1"},
    )
    found = discover.declared(tmp_path, launched("kubectl apply -f zoo/app.yaml -f deploy", "kubectl apply -f deploy/plain"))
    assert [(image.name.rpartition("/")[2], image.where) for image in found.images] == [
        ("plain:1", "deploy/plain:1"),
        ("web:1", "deploy/web.yml:1"),
        ("zoo:1", "zoo/app.yaml:1"),
    ]


def test_declared_named_file_not_yaml_raises_input_error_with_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"zoo/app\.yaml:2: not YAML"):
        discover.declared(write(tmp_path, {"zoo/app.yaml": "a: [\n"}), launched("kubectl apply -f zoo/app.yaml"))


def test_declared_launch_command_images_are_found_or_warned_about(tmp_path: Path) -> None:
    found = discover.declared(
        tmp_path, launched("kubectl run x --image=a:1", "crictl pull registry.example.com/b:1", "kubectl run y --image=Bad:1")
    )
    assert [(image.name, image.where) for image in found.images] == [("docker.io/library/a:1", "Kubefile:3")]
    assert [image.name for image in found.possible] == ["registry.example.com/b:1"]
    assert [warning.where for warning in found.warnings] == ["Kubefile:3"]
