"""Images of sealer on their whole way: a real registry's storage in them, pulled from a registry, converted, named in FROM."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cloudimage
from harness.oci.layer import unpack
from harness.oci.model import OCI_INDEX
from harness.oci.store import Store
from harness.process import run
from tests.conftest import Slipway
from tests.integration import dying, sealer
from tests.integration.registry import Image, Registry, image, index, push, registry

APP = image("app", size=300_000)
WEB = image("web", docker=True)
TOOL = index({"linux/amd64": image("tool amd64"), "linux/arm64": image("tool arm64", platform="linux/arm64")}, docker=True)
IMAGES = {"library/web:1.0": WEB, "acme/app:v2": APP, "acme/tools/tool:3": TOOL}
NAMES = ("docker.io/library/web:1.0", "registry.example.invalid:5000/acme/app:v2", "tools.example.invalid/acme/tools/tool:3")

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: app}
spec:
  containers:
  - {name: app, image: "registry.example.invalid:5000/acme/app:v2"}
"""
CLUSTER = {
    "cluster.alpha.sealer.io/cluster-runtime-type": "kubernetes",
    "cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a real registry keeps of the images, with all that it writes beside them."""
    return sealer.pushed(tmp_path_factory.mktemp("storage"), IMAGES)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, bytes]) -> Iterator[Registry]:
    """A registry that has sealer's images: one for two platforms, one that installs applications."""
    with registry(tmp_path_factory.mktemp("hub")) as running:
        files = {"application/apps/web/web.yaml": POD.encode(), "application/apps/setup/install.sh": b"#!/bin/bash\n"}
        parts = {
            platform: sealer.image(
                [{**sealer.ROOTFS, **files}, tree], images=sealer.listed(*NAMES, platform=platform), labels=CLUSTER, platform=platform
            )
            for platform in ("linux/amd64", "linux/arm64")
        }
        push(running, "sealerio/kubernetes", "v1.22", index(parts))
        installer = sealer.extension(type="app-installer", applications=[{"name": "web", "type": "kube", "files": ["web.yaml"]}])
        push(running, "sealerio/app", "v2", sealer.image([files, tree], says=installer, images=sealer.listed(*NAMES[:2])))
        yield running


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "store")


@pytest.fixture
def kubernetes(hub: Registry, store: Store, slipway: Slipway) -> str:
    slipway("pull", f"{hub.host}/sealerio/kubernetes:v1.22", "--as", "sealerio/kubernetes:v1.22", "--plain-http")
    return "sealerio/kubernetes:v1.22"


@pytest.fixture
def app(hub: Registry, store: Store, slipway: Slipway) -> str:
    slipway("pull", f"{hub.host}/sealerio/app:v2", "--as", "sealerio/app:v2", "--plain-http")
    return "sealerio/app:v2"


def test_sealer_storage_helper_equals_storage_of_real_registry(tree: dict[str, bytes]) -> None:
    assert sealer.storage(IMAGES) == {path: data for path, data in tree.items() if "/_uploads" not in path}


def test_convert_pulled_sealer_image_keeps_container_images_of_each_platform(
    kubernetes: str, store: Store, slipway: Slipway, tmp_path: Path
) -> None:
    (row,) = json.loads(slipway("images", "-o", "json").stdout)
    assert (row["name"], row["kind"], row["platforms"], row["images"]) == (kubernetes, "sealer", ["linux/amd64", "linux/arm64"], 3)
    seen = json.loads(slipway("inspect", kubernetes, "-o", "json").stdout)
    # The arm64 image lists the embedded images for arm64, and this tree has app and web without an index.
    assert [[one["name"] for one in part["images"]] for part in seen["platforms"]] == [list(NAMES)] * 2
    assert all(part["problems"] == [] for part in seen["platforms"])
    assert "type        kube-installer, Kubernetes v1.22.15" in slipway("inspect", kubernetes).stdout

    slipway("convert", kubernetes, "-t", "kubernetes:v1.22", "--strict")
    made = cloudimage.read(store, "kubernetes:v1.22")
    cloudimage.verify(store, made)
    amd64, arm64 = made.platforms
    assert {one.name: one.digest for one in amd64.images.images} == dict(zip(NAMES, (WEB.digest, APP.digest, TOOL.digest), strict=True))
    children = {child["platform"]["architecture"]: child["digest"] for child in json.loads(TOOL.data)["manifests"]}
    for part, here, elsewhere in ((amd64, "amd64", "arm64"), (arm64, "arm64", "amd64")):
        carried = {blob.digest for blob in part.images.blobs}
        assert children[here] in carried
        assert children[elsewhere] not in carried
    for one in (WEB, APP):
        for digest, data in one.blobs.items():
            assert store.read(digest) == data
    unpack(store, amd64.layers, tmp_path / "out")
    assert (tmp_path / "out/scripts/init-kube.sh").exists()
    assert not (tmp_path / "out/registry").exists()


