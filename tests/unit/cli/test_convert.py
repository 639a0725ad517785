"""``slipway convert``: words in, exit code and text out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import cloudimage
from harness.oci.store import Store
from tests.integration import registry as made
from tests.integration import sealer
from tests.integration.registry import Image
from tests.unit.sealer.examples import NAMES, NGINX, said, simple

NAME = "sealerio/app:v1"


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(home / "cache"))


@pytest.fixture
def app(store: Store) -> Image:
    """An image of sealer: two of its three embedded images have a whole name."""
    image = simple(images=NAMES[:2])
    sealer.put(store, NAME, image)
    return image


def test_convert_prints_digest_and_platforms_and_warns_of_what_is_lost(
    store: Store, app: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = said(capsys, "convert", NAME)
    image = cloudimage.read(store, f"{NAME}-slipway")
    first, header, row, last = out.splitlines()
    assert first == f"{NAME}-slipway  {image.digest}"
    assert header.split() == ["PLATFORM", "TYPE", "ROOTFS", "IMAGES"]
    assert row.split()[:2] == ["linux/amd64", image.platforms[0].info.type]
    assert row.endswith("  2 embedded images")
    assert last == "1 thing could not be restored: see the warnings"
    assert "warning: acme/app:v2: no name for it" in err
    assert len(image.platforms[0].images.images) == 2
    assert store.resolve(NAME).digest == app.digest
    assert f"made from   an image of sealer 0.11.0  {app.digest[7:19]}" in said(capsys, "inspect", f"{NAME}-slipway")[0]


def test_convert_whole_image_reports_no_loss(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sealer.put(store, NAME, simple())
    out, err = said(capsys, "convert", NAME, "-t", "new")
    assert out.splitlines()[-1].endswith("  3 embedded images")
    assert "warning" not in err


def test_convert_output_json_has_source_images_and_problems_while_warnings_go_to_stderr(
    store: Store, app: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = said(capsys, "convert", NAME, "-t", "x", "-o", "json")
    value = json.loads(out)
    assert set(value) == {"name", "digest", "source", "platforms", "problems", "notes"}
    assert (value["name"], value["digest"]) == ("x:latest", store.resolve("x").digest)
    assert value["source"] == {"name": NAME, "digest": app.digest}
    (platform,) = value["platforms"]
    assert platform["platform"] == "linux/amd64"
    assert [image["name"] for image in platform["images"]] == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5"]
    (problem,) = value["problems"]
    assert (problem["kind"], problem["name"]) == ("unnamed", "acme/app:v2")
    assert value["notes"] == []
    assert "warning: acme/app:v2: no name for it" in err


def test_convert_registry_option_names_images_without_one(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(said(capsys, "convert", NAME, "-t", "x", "--registry", "quay.io", "-o", "json")[0])
    assert value["problems"] == []
    assert "quay.io/acme/app:v2" in [image["name"] for image in value["platforms"][0]["images"]]


def test_convert_platform_that_was_not_pulled_is_a_note(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    arm = simple(platform="linux/arm64")
    sealer.put(store, NAME, made.index({"linux/amd64": simple(), "linux/arm64": arm}), without=arm.digests - simple().digests)
    note = "linux/arm64 is in the index, but not in the store"
    out, err = said(capsys, "convert", NAME)
    assert note in err
    assert note not in out
    assert json.loads(said(capsys, "convert", NAME, "-o", "json")[0])["notes"] == [note]


def test_convert_strict_with_lost_image_tags_nothing(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "convert", NAME, "-t", "x", "--strict", code=4)
    assert out == ""
    assert f"{NAME} cannot be converted whole: 1 problem" in err
    assert "acme/app:v2: no name for it" in err
    assert "without --strict the rest is converted" in err
    assert list(store.names()) == [NAME]
    said(capsys, "convert", NAME, "-t", "x", "--strict", "--registry", "quay.io")
    assert list(store.names()) == [NAME, "x:latest"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["convert", "nothere"], 4, "no such image"),
        (["convert", "plain"], 4, "is not an image of sealer"),
        (["convert"], 2, "'IMAGE'"),
        (["convert", NAME, "--registry", "x"], 2, "not the address of a registry"),
        (["convert", NAME, "-t", "a b"], 2, "--tag a b: "),
        (["convert", NAME, "-t", ""], 2, "--tag : "),
        (["convert", NAME, "-t", f"web@sha256:{'a' * 64}"], 2, "an image is given a name, not a digest"),
        (["convert", NAME, "-o", "yaml"], 2, "--output yaml"),
    ],
)
def test_convert_invalid_command_line_changes_nothing(
    store: Store,
    app: Image,
    contents: Callable[[], dict[str, bytes]],
    words: list[str],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sealer.put(store, "plain", NGINX)
    before = contents()
    out, err = said(capsys, *words, code=code)
    assert (out, message in err) == ("", True), err
    assert contents() == before


def test_convert_tag_with_capitals_is_lowered_with_warning(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "convert", NAME, "-t", "Web:v1")
    assert out.startswith("web:v1  sha256:")
    assert "Web:v1: names of images have no capitals; web:v1 is taken" in err


def test_convert_digest_without_name_requires_tag(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    assert "say how the CloudImage shall be called" in said(capsys, "convert", app.digest, code=2)[1]
    assert list(store.names()) == [NAME]
    said(capsys, "convert", app.digest, "-t", "x")
    assert list(store.names()) == [NAME, "x:latest"]
