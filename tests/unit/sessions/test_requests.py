"""Words of the sessions that build and test images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import nox
import pytest

from harness import catalog
from harness.sessions.repository import Repository
from harness.sessions.requests import ImageRequest
from tests.unit.sessions.sessions import GREEN, Session

ROOT = Path(__file__).parents[3]


def entry(name: str) -> catalog.CatalogEntry:
    return catalog.find(ROOT / "kubefiles")[name]


def test_image_request_env_reaches_build_and_tests_but_not_bases(tmp_path: Path) -> None:
    wanted = ImageRequest.read("test-image", ["web", "-e", "Port=80", "--env", "Site=a b", "redis"])
    assert wanted.names == ("web", "redis")
    assert wanted.build_options(entry("web")) == ["--env", "Port=80", "--env", "Site=a b"]
    assert wanted.build_options(entry("kubernetes")) == []
    session = Session(tmp_path, 0, GREEN)
    assert Repository(ROOT, tmp_path).test(cast("nox.Session", session), [entry("web")], *wanted.test_options) == []
    (words,) = session.commands
    begin = words.index("--value")
    assert words[begin : begin + 4] == ("--value", "Port=80", "--value", "Site=a b")


def test_image_request_env_without_names_applies_to_all_images() -> None:
    assert ImageRequest.read("build-image", ["-e", "Port=80"]).build_options(entry("kubernetes")) == ["--env", "Port=80"]


def test_image_request_invalid_env_is_refused_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        ImageRequest.read("build-image", ["web", "-e", "sesame", "-e", "Port=80"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "1 of 2 values are not NAME=VALUE" in said
    assert "sesame" not in said


def test_image_request_env_without_names_skips_images_that_come_with_slipway() -> None:
    wanted = ImageRequest.read("build-image", ["-e", "Port=80"])
    assert wanted.build_options(dataclasses.replace(entry("kubernetes"), bundled=True)) == []


@pytest.mark.parametrize("session", ["build-image", "test-image"])
def test_image_request_secret_is_refused_without_its_value(session: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["web", "-e", "Port=80", "-e", "DbPassword=sesame", "-e", "Database=postgres://app:sesame@db/app"]
    with pytest.raises(SystemExit) as ended:
        ImageRequest.read(session, words)
    printed = capsys.readouterr().err
    assert ended.value.code == 2
    assert "-e DbPassword, Database: looks like a secret" in printed
    assert "sesame" not in printed
