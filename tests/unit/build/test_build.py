"""What a build says about what it was given."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from harness import build, cloudimage
from harness.build import image_choice, image_discovery, image_lock, releases
from harness.build.image_discovery import DiscoveredImages
from harness.build.options import BuildOptions
from harness.build.platform_build import PlatformBuild, PlatformBuilder
from harness.build.sandbox_plan import SandboxPlan
from harness.cloudimage import BuiltHere, ImageSet, Info, PlatformImage
from harness.errors import BuildError, InputError, StoreError
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.registry import guarded
from harness.oci.registry.client import Client
from harness.oci.registry.sources import Source
from harness.oci.store import Store
from tests.unit.build.kubefiles import BOTH, SEVERAL
from tests.unit.build.rootfs_files import write
from tests.unit.cloudimage.examples import container_image


def test_build_and_check_resolve_source_and_version_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(SEVERAL)
    monkeypatch.setattr(image_choice, "site_answers", lambda _: True)
    asked: list[str] = []
    monkeypatch.setattr(image_choice, "site_lacks", asked.append)
    monkeypatch.setattr(releases, "_published", lambda *_: "v1.36.3")
    seen: list[BuildOptions] = []

    def stop(options: BuildOptions, **_: object) -> None:
        seen.append(options)
        raise BuildError("far enough")

    monkeypatch.setattr(build, "read_all", stop)
    with pytest.raises(BuildError, match="far enough"):
        build.build(BuildOptions(tmp_path, "x", platforms=BOTH), Store(tmp_path / "store"))
    with pytest.raises(BuildError, match="far enough"):
        build.check(BuildOptions(tmp_path, "x", platforms=BOTH))
    assert [dict(options.build_args) for options in seen] == [
        {"SOURCE": "release", "VERSION": "v1.36.3"},
        {"SOURCE": "modules", "VERSION": "v1.36.3"},
    ]
    assert asked == [f"https://site.invalid/release/v1.36.3/bin/linux/{BOTH[0].architecture}/kubeadm"]


@pytest.mark.parametrize("source", ["auto", "release", "modules"])
def test_check_of_whole_version_asks_no_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "Kubefile").write_text(SEVERAL.replace("example.test", "slipway.dev"))
    monkeypatch.setattr(image_choice, "site_lacks", lambda _: pytest.fail("it is asked"))
    found = build.check(BuildOptions(tmp_path, "x", platforms=BOTH[:1], build_args={"SOURCE": source, "VERSION": "v1.30.0"}))
    assert found["platform"] == str(BOTH[0])


def test_build_faulty_kubefile_raises_input_error_before_site_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(f"{SEVERAL}COYP a b\n")
    monkeypatch.setattr(image_choice, "site_answers", lambda _: pytest.fail("it is asked"))
    with pytest.raises(InputError, match="unknown instruction COYP"):
        build.build(BuildOptions(tmp_path, "x", platforms=BOTH), Store(tmp_path / "store"))


def test_build_unknown_on_image_raises_store_error_before_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PlatformBuilder, "build", lambda *_: pytest.fail("something is built"))
    (tmp_path / "Kubefile").write_text("FROM scratch\nCMD kubectl get nodes\n")
    with pytest.raises(StoreError, match="--on nothere: "):
        build.build(BuildOptions(tmp_path, "x", on="nothere"), Store(tmp_path / "store"))


FACTS = "kubernetes: v1.36.3\n"
MANIFEST = "spec:\n  containers:\n  - image: r.test/declared/web:1\n"
OF_CLUSTER = {"Kubefile": "FROM scratch\nCOPY etc/ etc/\n", "etc/slipway.yaml": FACTS}
OF_APPLICATION = {"Kubefile": "FROM scratch\nCMD kubectl get nodes\n"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A machine with a login for r.test, no registries.conf, and a base image with Kubernetes in its store."""
    login = {"auths": {"r.test": {"auth": base64.b64encode(b"user:hunter2").decode()}}}
    write(tmp_path, {"docker/config.json": json.dumps(login), "registries.conf": ""})
    for name, path in (("SLIPWAY_CACHE", "cache"), ("SLIPWAY_REGISTRIES_CONF", "registries.conf"), ("DOCKER_CONFIG", "docker")):
        monkeypatch.setenv(name, str(tmp_path / path))
    store = Store(tmp_path / "store")
    layer = write_layer([LayerEntry("etc/slipway.yaml", "file", source=FACTS.encode())], store)
    image = PlatformImage(Platform.host(), (layer.descriptor,), (layer.diff_id,), (), Info(kubernetes="v1.36.3"), ImageSet())
    store.tag("kubernetes", cloudimage.write(store, [image]))
    return store


