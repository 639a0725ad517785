"""``slipway manifest``: words in, exit code and text out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness import log
from harness.cloudimage import ImageSet
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.transfer import pull
from tests.unit.cloudimage.examples import AMD64, ARM64, INFO, platform_image, write
from tests.unit.sealer.examples import said

pytestmark = pytest.mark.usefixtures("home")

REMOTE = "reg.test/web:arm64"


@pytest.fixture(autouse=True)
def own_store(store: Store) -> Store:
    """Holds web:amd64 and web:arm64, built apart."""
    for platform in (AMD64, ARM64):
        build(store, f"web:{platform.architecture}", platform)
    return store


def build(store: Store, name: str, platform: Platform, **changes: Any) -> str:
    return write(store, platform_image(store, platform, **changes), name=name).digest


@pytest.fixture
def pulled(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that were pulled. The registry has the image for arm64."""
    asked: list[str] = []

    @contextlib.contextmanager
    def connect(_: object) -> Iterator[None]:
        yield None

    def fetch(into: Store, reference: Reference, _: object) -> None:
        asked.append(reference.familiar)
        into.tag(reference.familiar, store.resolve("web:arm64"))

    monkeypatch.setattr("harness.cli.manifest.connect", connect)
    monkeypatch.setattr(pull, "pull", fetch)
    return asked


# create and add


def test_manifest_create_prints_digest_and_platforms(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "manifest", "create", "web:1", "web:arm64", "web:amd64")
    assert out.splitlines() == [f"web:1  {store.resolve('web:1').digest}", "  linux/amd64, linux/arm64"]
    assert err == ""