def test_convert_in_other_store_under_other_name_gives_same_digest(
    hub: Registry, kubernetes: str, store: Store, slipway: Slipway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = slipway("convert", kubernetes, "-t", "one").stdout.split()[1]
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "elsewhere"))
    slipway("pull", f"{hub.host}/sealerio/kubernetes:v1.22", "--as", "other/name", "--plain-http")
    assert slipway("convert", "other/name", "-t", "two").stdout.split()[1] == first


def test_convert_result_pushed_and_copied_keeps_digest(app: str, store: Store, slipway: Slipway, tmp_path: Path) -> None:
    slipway("convert", app, "-t", "app:v2")
    with registry(tmp_path / "target") as target:
        slipway("push", "app:v2", f"{target.host}/app:v2", "--plain-http")
        copied = tmp_path / "copy"
        run(["skopeo", "copy", "--all", "--preserve-digests", "--src-tls-verify=false",
             f"docker://{target.host}/app:v2", f"oci:{copied}:app"])  # fmt: skip
    (entry,) = json.loads((copied / "index.json").read_text())["manifests"]
    assert (entry["digest"], entry["mediaType"]) == (store.resolve("app:v2").digest, OCI_INDEX)


def test_convert_image_loaded_from_archive_gives_same_digest_as_pulled_one(
    hub: Registry, app: str, store: Store, slipway: Slipway, tmp_path: Path
) -> None:
    """sealer's own save writes an OCI archive of the image as it is."""
    first = slipway("convert", app, "-t", "one").stdout.split()[1]
    archive = tmp_path / "app.tar"
    run(["skopeo", "copy", "--src-tls-verify=false", f"docker://{hub.host}/sealerio/app:v2", f"oci-archive:{archive}:sealerio/copied:v2"])
    slipway("load", "-f", archive)
    assert slipway("convert", "sealerio/copied:v2", "-t", "two").stdout.split()[1] == first


def test_convert_unnamed_container_image_is_warned_about_and_refused_by_strict(app: str, store: Store, slipway: Slipway) -> None:
    loose = slipway("convert", app, "-t", "app:loose")
    assert "warning: acme/tools/tool:3: no name for it" in loose.stderr
    assert [one.name for one in cloudimage.read(store, "app:loose").platforms[0].images.images] == list(NAMES[:2])
    strict = slipway("convert", app, "-t", "app:strict", "--strict", check=False)
    assert strict.returncode == 4
    assert "app:strict" not in store.names()
    slipway("convert", app, "-t", "app:strict", "--strict", "--registry", "tools.example.invalid")
    assert {one.name for one in cloudimage.read(store, "app:strict").platforms[0].images.images} == set(NAMES)


def test_build_from_sealer_image_embeds_its_images_without_network_and_is_repeatable(
    app: str, store: Store, slipway: Slipway, tmp_path: Path
) -> None:
    """Nothing is asked of a network: the registries of these names do not exist."""
    context = tmp_path / "context"
    (context / "manifests").mkdir(parents=True)
    (context / "manifests/pod.yaml").write_text(POD)
    (context / "Kubefile").write_text(f"FROM {app}\nCOPY manifests manifests\nLAUNCH web\n")
    built = slipway("build", "-t", "mine", "--discover", "declared", context)
    assert f"{context}/Kubefile:1: {app}: acme/tools/tool:3: no name for it" in built.stderr
    mine = cloudimage.read(store, "mine").platforms[0]
    assert {one.name: one.digest for one in mine.images.images} == {NAMES[0]: WEB.digest, NAMES[1]: APP.digest}
    assert mine.info.type == "app"
    assert mine.info.launch == ("kubectl apply -f application/apps/web/web.yaml",)
    assert mine.info.base == {"reference": app, "digest": store.resolve(app).digest}
    assert [one.requested_by for one in mine.images.images if one.name == NAMES[1]] == [
        ("application/apps/web/web.yaml:6", "manifests/pod.yaml:6")
    ]
    first = store.resolve("mine").digest
    again = slipway("build", "-t", "mine", "--discover", "declared", context)
    assert store.resolve("mine").digest == first
    assert "no name for it" in again.stderr


