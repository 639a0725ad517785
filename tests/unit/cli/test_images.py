"""The verbs about images of the local store: words in, exit code and text out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import log
from harness.cloudimage import ImageApp, ImageSet, Info, ProvingRun, tags
from harness.host import docker
from harness.oci.model import OCI_MANIFEST, Descriptor, digest_of
from harness.oci.store import Store
from tests.integration import sealer
from tests.unit.cloudimage.examples import AMD64, ARM64, INFO, attach, container_image, file, platform_image, put, write
from tests.unit.sealer.examples import said, simple


@pytest.fixture(autouse=True)
def machine(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a cache of the test, and no engine."""
    monkeypatch.setenv("SLIPWAY_CACHE", str(home / "cache"))
    monkeypatch.setattr(docker, "running", lambda: None)


# images

COLUMNS = ["NAME", "DIGEST", "KIND", "PLATFORM", "KUBERNETES", "IMAGES", "SIZE"]


def test_images_empty_store_prints_header_alone_or_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((), ("--all",)):
        out, err = said(capsys, "images", *words)
        assert ([line.split() for line in out.splitlines()], err) == ([COLUMNS], "")
        assert json.loads(said(capsys, "images", *words, "-o", "json")[0]) == []


def test_images_are_listed_by_name_as_text_and_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    web = write(store, platform_image(store, AMD64), platform_image(store, ARM64))
    write(store, platform_image(store, info=Info(type="app"), images=ImageSet()), name="app:1")
    lines = [line.split("  ") for line in said(capsys, "images")[0].splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows[0] == COLUMNS
    assert [row[0] for row in rows[1:]] == ["app:1", "web:latest"]
    assert rows[1][3:6] == ["linux/amd64", "-", "0"]
    assert rows[2] == ["web:latest", web.digest[7:19], "cloudimage", "linux/amd64,linux/arm64", "v1.36.3", "2", log.size(web.size)]
    listed = json.loads(said(capsys, "images", "-o", "json")[0])
    assert listed[1] == {
        "name": "web:latest",
        "digest": web.digest,
        "platforms": ["linux/amd64", "linux/arm64"],
        "size": web.size,
        "images": 2,
        "kubernetes": "v1.36.3",
        "problem": None,
        "kind": "cloudimage",
    }


def test_images_damaged_image_is_listed_with_its_problem(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    gone = put(store, "web", [file("a")]).platforms[0].layers[0].digest
    put(store, "whole", [file("b")])
    store.path(gone).unlink()
    damaged, whole = said(capsys, "images")[0].splitlines()[1:]
    assert gone in damaged
    assert whole.startswith("whole:latest  ")
    problems = {row["name"]: row["problem"] for row in json.loads(said(capsys, "images", "-o", "json")[0])}
    assert gone in problems["web:latest"]
    assert problems["whole:latest"] is None


def test_images_lists_sealer_images_among_others_once(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "web", [file("a")])
    sealer.put(store, "app:v1", simple())
    for words in ((), ("--all",)):
        rows = json.loads(said(capsys, "images", *words, "-o", "json")[0])
        assert [(row["name"], row["kind"]) for row in rows] == [("app:v1", "sealer"), ("web:latest", "cloudimage")]


def test_images_hides_attachments_and_shows_them_on_request(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    names = {attach(store, image): "signature", attach(store, image, ".att"): "attestation", attach(store, image, ""): "referrers"}
    manifest = container_image(store, "nginx", b"n").images[0]
    store.tag("nginx", Descriptor(OCI_MANIFEST, manifest.digest, manifest.size))

    def listed(*words: str) -> dict[str, str]:
        return {row["name"]: row["kind"] for row in json.loads(said(capsys, "images", *words, "-o", "json")[0])}

    assert listed() == {"web:latest": "cloudimage"}
    assert listed("--all") == {"web:latest": "cloudimage", "nginx:latest": "image", **names}
    assert "nginx:latest" in said(capsys, "images", "--all")[0]


# inspect


def test_inspect_prints_content_of_every_platform(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = write(store, platform_image(store, AMD64), platform_image(store, ARM64))
    out = said(capsys, "inspect", "web")[0]
    assert out.count(f"web:latest  {image.digest}\n") == 2
    lines = out.splitlines()
    layers = sum(layer.size for layer in image.platforms[0].layers)
    for line in (
        "platform    linux/amd64",
        "platform    linux/arm64",
        f"type        {INFO.type}, Kubernetes v1.36.3 ({INFO.runtime}), for Kubernetes >=1.20",
        f"base        docker.io/library/kubernetes:v1.36.3  {digest_of(b'base')[7:19]}",
        "env         MODE=fast",
        "app         nginx (kube)",
        "launch      kubectl apply -f manifests/",
        f"size        {log.size(image.size)} in all, 2 layers of rootfs with {log.size(layers)}",
    ):
        assert line in lines
    rows = [line.split() for line in lines if line.startswith("docker.io/library/nginx:1.25 ")]
    nginx = image.platforms[0].images.images[0]
    assert [(row[1], row[-2], row[-1]) for row in rows] == [(nginx.digest[7:19], "pulled", "manifests/a.yaml:3")] * 2
    assert "Attached" not in out


def test_inspect_output_json_describes_image_found_by_name_or_digest(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = write(store, platform_image(store))
    for name in ("web", image.digest, image.digest[7:20]):
        value = json.loads(said(capsys, "inspect", name, "-o", "json")[0])
        assert set(value) == {"name", "digest", "platforms", "size", "attached"}
        assert (value["digest"], value["size"], value["attached"]) == (image.digest, image.size, [])
        (platform,) = value["platforms"]
        assert set(platform) == {"platform", "rootfs", "info", "policiesEnforcedBy", "images"}


def test_inspect_sealer_image_without_loss_lists_no_problems(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    sealer.put(store, "app:v1", simple())
    out = said(capsys, "inspect", "app:v1")[0]
    assert "made by     sealer" in out
    assert "registry.k8s.io/pause:3.5  " in out
    assert "Not restored" not in out


def test_inspect_control_characters_of_image_are_escaped(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    odd = "\x1b[2J\u202ex\ry"
    info = Info(
        kubernetes=odd,
        runtime=odd,
        env={odd: odd},
        launch=(odd,),
        apps=(ImageApp(odd, odd),),
        base={"reference": odd, "digest": odd},
        kube_version=odd,
        converted_from={"tool": odd, "version": odd, "digest": odd},
    )
    write(store, platform_image(store, info=info), name="odd")
    text = said(capsys, "inspect", "odd")[0]
    assert text.count("\\x1b[2J\\u202ex\\ry") > 8
    assert not {"\x1b", "\u202e", "\r"} & set(text)


def test_inspect_shows_on_what_an_application_was_proven(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    on, exercise = {"reference": "kubernetes:latest", "digest": f"sha256:{'a' * 64}"}, f"sha256:{'b' * 64}"
    write(store, platform_image(store, info=Info(type="app", proven=ProvingRun(on, exercise))), name="shop")
    lines = said(capsys, "inspect", "shop")[0].splitlines()
    assert f"proven on   kubernetes:latest  {'a' * 12}" in lines
    assert f"exercised   {'b' * 12}" in lines


# history


def test_history_prints_layers_sizes_and_steps(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = write(store)
    below = image.platforms[0].layers[0]
    lines = said(capsys, "history", "web")[0].splitlines()
    assert lines[0].split() == ["LAYER", "SIZE", "STEP"]
    assert lines[1].split("  ")[:2] == [below.digest[7:19], log.size(below.size)]
    assert [line.endswith(step) for line, step in zip(lines[1:], ("FROM scratch", "LABEL a=b", "COPY a.yaml manifests/"), strict=True)] == [
        True
    ] * 3
    assert lines[2].split()[:2] == ["-", "-"]


def test_history_output_json_has_row_for_each_step(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    below = write(store).platforms[0].layers[0]
    first, second, _ = json.loads(said(capsys, "history", "web", "-o", "json")[0])
    row = {"platform": "linux/amd64", "createdBy": "FROM scratch", "step": "sha256:1", "layer": below.digest, "size": below.size}
    assert first == row
    assert (second["layer"], second["size"]) == (None, 0)


def test_history_of_several_platforms_is_headed_by_platform(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "web", [file("a")], history=("COPY a a", "ENV A=1"), platforms=(AMD64, ARM64))
    out = said(capsys, "history", "web")[0]
    assert [line for line in out.splitlines() if line.startswith("platform")] == ["platform linux/amd64", "platform linux/arm64"]
    assert out.count("COPY a a") == 2
    out = said(capsys, "history", "web", "--platform", "arm64")[0]
    assert (out.count("COPY a a"), "platform" in out) == (1, False)
    rows = json.loads(said(capsys, "history", "web", "--platform", "arm64", "-o", "json")[0])
    assert {row["platform"] for row in rows} == {"linux/arm64"}


# tag


def test_tag_gives_names_and_prints_each_with_digest(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = write(store)
    out, _ = said(capsys, "tag", "web", "x", "reg.test/team/web:2")
    assert out.splitlines() == [f"x:latest  {image.digest}", f"reg.test/team/web:2  {image.digest}"]
    assert set(store.names()) == {"web:latest", "x:latest", "reg.test/team/web:2"}
    value = json.loads(said(capsys, "tag", image.digest[7:20], "y:1", "-o", "json")[0])
    assert value == {"names": ["y:1"], "digest": image.digest}


def test_tag_name_with_capitals_is_lowered_with_warning(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    write(store)
    out, err = said(capsys, "tag", "web", "Shop:V1")
    assert out.startswith("shop:V1  ")
    assert "names of images have no capitals" in err


# rmi


def test_rmi_prints_names_and_freed_bytes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    tags.tag(store, "web", "alias")
    assert said(capsys, "rmi", "alias")[0].splitlines() == ["untagged alias:latest", "freed 0 B in 0 blobs"]
    blobs = len({blob.digest for blob in image.blobs})
    assert said(capsys, "rmi", "web")[0].splitlines() == ["untagged web:latest", f"freed {log.size(image.size)} in {blobs} blobs"]
    put(store, "web", [file("a")])
    value = json.loads(said(capsys, "rmi", "web", "web:latest", "-o", "json")[0])
    assert value == {"names": ["web:latest"], "blobs": blobs, "bytes": image.size, "busy": False}


def test_rmi_with_store_in_use_says_who_removes_the_blobs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "web", [file("a")])
    with store.shared_lease():
        out = said(capsys, "rmi", "web")[0]
    assert out.splitlines() == ["untagged web:latest", "unused blobs stay, for the store is in use: `slipway prune` removes them later"]


# prune


def test_prune_prints_count_and_bytes_by_kind(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stray, _ = store.put(b"12345")
    value = json.loads(said(capsys, "prune", "--dry-run", "-o", "json")[0])
    assert set(value) == {"dryRun", "busy", "kinds", "names", "treesInUse", "treesBusy", "bytes"}
    assert (value["dryRun"], value["kinds"]["blobs"], value["bytes"]) == (True, {"count": 1, "bytes": 5}, 5)
    assert said(capsys, "prune", "--dry-run")[0].splitlines()[-1] == "would free 5 B"
    assert store.has(stray)
    lines = said(capsys, "prune")[0].splitlines()
    assert lines[0].split() == ["KIND", "COUNT", "SIZE"]
    assert ["blobs", "1", "5", "B"] in [line.split() for line in lines]
    assert lines[-1] == "freed 5 B"
    assert not store.has(stray)


def test_prune_of_attachment_without_image_says_its_name(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    name = attach(store, put(store, "web", [file("a")]))
    store.untag("web")
    assert f"would untag {name}" in said(capsys, "prune", "--dry-run")[0].splitlines()
    assert f"untagged {name}" in said(capsys, "prune")[0].splitlines()
    assert store.names() == {}


def test_prune_with_store_in_use_removes_nothing_of_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    stray, _ = store.put(b"12345")
    with store.shared_lease():
        assert "the store is in use: nothing of it was removed; try again later" in said(capsys, "prune")[0]
        assert "nothing of it would be removed" in said(capsys, "prune", "--dry-run")[0]
        assert json.loads(said(capsys, "prune", "-o", "json")[0])["busy"]
    assert store.has(stray)


# Bad input


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["inspect", "plain"], 4, "not a CloudImage"),
        (["inspect"], 2, "Missing argument 'IMAGE'"),
        (["inspect", "web", "-o", "yaml"], 2, "--output yaml"),
        (["history", "app:v1"], 4, "not a CloudImage"),
        (["history", "web", "--platform", "arm64"], 4, "not made for linux/arm64"),
        (["history", "web", "--platform", "linux/sparc"], 2, "--platform linux/sparc: no such architecture"),
        (["tag", "web"], 2, "Missing argument 'NAME...'"),
        (["tag", "wbe", "x"], 4, "did you mean web:latest?"),
        (["tag", "web", "x", "a b"], 2, "NAME a b: "),
        (["tag", "web", "x", f"y@sha256:{'a' * 64}"], 2, "an image is given a name, not a digest"),
        (["rmi"], 2, "Missing argument 'NAME...'"),
        (["rmi", "web", "wbe"], 4, "did you mean web:latest?"),
        (["prune", "web"], 2, "unexpected extra argument"),
    ],
)
def test_verbs_of_images_invalid_command_line_changes_nothing(
    words: list[str],
    code: int,
    message: str,
    store: Store,
    contents: Callable[[], dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(store, "web", [file("a")])
    store.tag("plain", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    sealer.put(store, "app:v1", simple())
    before = contents()
    out, err = said(capsys, *words, code=code)
    assert (out, message in err) == ("", True), err
    assert contents() == before
