"""Images of contexts, charts, manifests and CloudImages, by reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.build import find_images
from harness.build.options import BuildOptions
from harness.cloudimage import Info, PlatformImage
from harness.errors import InputError, StoreError, UsageError
from harness.host import tools
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.unit.build.rootfs_files import DIGEST, write

POD = "spec: {containers: [{image: '%s'}]}\n"


@pytest.fixture(autouse=True)
def without_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "present_helm", lambda: None)
    monkeypatch.setattr(tools, "present_kubectl", lambda: None)
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))


def places(found: dict[str, Any], key: str = "images") -> dict[str, list[str]]:
    return {image["name"].removeprefix("docker.io/library/"): image["where"] for image in found[key]}


def test_find_in_context_lists_declared_and_possible_images(tmp_path: Path) -> None:
    text = "FROM scratch\nCOPY a.yaml deploy/\nCMD kubectl apply -f deploy\n"
    write(tmp_path, {"Kubefile": text, "a.yaml": POD % "a:1" + "args: [--x-image, b:2]\n"})
    found = find_images.find_in_context(BuildOptions(tmp_path, "x"))
    assert places(found) == {"a:1": [f"{tmp_path}/a.yaml:1"]}
    assert places(found, "possibleImages") == {"b:2": [f"{tmp_path}/a.yaml:2"]}


def test_find_in_files_reads_manifests_below_folder(tmp_path: Path) -> None:
    write(tmp_path, {"a.yaml": POD % "a:1", "sub/b.yml": POD % "b:1", ".git/c.yaml": POD % "c:1", "notes.txt": "d:1"})
    assert places(find_images.find_in_files(tmp_path)) == {"a:1": [f"{tmp_path}/a.yaml:1"], "b:1": [f"{tmp_path}/sub/b.yml:1"]}


def test_find_in_files_reads_single_manifest_without_yaml_suffix(tmp_path: Path) -> None:
    write(tmp_path, {"plain": POD % "a:1", "other.yaml": POD % "b:1"})
    assert places(find_images.find_in_files(tmp_path / "plain")) == {"a:1": [f"{tmp_path}/plain:1"]}


def test_find_in_files_kustomization_replaces_image_tag(tmp_path: Path) -> None:
    write(tmp_path, {"kustomization.yaml": "resources: [a.yaml]\nimages:\n- {name: a, newTag: '2'}\n", "a.yaml": POD % "a:1"})
    assert places(find_images.find_in_files(tmp_path)) == {"a:2": [f"{tmp_path}/kustomization.yaml:3"]}


def test_find_in_files_chart_without_helm_reads_annotations_and_warns(tmp_path: Path) -> None:
    found = find_images.find_in_files(write(tmp_path, {"Chart.yaml": "name: x\nannotations: {helm.sh/images: '- a:1'}\n"}))
    assert places(found) == {"a:1": [f"{tmp_path}/Chart.yaml:2"]}
    assert "helm is not installed" in found["warnings"][0]


def test_find_in_files_invalid_yaml_raises_input_error_with_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.yaml:2"):
        find_images.find_in_files(write(tmp_path, {"a.yaml": "a: [\n"}))


def test_find_in_image_reads_manifests_and_launch_commands(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    manifest = (POD % "a:{{ Tag }}").encode()
    with store.shared_lease():
        layer = write_layer([LayerEntry("manifests", "dir", 0o755), LayerEntry("manifests/a.yaml", "file", 0o644, manifest)], store)
        info = Info(type="app", env={"Tag": "1"}, launch=("kubectl apply -f manifests/a.yaml", "kubectl run x --image=b:2"))
        part = PlatformImage(Platform.host(), (layer.descriptor,), (layer.diff_id,), info=info)
        store.tag("web:1", cloudimage.write(store, [part]))
    found = find_images.find_in_image(store, "web:1")
    assert found["subject"] == "web:1"
    assert places(found) == {"a:1": ["manifests/a.yaml:1"], "b:2": ["launch"]}


FOUND = {
    "subject": "x",
    "images": [
        {"name": "docker.io/library/nginx:1", "foundBy": ["declared"], "where": ["a:1"]},
        {"name": "docker.io/library/nginx:2", "foundBy": ["listed"], "where": ["b:1"]},
        {"name": f"a.io/db@{DIGEST}", "foundBy": ["declared"], "where": ["c:1"]},
    ],
    "possibleImages": [{"name": "a.io/nginx-side:1", "foundBy": ["declared"], "where": ["d:1"]}],
    "warnings": ["w"],
}


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("nginx:1", ["docker.io/library/nginx:1"]),
        ("nginx", ["docker.io/library/nginx:1", "docker.io/library/nginx:2"]),
        ("a.io/db", [f"a.io/db@{DIGEST}"]),
        ("side", ["a.io/nginx-side:1"]),
    ],
)
def test_why_selects_images_by_full_or_partial_name(name: str, names: list[str]) -> None:
    part = find_images.why(FOUND, name)
    assert [image["name"] for key in ("images", "possibleImages") for image in part[key]] == names


def test_why_of_unknown_image_raises_usage_error() -> None:
    with pytest.raises(UsageError, match="--why none: no file of x names it"):
        find_images.why(FOUND, "none")


def test_lock_resolves_tags_and_skips_built_archived_and_pinned_images(tmp_path: Path) -> None:
    asked: list[str] = []

    def resolve(reference: Reference) -> str:
        asked.append(str(reference))
        return DIGEST

    built = {"name": "a.io/built:1", "foundBy": ["declared"], "where": ["e:1"]}
    archived = {"name": "a.io/web:1", "foundBy": ["listed"], "where": ["images/web.tar"]}
    write(tmp_path, {"images/built/Dockerfile": "# image: a.io/built:1\nFROM scratch\n"})
    found = {**FOUND, "images": [*FOUND["images"], built, archived]}
    assert find_images.lock(found, tmp_path, Store(tmp_path / "store"), resolve) == dict.fromkeys(asked, DIGEST)
    assert sorted(asked) == ["docker.io/library/nginx:1", "docker.io/library/nginx:2"]


def test_lock_renews_lines_of_images_that_no_file_names(tmp_path: Path) -> None:
    run_only = "a.io/found-by-running:1"
    write(tmp_path, {"images.lock": f"{run_only} sha256:{'b' * 64}\n"})
    assert find_images.lock(FOUND, tmp_path, Store(tmp_path / "store"), lambda _: DIGEST)[run_only] == DIGEST

    def gone(reference: Reference) -> str:
        if reference.domain == "a.io":
            raise StoreError("no such tag")
        return DIGEST

    with pytest.raises(InputError, match="no such tag") as caught:
        find_images.lock(FOUND, tmp_path, Store(tmp_path / "store"), gone)
    assert [fault.hint for fault in caught.value.faults] == [
        "no file names it: if no run needs it either, remove its line from images.lock"
    ]


def test_lock_tags_without_answer_are_all_reported(tmp_path: Path) -> None:
    def resolve(reference: Reference) -> str:
        raise StoreError(f"{reference}: no answer")

    with pytest.raises(InputError) as caught:
        find_images.lock(FOUND, tmp_path, Store(tmp_path / "store"), resolve)
    assert [fault.where for fault in caught.value.faults] == ["docker.io/library/nginx:1", "docker.io/library/nginx:2"]