def test_run_image_built_from_sealer_image_is_refused(kubernetes: str, store: Store, slipway: Slipway, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Kubefile").write_text(f"FROM {kubernetes}\nENV Mode=slow\n")
    slipway("build", "-t", "mine", "--discover", "declared", context)
    info = cloudimage.read(store, "mine").platforms[0].info
    assert (info.type, info.kubernetes, info.env) == ("kube", "v1.22.15", {"Mode": "slow"})
    for name in ("mine", kubernetes):
        refused = slipway("run", name, "--control-plane", "127.0.0.1", check=False)
        assert refused.returncode == 4
        assert "sealer" in refused.stderr
    # With slipway's own runtime in it the image is what it was made to be.
    (context / "slipway.yaml").write_text("kubernetes: v1.36.3\n")
    (context / "Kubefile").write_text(f"FROM {kubernetes}\nCOPY slipway.yaml etc/\n")
    slipway("build", "-t", "own", "--discover", "declared", context)
    assert cloudimage.read(store, "own").platforms[0].info.converted_from is None


def test_build_from_sealer_image_without_platform_is_refused(app: str, slipway: Slipway, tmp_path: Path) -> None:
    (tmp_path / "Kubefile").write_text(f"FROM {app}\nENV A=b\n")
    built = slipway("build", "-t", "x", "--platform", "linux/arm64", "--discover", "declared", tmp_path, check=False)
    assert built.returncode == 3
    assert "Kubefile:1: sealerio/app:v2 is in the local store only for linux/amd64" in built.stderr


def test_convert_killed_at_any_moment_leaves_store_intact_and_succeeds_again(store: Store, slipway: Slipway, tmp_path: Path) -> None:
    large = image("large", layers=6, size=4 << 20)
    sealer.put(
        store, "app", sealer.image([sealer.ROOTFS, sealer.storage({"acme/large:1": large})], images=sealer.listed("a.b/acme/large:1"))
    )
    words, tally, blobs = ("convert", "app", "-t", "new"), tmp_path / "events", store.root / "blobs/sha256"
    # A copy is not killed, and counts what the command does to files of the store: the moments are parts of that.
    shutil.copytree(store.root, tmp_path / "measured/store")
    run(dying.command(0, tally, *words, below="/store/"), env={"SLIPWAY_HOME": str(tmp_path / "measured")})
    every = dying.counted(tally)
    before = len(list(blobs.iterdir()))
    chance = random.Random(3)
    midway = 0
    for moment in (0.3, 0.5, *(chance.uniform(0.1, 0.5) for _ in range(3))):
        ended = subprocess.run(dying.command(int(moment * every), tally, *words, below="/store/"), capture_output=True, check=False)
        assert ended.returncode in (0, -signal.SIGKILL), ended.stderr
        midway += "new:latest" not in store.names() and len(list(blobs.iterdir())) > before
        for blob in blobs.iterdir():
            store.verify(f"sha256:{blob.name}")
        if "new:latest" in store.names():
            cloudimage.verify(store, cloudimage.read(store, "new"))
    assert midway
    slipway("convert", "app", "-t", "new", "--strict")
    cloudimage.verify(store, cloudimage.read(store, "new"))
    assert not list((store.root / "tmp").iterdir())


@pytest.mark.parametrize("media", ["manifest", "labels"])
def test_convert_docker_format_copy_needs_labels_since_annotations_are_lost(
    hub: Registry, store: Store, slipway: Slipway, media: str
) -> None:
    """skopeo drops annotations when it writes schema 2; labels stay."""
    made: Image = sealer.image([sealer.ROOTFS, sealer.storage(IMAGES)], images=sealer.listed(*NAMES), annotations_in=media)
    push(hub, "travelled", media, made)
    run(["skopeo", "copy", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false",
         f"docker://{hub.host}/travelled:{media}", f"docker://{hub.host}/docker:{media}"])  # fmt: skip
    slipway("pull", f"{hub.host}/docker:{media}", "--as", "app", "--plain-http")
    done = slipway("convert", "app", "-t", "new", check=False)
    if media == "labels":
        assert (done.returncode, len(cloudimage.read(store, "new").platforms[0].images.images)) == (0, 3)
    else:
        assert done.returncode == 4
        assert "sealer.image.extension: does not exist" in done.stderr
        assert "loses annotations" in done.stderr
