"""Images that sealer's own program makes, unmodified: built, saved and pushed by it, then read and converted here."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage, process
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.integration import gotool
from tests.integration.registry import Registry, image, index, push, registry
from tests.waiting import HANG

pytestmark = pytest.mark.long

APP, WEB = image("app", size=300_000), image("web", docker=True)
TOOL = index({"linux/amd64": image("tool amd64"), "linux/arm64": image("tool arm64", platform="linux/arm64")}, docker=True)
POD = """apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  containers:
  - name: {name}
    image: {image}
"""


class Sealer:
    """Runs sealer on a storage of its own: a namespace of mounts hides this machine's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = gotool.sealer()
        for name in ("etc", "lib", "run", "home", "tmp"):
            (folder / name).mkdir()

    def __call__(self, *words: str | Path, cwd: Path | None = None) -> process.ProcessResult:
        places = (("etc", "/etc/containers"), ("lib", "/var/lib"), ("run", "/run"))
        mounts = [f"mount --bind {shlex.quote(str(self.folder / name))} {place}" for name, place in places]
        script = " && ".join(["mkdir -p /etc/containers", *mounts, 'exec "$0" "$@"'])
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, self.program, *words]
        environment = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        return process.run(argv, env=environment, cwd=cwd or self.folder, timeout=HANG)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that has the container images, and takes what sealer pushes."""
    with registry(tmp_path_factory.mktemp("hub")) as running:
        for name, tag, what in (("acme/app", "v2", APP), ("library/web", "1.0", WEB), ("acme/tools/tool", "3", TOOL)):
            push(running, name, tag, what)
        yield running


@pytest.fixture(scope="module")
def sealer(tmp_path_factory: pytest.TempPathFactory) -> Sealer:
    assert os.geteuid() == 0, "sealer keeps its images as root"
    return Sealer(tmp_path_factory.mktemp("sealer"))


@pytest.fixture(scope="module")
def app(sealer: Sealer, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An application image: one container image that an application names, one of a manifest and one of the list."""
    context = tmp_path_factory.mktemp("context")
    (context / "web.yaml").write_text(POD.format(name="web", image=f"{hub.host}/library/web:1.0"))
    (context / "app.yaml").write_text(POD.format(name="app", image=f"{hub.host}/acme/app:v2"))
    (context / "imageList").write_text(f"{hub.host}/acme/tools/tool:3\n")
    (context / "Kubefile").write_text(
        "FROM scratch\nCOPY imageList manifests/\nCOPY app.yaml manifests/\nAPP web local://web.yaml\nAPPENV web Port=80\n"
        'LABEL team=shop\nLAUNCH ["web"]\n'
    )
    sealer("build", "-f", "Kubefile", "-t", "local/app:v1", "--type", "app-installer", ".", cwd=context)
    return "local/app:v1"


@pytest.fixture
def store(home: Path) -> Store:
    return Store(home / "store")


@pytest.fixture
def loaded(sealer: Sealer, app: str, store: Store, slipway: Slipway, tmp_path: Path) -> str:
    """The image out of an archive; sealer's storage puts `localhost` before a name without a registry."""
    sealer("save", "-o", tmp_path / "app.tar", app)
    slipway("load", "--from", tmp_path / "app.tar")
    return f"localhost/{app}"


def described(slipway: Slipway, name: str) -> dict[str, Any]:
    (part,) = json.loads(slipway("inspect", name, "-o", "json").stdout)["platforms"]
    return dict(part)


def names(hub: Registry) -> dict[str, str]:
    """The container images of the application image, with their digests."""
    return {
        f"{hub.host}/acme/app:v2": APP.digest,
        f"{hub.host}/library/web:1.0": WEB.digest,
        f"{hub.host}/acme/tools/tool:3": TOOL.digest,
    }


def test_load_archive_that_sealer_saved_is_listed_with_its_container_images(loaded: str, hub: Registry, slipway: Slipway) -> None:
    (row,) = json.loads(slipway("images", "-o", "json").stdout)
    assert (row["name"], row["kind"], row["platforms"], row["images"]) == (loaded, "sealer", ["linux/amd64"], 3)
    part = described(slipway, loaded)
    assert {one["name"] for one in part["images"]} == set(names(hub))
    assert part["problems"] == []
    assert "type        app-installer" in slipway("inspect", loaded).stdout


