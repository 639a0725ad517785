"""Finding CloudImages in real registries: open ones, and those that want to know who asks."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Info, PlatformImage
from harness.cloudimage.search import DESCRIPTION
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import Platform
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.integration.registry import PASSWORD, USER, Registry, image, password_registry, push, registry
from tests.waiting import HANG

PLATFORMS = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))


class Site:
    def __init__(self, folder: Path, slipway: Slipway) -> None:
        self.store = Store(folder / "home/store")
        self.docker = folder / "docker"
        self.env = {"SLIPWAY_HOME": str(folder / "home"), "SLIPWAY_CACHE": str(folder / "cache"), "DOCKER_CONFIG": str(self.docker)}
        self._slipway = slipway

    def run(self, *words: str | Path, check: bool = True) -> Any:
        return self._slipway(*words, check=check, env=self.env, timeout=HANG)


@pytest.fixture
def site(tmp_path: Path, slipway: Slipway) -> Site:
    return Site(tmp_path, slipway)


def make(store: Store, name: str) -> cloudimage.CloudImage:
    layer = write_layer([LayerEntry("etc/name", "file", 0o644, name.encode())], store)
    info = Info(kubernetes="v1.36.3", labels={DESCRIPTION: f"The image {name}"})
    parts = [PlatformImage(platform, (layer.descriptor,), (layer.diff_id,), info=info) for platform in PLATFORMS]
    store.tag(name, cloudimage.write(store, parts))
    return cloudimage.read(store, name)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, slipway: Slipway) -> Iterator[tuple[Registry, dict[str, cloudimage.CloudImage]]]:
    """A registry with CloudImages, one of them in two versions, and a container image."""
    folder = tmp_path_factory.mktemp("filled")
    maker = Site(folder, slipway)
    with registry(folder / "registry") as running:
        made = {}
        for name in ("acme/queue:1.9", "acme/queue:1.10", "acme/web:latest", "other/queue:2"):
            made[name] = make(maker.store, f"{running.host}/{name}")
            maker.run("push", "--plain-http", f"{running.host}/{name}")
        push(running, "acme/queue-container", "latest", image("x"))
        yield running, made


def test_search_registry_finds_matching_cloudimages_with_few_requests(site: Site, filled: Any) -> None:
    running, made = filled
    before = len(running.requests("GET", "."))
    said = json.loads(site.run("search", "queue", "--plain-http", "--registry", f"{running.host}/acme", "-o", "json").stdout)
    asked = running.requests("GET", ".")[before:]
    newest = made["acme/queue:1.10"]
    assert [hit for hit in said["hits"] if hit["where"] == running.host] == [
        {
            "name": f"{running.host}/acme/queue:1.10",
            "where": running.host,
            "description": newest.platforms[0].info.labels[DESCRIPTION],
            "platforms": ["linux/amd64", "linux/arm64"],
            "kubernetes": "v1.36.3",
            "size": newest.size,
            "digest": newest.digest,
            "tags": 2,
            "folder": None,
        }
    ]
    # The list; tags and manifest of the container image; tags, index and two manifests a platform of the other.
    assert len(asked) <= 1 + 2 + 2 + 4
    assert not [path for path in asked if "/blobs/" in path or "other/" in path or "acme/web" in path]


def test_search_without_term_lists_catalogue_store_and_registry_as_table(site: Site, filled: Any) -> None:
    running, _ = filled
    make(site.store, "mine")
    rows = [line.split() for line in site.run("search", "--plain-http", "--registry", running.host).stdout.splitlines()]
    assert ["kubernetes", "catalogue"] in [row[:2] for row in rows]
    assert ["mine:latest", "store", "-", "linux/amd64,linux/arm64", "v1.36.3"] in [row[:5] for row in rows]
    far = [row[0] for row in rows if row[-3:-1] == ["The", "image"] and row[0].startswith(running.host)]
    assert far == [f"{running.host}/{name}" for name in ("acme/queue:1.10", "acme/web:latest", "other/queue:2")]


def test_search_tags_keeps_version_order_and_reports_unknown_repository(site: Site, filled: Any) -> None:
    running, _ = filled
    assert site.run("search", "--tags", "--plain-http", f"{running.host}/acme/queue").stdout == "1.9\n1.10\n"
    nothing = site.run("search", "--tags", "--plain-http", f"{running.host}/acme/nothing", check=False)
    assert (nothing.returncode, "no such repository" in nothing.stderr) == (4, True)


def test_search_password_registry_lists_repositories_only_with_login(site: Site, tmp_path: Path) -> None:
    with password_registry(tmp_path / "registry") as running:
        make(site.store, "web")
        name = f"{running.host}/acme/web:1"
        refused = site.run("search", "web", "--plain-http", "--registry", running.host, check=False)
        assert refused.returncode == 4
        assert "does not list its repositories" in refused.stderr
        assert "web:latest" in refused.stdout
        site.docker.mkdir()
        token = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (site.docker / "config.json").write_text(json.dumps({"auths": {running.host: {"auth": token}}}))
        site.run("push", "--plain-http", "web", name)
        assert name in site.run("search", "web", "--plain-http", "--registry", running.host).stdout


def test_search_unreachable_registry_is_reported_beside_hits_of_others(site: Site, filled: Any) -> None:
    running, _ = filled
    found = site.run("search", "web", "--plain-http", "--registry", "127.0.0.1:1", "--registry", running.host, check=False)
    assert found.returncode == 4
    assert f"{running.host}/acme/web:latest" in found.stdout
    assert "127.0.0.1:1" in found.stderr
