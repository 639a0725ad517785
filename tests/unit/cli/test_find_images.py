"""The command lines that show images and their digests."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.build import image_lock
from harness.cli import find_images
from harness.cli.app import execute
from harness.errors import StoreError
from harness.host import tools
from harness.oci.reference import Reference
from tests.unit.build.rootfs_files import DIGEST, write

OTHER = "sha256:" + "b" * 64
MANIFEST = "spec:\n  containers:\n  - image: nginx:1\n    args: [--side-image=registry.example.com/side:2]\n"
KUBEFILE = "FROM scratch\nCOPY a.yaml manifests/\n"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Registries that know every tag but ``away``; no helm, no kubectl."""

    def manifest(reference: Reference) -> SimpleNamespace:
        if reference.path == "library/away":
            raise StoreError("no answer")
        return SimpleNamespace(digest=DIGEST)

    @contextlib.contextmanager
    def connect(*_: object, **__: object) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(manifest=manifest)

    monkeypatch.setattr(find_images, "connect", connect)
    monkeypatch.setattr(tools, "present_helm", lambda: None)
    monkeypatch.setattr(tools, "present_kubectl", lambda: None)
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return write(tmp_path / "web", {"Kubefile": KUBEFILE, "a.yaml": MANIFEST})


def test_find_images_lists_images_with_places(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["find-images", str(context)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["IMAGE", "FOUND", "WHERE"],
        ["docker.io/library/nginx:1", "declared", f"{context}/a.yaml:3"],
        ["registry.example.com/side:2", "possible", f"{context}/a.yaml:4"],
    ]
    assert not (context / "images.lock").exists()


def test_find_images_kubefile_or_manifest_path_lists_declared_images(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (context / "Kubefile", context / "a.yaml"):
        assert execute(["find-images", str(path), "--output", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [image["name"] for image in found["images"]] == ["docker.io/library/nginx:1"]


def test_find_images_why_shows_matching_image_only(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["find-images", str(context), "--why", "side"]) == 0
    assert "nginx" not in capsys.readouterr().out
    assert execute(["find-images", str(context), "--why", "none"]) == 2


def test_find_images_lock_is_written_and_outdated_compares_digests(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["find-images", str(context), "--lock", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["locked"] == {"docker.io/library/nginx:1": DIGEST}
    assert image_lock.read(context / "images.lock") == {"docker.io/library/nginx:1": DIGEST}
    assert execute(["outdated", str(context)]) == 0
    assert capsys.readouterr().out == "1 tags, none has moved\n"
    image_lock.write(context / "images.lock", {"docker.io/library/nginx:1": OTHER})
    assert execute(["outdated", str(context / "images.lock")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["docker.io/library/nginx:1", "moved", OTHER, DIGEST]


def test_outdated_unreachable_registry_reports_status_unknown(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image_lock.write(context / "images.lock", {"docker.io/library/away:1": OTHER, "docker.io/library/nginx:1": DIGEST})
    assert execute(["outdated", str(context), "-o", "json"]) == StoreError.exit_code
    assert [tag["status"] for tag in json.loads(capsys.readouterr().out)] == ["unknown", "same"]


@pytest.mark.parametrize(
    ("words", "code", "lines"),
    [
        (
            ["find-images", "a.yaml", "--lock"],
            2,
            ["--lock: a.yaml has no Kubefile", "slipway find-images FOLDER --lock, with the folder of a Kubefile"],
        ),
        (
            ["outdated", "."],
            2,
            ["images.lock: no such file", "`slipway build --lock FOLDER` or `slipway find-images --lock FOLDER` writes it"],
        ),
        (["outdated", "none"], 2, ["none: no such file or folder"]),
        (
            ["find-images", "none/none:1"],
            4,
            [
                "none/none:1: no such image in HOME/store",
                (
                    "`slipway images` lists all images; build, pull or load it; "
                    "a short name is read from the store only, one with its registry (registry.example.com/...) is pulled"
                ),
            ],
        ),
    ],
)
def test_find_images_and_outdated_missing_path_is_one_error_with_hint(
    words: list[str],
    code: int,
    lines: list[str],
    context: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(context)
    assert execute(words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    expected = [
        prefix + line.replace("HOME", str(tmp_path / "home")) for prefix, line in zip(("slipway: ", "  hint: "), lines, strict=False)
    ]
    assert printed.err.splitlines() == expected


def test_build_check_faulty_lock_is_refused(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (context / "images.lock").write_text("nginx:1\n")
    assert execute(["build", "--check", str(context)]) == 2
    assert "images.lock:1" in capsys.readouterr().err


def test_build_check_shows_declared_and_possible_images(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(context, {"Kubefile": KUBEFILE + "CMD kubectl apply -f none.yaml\n"})
    assert execute(["build", "--check", str(context)]) == 0
    shown = capsys.readouterr()
    assert f"image     docker.io/library/nginx:1  ({context}/a.yaml:3)" in shown.out
    assert f"possible  registry.example.com/side:2  ({context}/a.yaml:4)" in shown.out
    assert "the manifest none.yaml was not read" in shown.err
    assert execute(["build", "--check", str(context), "--possible", "refuse"]) == 2
    assert execute(["build", "--check", str(context), "--possible", "maybe"]) == 2