def test_convert_image_that_sealer_saved_restores_names_and_digests_and_launch(
    loaded: str, hub: Registry, store: Store, slipway: Slipway
) -> None:
    slipway("convert", loaded, "--tag", "app:v1", "--strict")
    converted = cloudimage.read(store, "app:v1")
    cloudimage.verify(store, converted)
    (part,) = converted.platforms
    assert {one.name: one.digest for one in part.images.images} == names(hub)
    for digest, data in {**APP.blobs, **WEB.blobs}.items():
        assert store.read(digest) == data
    assert (part.info.type, part.info.labels["team"]) == ("app", "shop")
    assert part.info.launch == ("export Port=80 && kubectl apply -f application/apps/web/web.yaml",)
    assert [(one.name, one.kind, dict(one.env)) for one in part.info.apps] == [("web", "kube", {"Port": "80"})]
    assert part.info.converted_from is not None
    assert (part.info.converted_from["tool"], part.info.converted_from["version"]) == ("sealer", f"v{gotool.version('sealer')}")
    slipway("conformance", "app:v1")


def test_pull_image_that_sealer_pushed_converts_to_same_digest_as_archive(
    loaded: str, app: str, sealer: Sealer, hub: Registry, store: Store, slipway: Slipway
) -> None:
    sealer("tag", app, f"{hub.host}/team/app:v1")
    sealer("push", "--skip-tls-verify", f"{hub.host}/team/app:v1")
    slipway("pull", f"{hub.host}/team/app:v1", "--plain-http")
    assert store.resolve(f"{hub.host}/team/app:v1").digest == store.resolve(loaded).digest
    digests = {slipway("convert", name, "--tag", "same:v1").stdout.split()[1] for name in (loaded, f"{hub.host}/team/app:v1")}
    assert len(digests) == 1


def test_build_from_image_that_sealer_saved_embeds_its_container_images(
    loaded: str, hub: Registry, store: Store, slipway: Slipway, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Kubefile").write_text(f"FROM {loaded}\nLABEL team=market\n")
    slipway("build", "-t", "mine", "--discover", "declared", context)
    part = cloudimage.read(store, "mine").platforms[0]
    assert {one.name: one.digest for one in part.images.images} == names(hub)
    assert part.info.labels["team"] == "market"


def test_run_cluster_image_that_sealer_saved_is_refused_with_reason(
    sealer: Sealer, hub: Registry, store: Store, slipway: Slipway, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    (context / "scripts").mkdir(parents=True)
    (context / "scripts/init-kube.sh").write_text("#!/bin/bash\n")
    (context / "Metadata").write_text('{"version": "v1.22.15", "arch": "amd64"}\n')
    (context / "imageList").write_text(f"{hub.host}/acme/app:v2\n")
    (context / "Kubefile").write_text(
        "FROM scratch\nCOPY scripts scripts\nCOPY Metadata .\nCOPY imageList manifests/\n"
        'LABEL "cluster.alpha.sealer.io/cluster-runtime-type"="kubernetes"\n'
        'LABEL "cluster.alpha.sealer.io/cluster-runtime-version"="v1.22.15"\n'
    )
    sealer("build", "-f", "Kubefile", "-t", "local/kubernetes:v1", ".", cwd=context)
    sealer("save", "-o", tmp_path / "kubernetes.tar", "local/kubernetes:v1")
    slipway("load", "--from", tmp_path / "kubernetes.tar")
    name = "localhost/local/kubernetes:v1"
    assert "type        kube-installer, Kubernetes v1.22.15" in slipway("inspect", name).stdout
    slipway("convert", name, "--tag", "kubernetes:v1", "--strict")
    for image_name in (name, "kubernetes:v1"):
        refused = slipway("run", image_name, "--control-plane", "127.0.0.1", check=False)
        assert (refused.returncode, "sealer" in refused.stderr) == (4, True), refused.stderr
