"""What this ring needs on the machine: installed when it is missing and we may, never skipped; and a registry in place of public ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host import apt
from tests.integration.browser import Browser, browser
from tests.integration.cosign import Cosign
from tests.integration.registry import Registry, TokenServer, mirrored_by, registry, token_registry


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """A real registry, a real client of registries and a real container runtime, from the package archive."""
    apt.ensure("docker-registry", "docker-registry")
    apt.ensure("skopeo", "skopeo")
    apt.ensure("containerd", "containerd")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for all tests of a file."""
    with registry(tmp_path_factory.mktemp("upstream")) as running:
        yield running


@pytest.fixture
def mirrored(tmp_path: Path, upstream: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """docker.io and quay.io are a loopback registry."""
    conf = tmp_path / "registries.conf"
    conf.write_text(mirrored_by(upstream, "docker.io", "quay.io"))
    monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(conf))
    return upstream


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Registry]:
    """A registry for one test."""
    with registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, TokenServer]]:
    with token_registry(tmp_path_factory.mktemp("tokens")) as running:
        yield running


@pytest.fixture
def cosign(tmp_path: Path) -> Cosign:
    (tmp_path / "cosign").mkdir()
    return Cosign(tmp_path / "cosign")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running
