"""Images in the engine: their names, and bases that are pulled or made."""

from __future__ import annotations

from typing import Any

import pytest

from harness.build import engine_images
from harness.build.engine_images import ensure_base, foreign_name, kept_name
from harness.errors import BuildError
from harness.host import docker
from harness.oci.model import Platform
from harness.oci.reference import Reference

ARM64 = Platform("linux", "arm64")


class Engine:
    """Keeps which image has which name. A registry has ``remote``: name -> image."""

    def __init__(self, names: dict[str, str], remote: dict[str, str]) -> None:
        self.names, self.remote = names, remote
        self.images = self.api = self

    def get(self, name: str) -> Image:
        if name not in self.names:
            raise docker.NotFound(name)
        return Image(self, self.names[name])

    def pull(self, name: str, platform: str = "") -> None:
        if name not in self.remote:
            raise docker.APIError("not found", explanation="no such image")
        self.names[name] = self.remote[name] + platform

    def remove(self, name: str, *, noprune: bool) -> None:
        assert noprune
        del self.names[name]


class Image:
    def __init__(self, engine: Engine, identity: str) -> None:
        self.engine, self.identity = engine, identity

    def tag(self, repository: str, tag: str) -> None:
        self.engine.names[f"{repository}:{tag}"] = self.identity


def ensured(engine: Engine, name: str, platform: Platform | None = None) -> dict[str, str]:
    client: Any = engine
    ensure_base(client, name, platform)
    return engine.names


def test_foreign_name_of_digest_is_shortened() -> None:
    assert foreign_name(f"debian@sha256:{'ab' * 32}", ARM64) == "debian:abababababab-linux-arm64"


def test_kept_name_tag_is_cut_to_engine_limit() -> None:
    name = kept_name(Reference.parse(f"slipway.dev/x:{'v' * 128}"), "ab" * 32)
    assert name == f"slipway.dev/x:{'v' * 100}-{'ab' * 6}"


def test_ensure_base_pulls_only_missing_image() -> None:
    assert ensured(Engine({"redis:7": "here"}, {"redis:7": "new"}), "redis:7") == {"redis:7": "here"}
    assert ensured(Engine({}, {"redis:7": "new"}), "redis:7") == {"redis:7": "new"}


@pytest.mark.parametrize("before", [{}, {"redis:7": "here"}])
def test_ensure_base_for_other_platform_keeps_native_name(before: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Platform, "host", staticmethod(lambda: Platform("linux", "amd64")))
    names = ensured(Engine(dict(before), {"redis:7": "new "}), "redis:7", ARM64)
    assert names == {**before, "redis:7-linux-arm64": "new linux/arm64"}


def test_ensure_base_debian_that_cannot_be_pulled_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(engine_images, "make_debian", lambda _client, name, suite, _platform: made.append((name, suite)))
    ensured(Engine({}, {}), "debian:bookworm-slim")
    assert made == [("debian:bookworm-slim", "bookworm")]
    with pytest.raises(BuildError, match="the base image redis:7 cannot be pulled: no such image"):
        ensured(Engine({}, {}), "redis:7")