def test_manifest_create_output_json_has_name_digest_platforms_and_warnings(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    value = json.loads(said(capsys, "manifest", "create", "web:1", "web:amd64", "-o", "json")[0])
    digest = store.resolve("web:amd64").digest
    assert value == {"name": "web:1", "digest": digest, "platforms": ["linux/amd64"], "warnings": []}


def test_manifest_add_keeps_platforms_that_it_had(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "manifest", "create", "web:1", "web:amd64")
    before = store.resolve("web:1").digest
    out, _ = said(capsys, "manifest", "add", "web:1", "web:arm64")
    assert out.splitlines() == [f"web:1  {store.resolve('web:1').digest}", "  linux/amd64, linux/arm64"]
    assert store.resolve("web:1").digest != before
    value = json.loads(said(capsys, "manifest", "add", "web:amd64", "web:arm64", "-o", "json")[0])
    assert (value["name"], value["digest"]) == ("web:amd64", store.resolve("web:1").digest)


def test_manifest_create_of_images_that_differ_warns_on_stderr(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(store, "bare", ARM64, images=ImageSet())
    out, err = said(capsys, "manifest", "create", "web:1", "web:amd64", "bare", "-o", "json")
    (warning,) = json.loads(out)["warnings"]
    assert warning.startswith("which container images there are differs: linux/amd64 (web:amd64), linux/arm64 (bare")
    assert f"warning: {warning}" in err


def test_manifest_replace_option_takes_later_image_of_one_platform(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    newer = build(store, "newer", AMD64, images=ImageSet())
    _, err = said(capsys, "manifest", "create", "web:1", "web:amd64", "newer", code=4)
    assert "two images for one platform: linux/amd64: web:amd64" in err
    assert "--replace takes the later one" in err
    assert "web:1" not in store.names()
    said(capsys, "manifest", "create", "web:1", "web:amd64", "newer", "--replace")
    assert store.resolve("web:1").digest == newer
    said(capsys, "manifest", "add", "web:1", "web:amd64", code=4)
    assert store.resolve("web:1").digest == newer
    said(capsys, "manifest", "add", "web:1", "web:amd64", "--replace")
    assert store.resolve("web:1").digest == store.resolve("web:amd64").digest


@pytest.mark.parametrize("verb", ["create", "add"])
def test_manifest_image_of_registry_is_pulled_once_and_again_on_request(
    verb: str, store: Store, pulled: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["manifest", verb, "web:amd64", "web:amd64", REMOTE]
    assert said(capsys, *words)[0].splitlines()[1] == "  linux/amd64, linux/arm64"
    assert pulled == [REMOTE]
    said(capsys, *words)
    assert pulled == [REMOTE]
    said(capsys, *words, "--pull")
    assert pulled == [REMOTE] * 2


# inspect


def test_manifest_inspect_prints_line_for_each_platform(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "manifest", "create", "web:1", "web:amd64", "web:arm64")
    out, err = said(capsys, "manifest", "inspect", "web:1")
    lines = out.splitlines()
    assert lines[0] == f"web:1  {store.resolve('web:1').digest}"
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[1:]]
    assert rows[0] == ["PLATFORM", "ROOTFS", "IMAGE SET", "KUBERNETES", "IMAGES", "SIZE"]
    described = json.loads(said(capsys, "manifest", "inspect", "web:1", "-o", "json")[0])
    for row, one in zip(rows[1:], described["platforms"], strict=True):
        assert row == [one["platform"], one["rootfs"][7:19], one["imageSet"][7:19], INFO.kubernetes, "2", log.size(one["size"])]
    assert err == ""


def test_manifest_inspect_output_json_describes_platforms(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    described = json.loads(said(capsys, "manifest", "inspect", "web:amd64", "-o", "json")[0])
    assert set(described) == {"name", "digest", "platforms", "warnings"}
    assert (described["name"], described["digest"]) == ("web:amd64", store.resolve("web:amd64").digest)
    (one,) = described["platforms"]
    rootfs, image_set = (entry["digest"] for entry in store.json(described["digest"])["manifests"])
    assert (one["platform"], one["images"], one["kubernetes"]) == ("linux/amd64", 2, INFO.kubernetes)
    assert {one["rootfs"], one["imageSet"]} == {rootfs, image_set}
    assert one["size"] > 0


def test_manifest_inspect_of_platforms_that_differ_warns(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(store, "bare", ARM64, images=ImageSet())
    said(capsys, "manifest", "create", "web:1", "web:amd64", "bare")
    out, err = said(capsys, "manifest", "inspect", "web:1")
    assert "warning: which container images there are differs" in err
    assert "differs" not in out


# remove


def test_manifest_remove_prints_platforms_that_stay(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "manifest", "create", "web:1", "web:amd64", "web:arm64")
    digest = store.resolve("web:amd64").digest
    assert said(capsys, "manifest", "remove", "web:1", "arm64")[0].splitlines() == [f"web:1  {digest}", "  linux/amd64"]
    out, err = said(capsys, "manifest", "remove", "web:1", "linux/amd64", code=4)
    assert (out, "linux/amd64 is all that web:1 has" in err) == ("", True)
    assert "hint: slipway rmi web:1" in err
    assert store.resolve("web:1").digest == digest


# Bad input


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["create", "x"], 2, "Missing argument 'IMAGE...'"),
        (["create", "x", "nothere"], 4, "nothere: no such image"),
        (["create", "x", "web:amd64", "nothere"], 4, "nothere: no such image"),
        (["create", "a b", "web:amd64"], 2, "NAME a b: "),
        (["create", f"x@sha256:{'a' * 64}", "web:amd64"], 2, "a manifest gets a name, not a digest"),
        (["create", "x", "web:amd64", "-o", "yaml"], 2, "--output yaml"),
        (["add", "nothere", "web:amd64"], 4, "nothere:latest: no such image"),
        (["add", "web:amd64", "nothere"], 4, "nothere: no such image"),
        (["inspect", "nothere"], 4, "nothere: no such image"),
        (["inspect"], 2, "Missing argument 'NAME'"),
        (["remove", "web:amd64"], 2, "Missing argument 'PLATFORM'"),
        (["remove", "web:amd64", "linux/"], 2, "PLATFORM linux/: "),
        (["remove", "web:amd64", "linux/arm64"], 4, "web:amd64 has no linux/arm64, only linux/amd64"),
        (["nosuch"], 2, "No such command"),
    ],
)
def test_manifest_invalid_command_line_keeps_names(
    words: list[str], code: int, message: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    before = store.names()
    out, err = said(capsys, "manifest", *words, code=code)
    assert (out, message in err) == ("", True), err
    assert store.names() == before