class StartedError(Exception):
    """A throw-away cluster was to be started."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Source]]:
    """The sources of images of each throw-away cluster that a build starts; the build ends with StartedError there."""
    clusters: list[Sequence[Source]] = []

    def start(_: SandboxPlan, sources: Sequence[Source], *__: object) -> NoReturn:
        clusters.append(sources)
        raise StartedError

    for kind in image_discovery.CLUSTERS:
        monkeypatch.setitem(image_discovery.CLUSTERS, kind, start)
    return clusters


def test_build_cluster_pulls_with_logins_for_declared_and_allowed_repositories_only(
    machine: Store, started: list[Sequence[Source]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**OF_CLUSTER, "Kubefile": f"{OF_CLUSTER['Kubefile']}COPY manifests/ manifests/\n", "manifests/a.yaml": MANIFEST}
    context = write(tmp_path / "context", files)
    asked: set[tuple[str, str]] = set()

    def manifest(client: Client, reference: Reference, _: object) -> None:
        credential = client.session.credentials.find(reference.domain, reference.path)
        asked.add((reference.repository, credential.username if credential else "no login"))

    monkeypatch.setattr(guarded, "unsafe_address", lambda _: None)
    monkeypatch.setattr(Client, "manifest", manifest)
    with pytest.raises(StartedError):
        build.build(BuildOptions(context, "x", images_from="upstream", allow_login=("r.test/team/*",)), machine)
    (sources,) = started
    for name in ("declared/web:2", "team/a:1", "other:1"):
        for source in sources:
            source.manifest(Reference.parse(f"r.test/{name}"), ())
    assert asked == {("r.test/declared/web", "user"), ("r.test/team/a", "user"), ("r.test/other", "no login")}


RUN_AND_READ: list[tuple[dict[str, str], dict[str, Any]]] = [
    (OF_CLUSTER, {"discover": ("declared",)}),
    (OF_APPLICATION, {"discover": ("declared",)}),
    (OF_APPLICATION, {"on": "none"}),
]
"""Contexts of images that are run, and the options with which they are only read."""


@pytest.mark.parametrize(("files", "options"), RUN_AND_READ)
@pytest.mark.parametrize("kind", image_discovery.CLUSTERS)
def test_build_declared_only_or_on_none_starts_no_node(
    machine: Store, started: list[Sequence[Source]], tmp_path: Path, files: dict[str, str], options: dict[str, Any], kind: str
) -> None:
    context = write(tmp_path / "context", files)
    with pytest.raises(StartedError):
        build.build(BuildOptions(context, "x", cluster=kind), machine)
    started.clear()
    built = build.build(BuildOptions(context, "x", cluster=kind, **options), machine)
    assert (started, built.booted) == ([], False)


def test_build_argument_with_secret_in_cmd_is_warned_about_on_stderr(
    machine: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = write(tmp_path / "context", {"Kubefile": "FROM scratch\nARG DB_PASSWORD\nARG PORT\nCMD app ${DB_PASSWORD} ${PORT}\n"})
    build.build(BuildOptions(context, "x", on="none", build_args={"DB_PASSWORD": "hunter2x", "PORT": "8443"}), machine)
    shown = " ".join(capsys.readouterr().err.split())
    assert f"{context}/Kubefile:2: the value of ARG DB_PASSWORD looks like a secret and is written into the image in clear" in shown
    assert "ARG PORT" not in shown
    assert "hunter2x" not in shown


def test_build_lock_writes_digests_of_embedded_images_after_successful_build_only(
    machine: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = write(tmp_path / "context", OF_APPLICATION)
    found = container_image(machine, "r.test/found-by-running:1", b"a")
    (image,) = found.images
    built_here = dataclasses.replace(image, name="r.test/built:1", built=BuiltHere((), "images/built"))
    own_domain = dataclasses.replace(image, name="slipway.dev/own:1")
    discovered = DiscoveredImages(dataclasses.replace(found, images=(image, built_here, own_domain)), True, (), ())

    def fail(*_: object) -> NoReturn:
        raise BuildError("the run failed")

    monkeypatch.setattr(build, "discover_images", fail)
    with pytest.raises(BuildError, match="the run failed"):
        build.build(BuildOptions(context, "x", lock=True), machine)
    monkeypatch.setattr(build, "discover_images", lambda _, parts, __: {part.platform: discovered for part in parts})
    assert build.build(BuildOptions(context, "x"), machine).locked is None
    assert image_lock.beside(context / "Kubefile") == {}
    locked = build.build(BuildOptions(context, "x", lock=True), machine).locked
    assert locked == image_lock.beside(context / "Kubefile") == {"r.test/found-by-running:1": image.digest}


def test_from_registries_leaves_out_images_of_base_and_of_archives(machine: Store) -> None:
    first = container_image(machine, "r.test/of-base:1", b"a")
    rest = [container_image(machine, f"r.test/{name}:1", name.encode()) for name in ("archived", "made", "pulled")]
    base = PlatformImage(Platform.host(), (), (), (), Info(), first)
    archive = SimpleNamespace(images=[SimpleNamespace(name="r.test/archived:1")])
    own = SimpleNamespace(used={"r.test/made:1": "sha256:0"})
    part: Any = SimpleNamespace(base=base, archives=(archive,), own=own)
    discovered = first.union(rest[0]).union(rest[1]).union(rest[2])
    assert [name for name, _ in PlatformBuild.from_registries(part, discovered)] == ["r.test/pulled:1"]
